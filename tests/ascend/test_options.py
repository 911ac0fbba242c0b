# SPDX-License-Identifier: Apache-2.0
"""Every documented option of every folder reaches the adapter, in the one field that it reads; and docs/ascend.md."""
import os

import folders
import option_table
import pytest

from common import flags, npu_options
from common.runtime import open_runtime

CASES = folders.cases()
IDS = ['%s %s' % (folder.split('_')[0], option) for folder, option, _ in CASES]


@pytest.mark.smoke
@pytest.mark.parametrize('folder, option, case', CASES, ids=IDS)
def test_an_option_reaches_the_adapter(folder, option, case, fakes, tf, tmp_path, request):
    parsed = folders.parse(folder, case.words, tmp_path)
    os.makedirs(parsed.output_path)
    if case.ranks > 1:
        request.getfixturevalue('eight_ranks')
    if folder in folders.EAGER:
        options = npu_options.session_parameters(parsed, case.ranks)
        reached = option_table.eager_options(options)
    elif tf.__version__.startswith(('1.15', '2.6')):
        config = open_runtime(parsed, steps_per_run=folders.steps_per_run(parsed)).session_config()
        with tf.Graph().as_default(), tf.Session(config=config) as session:
            session.run(tf.no_op())  # the adapter's checks
        event, = folders.of(fakes.events, 'session')
        assert event['entries'] == 1 and event['remapping'] == 2 and event['memory_optimization'] == 2
        reached = event['options']
    else:
        config = tf.ConfigProto()
        npu_options.fill_session_config(config, npu_options.session_parameters(
            parsed, case.ranks, folders.steps_per_run(parsed)))
        reached = fakes.options_of(config)
        fakes.check_options(reached)
    expected = option_table.eager_names(case.expected) if folder in folders.EAGER else case.expected
    reached = folders.readable(reached, tmp_path)
    assert {name: reached.get(name) for name in expected} == expected
    if '--iterations_per_loop=1' in case.words:
        assert 'iterations_per_loop' not in reached and 'enable_data_pre_proc' not in reached
    if option == '(default)':
        assert not [name for name in reached if 'dump' in name or 'profil' in name or name == 'hcom_parallel']


def test_the_table_in_the_document_is_what_the_options_reach():
    with open(option_table.DOCUMENT, encoding='utf-8') as file:
        text = file.read()
    assert option_table.between_marks(text) == option_table.table(), 'run python tests/ascend/option_table.py'


@pytest.mark.smoke
def test_the_fields_are_the_contracts(fakes):
    assert {name: option.field for name, option in npu_options.OPTIONS.items()} == {
        name: fakes.FIELDS[name] for name in npu_options.OPTIONS}
    assert set(flags.PRECISION_MODES) == set(fakes.PRECISION_MODES)
    assert {name for name, mode in flags.PRECISION_MODES.items() if mode.mixlist} == (
        set(fakes.MIXED) & set(fakes.PRECISION_MODES))


def test_a_value_in_another_field_would_be_noticed_here(fakes, tf):
    config = tf.ConfigProto()
    npu_options.fill_session_config(config, {'use_off_line': True, 'precision_mode': 'force_fp32'})
    entry, = config.graph_options.rewrite_options.custom_optimizers
    entry.parameter_map['use_off_line'].i = 1
    with pytest.raises(fakes.Lost, match='use_off_line in field i'):
        fakes.options_of(config)


@pytest.mark.parametrize('folder', [folder for folder in folders.ALL if any(folder == case[0] for case in CASES)])
@pytest.mark.parametrize('words, said', [
    (['--precision_mode=fp16'], 'must_keep_origin_dtype'), (['--data_dump_step=1-'], '0|5|10-20'),
    (['--data_dump_step=20-10'], 'ascending'), (['--profiling=maybe'], 'True or False')])
def test_a_wrong_value_is_refused_before_tensorflow_is_there(folder, words, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        folders.parse(folder, words, tmp_path)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count('\n') == 1
