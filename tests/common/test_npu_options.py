# SPDX-License-Identifier: Apache-2.0
"""The options of an Ascend session: the right field each, the right values, the right folder, or one sentence."""
import json
import os

import pytest

from common import flags, npu_options
from common.files import DataError


def parsed(*words):
    parser = flags.Parser(prog='train.py')
    flags.add_run_group(parser, epochs=1, batch_size=1, precision_mode='allow_mix_precision')
    return parser.parse_args(list(words))


def test_options_reach_the_field_that_the_adapter_reads(tmp_path):
    tf = pytest.importorskip('tensorflow.compat.v1')
    (tmp_path / 'ops.json').write_text('{}')
    config = tf.ConfigProto()
    npu_options.fill_session_config(config, npu_options.session_parameters(parsed(
        '--data_dump_flag', '--data_dump_path=%s' % tmp_path, '--data_dump_step=0|5', '--profiling',
        '--profiling_dump_path=%s' % tmp_path, '--use_mixlist', '--mixlist_file=%s' % (tmp_path / 'ops.json')), 8, 10))
    rewrites = config.graph_options.rewrite_options
    entry, = rewrites.custom_optimizers
    options = entry.parameter_map
    assert entry.name == 'NpuOptimizer' and options['use_off_line'].b and options['hcom_parallel'].b
    assert options['precision_mode'].s == b'allow_mix_precision'
    assert options['enable_dump'].b and options['dump_step'].s == b'0|5'
    assert options['dump_path'].s.decode() == str(tmp_path / 'data_dump')
    assert options['profiling_mode'].b
    assert json.loads(options['profiling_options'].s.decode())['output'] == str(tmp_path)
    assert options['modify_mixlist'].s.endswith(b'ops.json')
    assert options['iterations_per_loop'].i == 10 and options['enable_data_pre_proc'].b
    assert rewrites.remapping == rewrites.OFF and rewrites.memory_optimization == rewrites.OFF


@pytest.mark.parametrize('words, said', [
    (['--over_dump'], '--data_dump_path'), (['--profiling', '--profiling_dump_path=/nowhere'], '/nowhere'),
    (['--use_mixlist', '--mixlist_file=/'], '--mixlist_file'), (['--fusion_off_flag'], '--fusion_off_file'),
    (['--use_mixlist', '--precision_mode=force_fp32', '--mixlist_file=FILE'], 'found force_fp32'),
    (['--use_mixlist', '--mixlist_file=BROKEN'], 'a JSON object'), (['--autotune'], 'AOE_MODE=2'),
    (['--over_dump', '--data_dump_flag'], 'one kind')])
def test_what_the_session_would_lose_is_refused(words, said, tmp_path):
    (tmp_path / 'ops.json').write_text('{}')
    (tmp_path / 'broken.json').write_text('{"black-list": ')
    words = [word.replace('FILE', str(tmp_path / 'ops.json')).replace('BROKEN', str(tmp_path / 'broken.json'))
             for word in words]
    with pytest.raises(DataError, match=said):
        npu_options.session_parameters(parsed(*words), 1)


GOOD = {'precision_mode': 'allow_mix_precision'}


@pytest.mark.parametrize('wrong, said', [
    ({'precision_mode': 'fp16'}, 'must_keep_origin_dtype'), ({'precision_mode': b'force_fp16'}, 'force_fp16'),
    ({'use_off_line': 1}, 'True or False'), ({'iterations_per_loop': True}, 'at least 1'),
    ({'iterations_per_loop': 0}, 'at least 1'), ({'iterations_per_loop': '10'}, 'at least 1'),
    ({'iterations_per_loop': 10}, 'enable_data_pre_proc'), ({'enable_dump': True}, 'dump_path'),
    ({'enable_dump_debug': True}, 'dump_path'), ({'dump_path': '/nowhere'}, 'existing folder'),
    ({'dump_mode': 'everything'}, 'input, output, all'), ({'dump_debug_mode': 'core'}, 'aicore_overflow'),
    ({'dump_step': '5-3'}, 'ascending'), ({'dump_step': '|'.join('0' * 101)}, 'at most 100'),
    ({'profiling_options': 'training_trace'}, 'a JSON object'), ({'precision': 'x'}, 'one of dump_debug_mode'),
    ({'enable_dump': True, 'enable_dump_debug': True, 'dump_path': os.sep}, 'one kind of dump')])
def test_a_wrong_value_is_refused_with_what_is_documented(wrong, said):
    npu_options.check(dict(GOOD, iterations_per_loop=2, enable_data_pre_proc=True, dump_step='0|5|10-20'))
    with pytest.raises(DataError, match=said):
        npu_options.check(dict(GOOD, **wrong))


def test_overflow_and_data_never_share_a_folder(tmp_path):
    places = []
    for flag in ('--over_dump', '--data_dump_flag'):
        options = npu_options.session_parameters(parsed(flag, '--dump_path=%s' % tmp_path), 1)
        places.append(options['dump_path'])
        assert os.path.isdir(places[-1])
    assert places == [str(tmp_path / 'overflow_dump'), str(tmp_path / 'data_dump')]
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='existing folder'):
        npu_options.session_parameters(parsed('--over_dump', '--data_dump_path=%s' % (tmp_path / 'file')), 1)
