# SPDX-License-Identifier: Apache-2.0
"""The options of an Ascend session: the right field each, the right folder, or one sentence."""
import json

import pytest

from common import flags, npu_options
from common.datacheck import DataError


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
        '--profiling_dump_path=%s' % tmp_path, '--use_mixlist', '--mixlist_file=%s' % (tmp_path / 'ops.json')), 8))
    rewrites = config.graph_options.rewrite_options
    entry, = rewrites.custom_optimizers
    options = entry.parameter_map
    assert entry.name == 'NpuOptimizer' and options['use_off_line'].b and options['hcom_parallel'].b
    assert options['precision_mode'].s == b'allow_mix_precision'
    assert options['enable_dump'].b and options['dump_step'].s == b'0|5' and options['dump_path'].s
    assert options['profiling_mode'].b
    assert json.loads(options['profiling_options'].s.decode())['output'] == str(tmp_path)
    assert options['modify_mixlist'].s.endswith(b'ops.json')
    assert rewrites.remapping == rewrites.OFF and rewrites.memory_optimization == rewrites.OFF


@pytest.mark.parametrize('words, said', [
    (['--over_dump'], '--data_dump_path'), (['--profiling', '--profiling_dump_path=/nowhere'], '/nowhere'),
    (['--use_mixlist', '--mixlist_file=/nowhere'], '--mixlist_file'), (['--fusion_off_flag'], '--fusion_off_file'),
    (['--use_mixlist', '--precision_mode=force_fp32'], 'force_fp32'), (['--over_dump', '--data_dump_flag'], 'one kind'),
])
def test_what_the_session_would_lose_is_refused(words, said):
    with pytest.raises(DataError, match=said):
        npu_options.session_parameters(parsed(*words), 1)
