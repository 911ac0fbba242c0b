# SPDX-License-Identifier: Apache-2.0
"""Which device is chosen and why, and what is said when Ascend's packages, libraries or environment are not right."""
import os
import types

import folders
import pytest

from common.files import DataError
from common.runtime import _choose_device, open_runtime


def flags_of(tmp_path, *words):
    parsed = folders.parse(folders.SHUFFLENET, words, tmp_path)
    os.makedirs(parsed.output_path, exist_ok=True)
    return parsed


def package_of(tf):
    return 'npu_bridge' if tf.__version__.startswith('1.15') else 'npu_device'


def broken_package(tmp_path, tf, line):
    """A package of the right name whose import fails."""
    inside = tmp_path / 'broken' / package_of(tf)
    inside.mkdir(parents=True)
    (inside / '__init__.py').write_text(line if package_of(tf) == 'npu_device' else '')
    (inside / 'npu_init.py').write_text(line)
    return str(tmp_path / 'broken')


@pytest.mark.smoke
def test_auto_takes_the_npu_where_the_adapter_fits(adapter, tf, tmp_path):
    parsed = flags_of(tmp_path)
    for wanted, reason in (('auto', '%s is installed'), ('npu', 'asked, by %s')):
        parsed.device = wanted
        opened = open_runtime(parsed)
        assert (opened.device, opened.reason) == ('npu', reason % package_of(tf))
    fields = opened.describe()
    assert fields['device'] == 'npu' and fields['device_reason'] == reason % package_of(tf)
    assert opened.compute_dtype == tf.float32
    imported = folders.of(adapter.events, 'import')
    assert [event['package'] for event in imported] == [package_of(tf)]  # once, and not the other one
    parsed.device = 'cpu'
    assert open_runtime(parsed).device == 'cpu'


@pytest.mark.smoke
def test_without_the_package(environment, tf, tmp_path):
    parsed = flags_of(tmp_path)
    parsed.device = 'auto'
    assert open_runtime(parsed).reason == 'no NPU package, no GPU'
    parsed.device = 'npu'
    with pytest.raises(DataError) as error:
        open_runtime(parsed)
    if tf.__version__.startswith(('1.15', '2.6')):
        assert 'the package %s for TensorFlow' % package_of(tf) in str(error.value)
        assert "install CANN's TensorFlow adapter" in str(error.value)
    else:
        assert 'expected TensorFlow 1.15 or 2.6' in str(error.value) and tf.__version__ in str(error.value)


@pytest.mark.smoke
def test_an_adapter_for_another_tensorflow_is_no_reason_for_the_cpu(environment, tf, tmp_path):
    other = 'npu_device' if tf.__version__.startswith('1.15') else 'npu_bridge'
    (tmp_path / 'other' / other).mkdir(parents=True)
    (tmp_path / 'other' / other / '__init__.py').write_text('raise AssertionError("imported")')
    environment.syspath_prepend(str(tmp_path / 'other'))
    parsed = flags_of(tmp_path)
    parsed.device = 'auto'
    with pytest.raises(DataError, match='2.6 with npu_device; found %s with TensorFlow %s; ' % (other, tf.__version__)):
        open_runtime(parsed)
    documented = types.SimpleNamespace(__version__='2.4.1', config=tf.config)  # CutMix's
    with pytest.raises(DataError, match='with TensorFlow 2.4.1; install .* or give --device=cpu'):
        _choose_device(documented, 'auto')
    parsed.device = 'cpu'
    assert open_runtime(parsed).reason == 'asked'
    parsed.device = 'npu'
    said = 'only %s' % other if tf.__version__.startswith(('1.15', '2.6')) else 'expected TensorFlow 1.15 or 2.6'
    with pytest.raises(DataError, match=said):
        open_runtime(parsed)


@pytest.mark.smoke
@pytest.mark.parametrize('line, said', [
    ('raise ImportError("libge_runner.so: cannot open shared object file")', 'libge_runner.so'),
    ('import hccl_that_is_missing', "No module named 'hccl_that_is_missing'"),
    ('from tensorflow.python.framework import errors\n'
     'raise errors.NotFoundError(None, None, "_npu_ops.so: undefined symbol")', '_npu_ops.so')])
def test_a_missing_library_is_no_missing_package(adapter, tf, tmp_path, environment, line, said):
    import sys
    environment.setattr(sys, 'path', [path for path in sys.path if path != folders.FAKES])
    environment.syspath_prepend(broken_package(tmp_path, tf, line))
    for wanted in ('npu', 'auto'):
        parsed = flags_of(tmp_path)
        parsed.device = wanted
        with pytest.raises(DataError) as error:
            open_runtime(parsed)
        assert 'it is installed, but' in str(error.value) and said in str(error.value)
        assert 'set_env.sh' in str(error.value)


@pytest.mark.smoke
def test_the_environment_is_set_before_the_adapter_is_imported(adapter, tf, tmp_path, eight_ranks):
    runtime = open_runtime(flags_of(tmp_path))
    assert (runtime.rank, runtime.ranks) == (3, 8) and os.environ['JOB_ID']
    assert runtime.session_config().graph_options.rewrite_options.custom_optimizers[0].parameter_map['hcom_parallel'].b


@pytest.mark.smoke
@pytest.mark.parametrize('changed, said', [
    ({'RANK_TABLE_FILE': ''}, 'RANK_TABLE_FILE: expected the rank table of the 8 ranks'),
    ({'RANK_TABLE_FILE': '/nowhere.json'}, '/nowhere.json'), ({'RANK_ID': ''}, 'RANK_ID: expected'),
    ({'RANK_ID': '8'}, 'RANK_ID: expected'), ({'RANK_SIZE': 'eight'}, 'RANK_SIZE: expected'),
    ({'RANK_SIZE': '0'}, 'RANK_SIZE: expected'), ({'CM_CHIEF_IP': '10.0.0.1'}, 'CM_CHIEF_IP'),
    ({'CM_WORKER_SIZE': '8'}, 'CM_WORKER_SIZE'), ({'ASCEND_DEVICE_ID': 'abc'}, 'ASCEND_DEVICE_ID: expected'),
    ({'ASCEND_DEVICE_ID': '-1'}, 'ASCEND_DEVICE_ID: expected')])
def test_an_environment_that_the_adapter_would_stumble_over(adapter, tmp_path, eight_ranks, environment, changed, said):
    for name, value in changed.items():
        environment.setenv(name, value)
    with pytest.raises(DataError, match=said):
        open_runtime(flags_of(tmp_path))
    assert not folders.of(adapter.events, 'import')


EMPTY = ('ASCEND_DEVICE_ID', 'CM_CHIEF_IP', 'CM_WORKER_SIZE', 'JOB_ID', 'NPU_LOOP_SIZE')


@pytest.mark.smoke
@pytest.mark.parametrize('ranks', [1, 8])
def test_an_empty_variable_is_one_that_is_not_set(ranks, adapter, tf, tmp_path, environment, request):
    if ranks == 8:
        request.getfixturevalue('eight_ranks')
    for name in EMPTY + (() if ranks == 8 else ('RANK_SIZE', 'RANK_ID', 'RANK_TABLE_FILE')):
        environment.setenv(name, '')
    runtime = open_runtime(flags_of(tmp_path))
    assert runtime.ranks == ranks and not runtime.warnings
    assert not [name for name in os.environ if name.startswith(('RANK_', 'CM_', 'ASCEND_')) and not os.environ[name]]
    if ranks == 8:
        variable = tf.get_variable('variable', [1])
        runtime.wrap_optimizer(tf.train.GradientDescentOptimizer(0.1)).compute_gradients(variable[0])  # asks JOB_ID


@pytest.mark.smoke
def test_one_rank_does_not_wait_for_the_others_of_a_table(adapter, tmp_path, environment):
    environment.setenv('RANK_TABLE_FILE', str(tmp_path / 'table.json'))
    runtime = open_runtime(flags_of(tmp_path))
    assert 'RANK_TABLE_FILE' not in os.environ and 'RANK_TABLE_FILE' in runtime.warnings[0]


@pytest.mark.smoke
def test_the_line_that_proves_the_npu_is_not_filtered_away(adapter, tf, tmp_path, environment):
    environment.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
    runtime = open_runtime(flags_of(tmp_path))
    assert os.environ['TF_CPP_MIN_LOG_LEVEL'] == '0' and 'TF_CPP_MIN_LOG_LEVEL=2' in runtime.warnings[0]
    parsed = flags_of(tmp_path)
    parsed.device = 'cpu'
    environment.delenv('TF_CPP_MIN_LOG_LEVEL')
    open_runtime(parsed)
    assert os.environ['TF_CPP_MIN_LOG_LEVEL'] == '2'
