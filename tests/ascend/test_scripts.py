# SPDX-License-Identifier: Apache-2.0
"""The documented scripts, some steps each beside the stand-ins: alone, and as one of eight ranks.

A launch script is run as it is; of one for eight ranks its flags are, in one process that is told to be a rank of them.
"""
import os
import sys

import folders
import numpy as np
import pytest
from folders import CSPNET, CUTMIX, SHUFFLENET, SSD, of

tensorflow = pytest.importorskip('tensorflow')
RELEASE = '.'.join(tensorflow.__version__.split('.')[:2])
SHORT = {
    CSPNET: ['--synthetic', '--train_steps=2', '--batch_size=4'],
    SSD: ['--synthetic', '--preset=tiny', '--train_steps=2', '--batch_size=1', '--num_workers=0'],
    CUTMIX: ['--synthetic', '--train_steps=2', '--batch_size=8'],
    SHUFFLENET: ['--synthetic', '--max_train_steps=4', '--batch_size=2', '--iterations_per_loop=2', '--num_classes=10',
                 '--save_summary_steps=1'],
}


def needs(*releases):
    """Runs a test on these releases of TensorFlow; elsewhere it is skipped with the reason."""
    def mark(test):
        return pytest.mark.smoke(pytest.mark.skipif(RELEASE not in releases, reason=(
            'needs TensorFlow %s with its adapter: run_tests.sh runs this where it finds a python3.7 or a python3.9'
            % ' or '.join(releases)))(test))
    return mark


def launch(folder, script, tmp_path, *words, **environment):
    return folders.run(['bash', os.path.join('test', script), '--device=npu', '--output_path=%s' % (tmp_path / 'run')]
                       + SHORT[folder] + list(words), folder, tmp_path, **environment)


def as_rank_of_eight(folder, script, rank, tmp_path, *words):
    flags = folders.script_flags(folder, script)
    ranks = ['--rank_size=8'] if folder == SHUFFLENET else []
    return folders.run(
        [sys.executable, 'train.py'] + flags + ranks + ['--device=npu', '--output_path=%s' % (tmp_path / 'run')]
        + SHORT[folder] + list(words), folder, tmp_path, RANK_SIZE='8', RANK_ID=str(rank), ASCEND_DEVICE_ID=str(rank),
        RANK_TABLE_FILE=os.path.join(folders.ROOT, SHUFFLENET, 'test', '8p.json'))


def check_session(events, ranks, loops=1, asked=1):
    """What every session must have set: the training's and, of several ranks, those that ask rank 0 for the step and,
    of SSD, for whose colours its weights are."""
    session = of(events, 'session')[-1]
    assert of(events, 'session') == [session] * (1 + asked if ranks > 1 else 1)
    options = session['options']
    assert session['entries'] == 1 and session['remapping'] == session['memory_optimization'] == 2
    assert options['use_off_line'] is True and options['precision_mode'].startswith('allow_')
    assert options.get('hcom_parallel') == (True if ranks > 1 else None)
    assert (options.get('iterations_per_loop', 1), options.get('enable_data_pre_proc')) == (
        loops, True if loops > 1 else None)
    scaled, = of(events, 'loss_scale')
    assert scaled['is_distributed'] is (ranks > 1)
    assert len(of(events, 'import')) == 1
    return options


def check_broadcast(events):
    """Weights, slots, moving statistics and the step of a session came from rank 0, one at a time."""
    names = [event['variables'] for event in of(events, 'broadcast')]
    assert all(len(name) == 1 for name in names)
    flat = ' '.join(name for name, in names)
    assert 'global_step' in flat and 'Momentum' in flat and 'loss_scale' in flat
    return flat


def used(said):
    return 'INFO, your task have used Ascend NPU' in said and 'Final Performance sec/step' in said


@needs('2.6')
def test_cspnet_alone(tmp_path):
    code, said, events = launch(CSPNET, 'train_full_1p.sh', tmp_path, '--over_dump=True', '--profiling=True')
    assert code == 0 and used(said), said
    options = check_session(events, 1)
    assert options['enable_dump_debug'] and options['dump_path'] == str(tmp_path / 'run' / 'overflow_dump')
    assert options['precision_mode'] == 'allow_mix_precision' and options['profiling_mode']
    assert not of(events, 'broadcast') and 'loss_scale=dynamic' in said


@needs('1.15')
def test_cspnet_as_one_of_eight(tmp_path):
    code, said, events = as_rank_of_eight(CSPNET, 'train_performance_1p.sh', 3, tmp_path)
    assert code == 0, said
    check_session(events, 8)
    assert 'moving_variance' in check_broadcast(events)


@needs('1.15')
def test_ssd_alone(tmp_path):
    code, said, events = launch(SSD, 'train_full_1p.sh', tmp_path, '--data_dump=True', '--dump_path=%s' % tmp_path)
    assert code == 0 and used(said), said
    options = check_session(events, 1)
    assert options['precision_mode'] == 'allow_fp32_to_fp16' and options['enable_dump'] is True
    assert options['dump_path'] == str(tmp_path / 'data_dump') and options['dump_step'] == '10'


@needs('1.15')
def test_ssd_as_one_of_eight(tmp_path):
    code, said, events = as_rank_of_eight(SSD, 'train_performance_8p.sh', 7, tmp_path)
    assert code == 0, said
    check_session(events, 8, asked=2)
    assert 'conv4_3' in check_broadcast(events)


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    """Forty drawn images in ten classes as train_shards/, twenty as eval_shards/."""
    from tools import sampledata
    folder = tmp_path_factory.mktemp('shards')
    sampledata.draw_imagenet(str(folder / 'images'), train=40, test=20)
    commands = [['explore_imagenet.py', '--data_dir=%s' % (folder / 'images'), '--output=%s' % (folder / 'tables')]] + [
        ['create_tfrecords.py', '--metadata_file=%s' % (folder / 'tables' / (name + '_metadata.csv')),
         '--output=%s' % folder, '--labels=%s' % (folder / 'tables' / 'integer_encoding.json'), '--num_shards=2']
        for name in ('training', 'validation')]
    for command in commands:
        code, said, _ = folders.run([sys.executable] + command, SHUFFLENET, folder)
        assert code == 0, said
    return str(folder)


@needs('1.15')
def test_shufflenet_trains_and_evaluates_with_loops_on_the_device(tmp_path, shards):
    # 40 images, 2 a step: 20 steps an epoch, of which loops of 7 leave 6
    code, said, events = launch(SHUFFLENET, 'train_full_1p.sh', tmp_path, '--data_dir=%s' % shards, '--synthetic=False',
                                '--iterations_per_loop=7', '--max_train_steps=14')
    assert code == 0 and used(said), said
    assert check_session(events, 1, 7)['precision_mode'] == 'allow_fp32_to_fp16'
    assert len(of(events, 'loop')) == 2 and '[eval] step=14' in said and 'images=20' in said
    assert '[train] step=7 ' in said and 'wait for the end of a loop' in said  # --save_summary_steps=1, in loops of 7


@needs('2.6')
def test_shufflenet_as_one_of_eight(tmp_path):
    code, said, events = as_rank_of_eight(SHUFFLENET, 'train_full_8p.sh', 5, tmp_path)
    assert code == 0, said
    check_session(events, 8, 2)
    assert 'ExponentialMovingAverage' in check_broadcast(events)
    assert not (tmp_path / 'run').exists()  # rank 5 writes nothing


@needs('2.6')
def test_shufflenet_as_the_first_of_eight(tmp_path):
    code, said, events = as_rank_of_eight(SHUFFLENET, 'train_performance_8p.sh', 0, tmp_path)
    assert code == 0 and 'steps_per_run=2' in said and 'ranks=8' in said, said
    check_session(events, 8, 2)
    check_broadcast(events)


@needs('1.15')
def test_a_loop_on_the_device_trains_as_steps_do(tmp_path):
    def train(output, *words):
        code, said, events = folders.run(
            ['bash', os.path.join('test', 'train_performance_1p.sh'), '--output_path=%s' % (tmp_path / output)]
            + SHORT[SHUFFLENET] + ['--max_train_steps=6', '--save_every=3', '--iterations_per_loop=3',
                                   '--warmup_epochs=0.01'] + list(words), SHUFFLENET, tmp_path)
        assert code == 0, said
        import tensorflow.compat.v1 as tf
        reader = tf.train.load_checkpoint(str(tmp_path / output / 'ckpt' / 'step-00000006' / 'model'))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}, said, events
    stepwise, _, events = train('cpu', '--device=cpu')
    assert not events
    looped, said, events = train('npu', '--device=npu', '--precision_mode=force_fp32',
                                 '--resume=%s' % (tmp_path / 'cpu' / 'ckpt' / 'step-00000003'))
    assert used(said) and len(of(events, 'loop')) == 1 and not of(events, 'loss_scale')
    assert set(stepwise) == set(looped) and stepwise['global_step'] == looped['global_step'] == 6
    for name in stepwise:
        np.testing.assert_allclose(looped[name], stepwise[name], rtol=1e-3, atol=1e-5, err_msg=name)


@needs('1.15')
def test_steps_that_are_no_whole_loops_are_refused(tmp_path):
    code, said, events = folders.run(
        [sys.executable, 'train.py', '--device=npu', '--output_path=%s' % (tmp_path / 'run')] + SHORT[SHUFFLENET]
        + ['--max_train_steps=5'], SHUFFLENET, tmp_path)
    assert code == 1 and '--iterations_per_loop: expected a divisor of the 5 steps' in said, said
    assert not of(events, 'session')


def check_eager(events, ranks):
    opened, = of(events, 'open')
    assert opened['ranks'] == ranks and opened['options']['precision_mode'] == 'allow_mix_precision'
    assert of(events, 'import')[0]['loop_size'] == '1'  # a call runs one step
    scaled, = of(events, 'loss_scale')
    assert (scaled['kind'], scaled['dynamic'], scaled['initial']) == ('NpuLossScaleOptimizer', True, 4096.0)
    assert scaled['around'] is None  # what comes to it is averaged: all ranks decide the same
    order = [event['event'] for event in events]
    assert order.index('open') < order.index('as_default') < order.index('loss_scale')
    return opened['options']


@needs('2.6')
@pytest.mark.parametrize('script, words', [
    ('train_full_1p.sh', ['--use_mixlist', '--data_dump_flag=True']), ('train_performance_1p_dynamic_eval.sh', [])])
def test_cutmix_alone(script, words, tmp_path):
    code, said, events = launch(CUTMIX, script, tmp_path, *words)
    assert code == 0 and used(said), said
    options = check_eager(events, 1)
    assert not of(events, 'broadcast') and not of(events, 'distributed')
    if words:
        assert options['modify_mixlist'].endswith('ops_info.json') and options['dump_config.enable_dump'] == '1'
        assert options['dump_config.dump_path'] == str(tmp_path / 'run' / 'data_dump')


@needs('2.6')
def test_cutmix_as_one_of_eight(tmp_path):
    code, said, events = as_rank_of_eight(CUTMIX, 'train_performance_1p_static_eval.sh', 0, tmp_path)
    assert code == 0 and 'variables_on=NPU:0' in said, said
    assert check_eager(events, 8)['hcom_parallel'] == '1'
    broadcast, = of(events, 'broadcast')
    names = ' '.join(broadcast['variables'])
    assert 'moving_variance' in names and 'momentum' in names and 'iter' in names
    assert len(broadcast['variables']) == len(set(broadcast['variables']))
    assert of(events, 'reduced')


@needs('2.6')
def test_cutmix_refuses_another_loop_size(tmp_path):
    code, said, events = folders.run(
        [sys.executable, 'train.py', '--device=npu', '--output_path=%s' % (tmp_path / 'run')] + SHORT[CUTMIX],
        CUTMIX, tmp_path, NPU_LOOP_SIZE='10')
    assert code == 1 and 'NPU_LOOP_SIZE: expected 1' in said and not events, said


@needs('2.6')
def test_cutmix_says_that_the_device_is_busy(tmp_path):
    code, said, _ = folders.run([sys.executable, 'train.py', '--device=npu', '--output_path=%s' % (tmp_path / 'run')]
                                + SHORT[CUTMIX], CUTMIX, tmp_path, FAKE_ASCEND_BUSY='1', ASCEND_DEVICE_ID='2')
    assert code == 1 and 'ASCEND_DEVICE_ID=2: expected an NPU that opens' in said and 'busy' in said, said

