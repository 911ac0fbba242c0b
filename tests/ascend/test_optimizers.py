# SPDX-License-Identifier: Apache-2.0
"""Averaging, loss scaling, broadcast and loops of the session mode, on a graph of three weights."""
import folders
import numpy as np
import pytest

from common import graph_files
from common.backends import npu
from common.runtime import open_runtime

HUGE = 2.0 ** 120  # times INITIAL_SCALE it is beyond float32's end, after some halvings it is not


def start(tmp_path, *words, **kwargs):
    import os
    parsed = folders.parse(folders.CSPNET, words, tmp_path)
    os.makedirs(parsed.output_path, exist_ok=True)
    return open_runtime(parsed, **kwargs)


def graph(runtime, slope=1.0):
    """loss = slope * (w . x); one step of momentum, a moving mean and the step."""
    tf = runtime.tf
    weights = tf.get_variable('weights', [3], tf.float32, tf.zeros_initializer(), use_resource=True)
    moving = tf.get_variable('moving_mean', [3], tf.float32, tf.ones_initializer(), trainable=False, use_resource=True)
    step = tf.train.get_or_create_global_step()
    loss = slope * tf.reduce_sum(weights * tf.constant([1.0, 2.0, 3.0]))
    optimizer = runtime.wrap_optimizer(tf.train.MomentumOptimizer(0.5, 0.9))
    gradients = optimizer.compute_gradients(loss)
    update = optimizer.apply_gradients(gradients, global_step=step)
    return weights, moving, step, gradients, update


def open_session(runtime):
    session = runtime.open_session()
    session.run(runtime.tf.global_variables_initializer())
    return session


@pytest.mark.smoke
@pytest.mark.parametrize('mode', folders.load_train(folders.CSPNET).flags.PRECISION_MODES)
@pytest.mark.parametrize('ranks', [1, 8])
def test_loss_scaling_stands_around_the_distributed_wrapper(mode, ranks, adapter, tf, tmp_path, request):
    if ranks == 8:
        request.getfixturevalue('eight_ranks')
    runtime = start(tmp_path, '--precision_mode=' + mode)
    weights, _, step, gradients, update = graph(runtime)
    scales = mode in ('allow_mix_precision', 'allow_mix_precision_fp16', 'allow_fp32_to_fp16', 'force_fp16',
                      'cube_fp16in_fp32out')
    found = folders.of(adapter.events, 'loss_scale')
    assert len(found) == scales and runtime.describe()['loss_scale'] == ('dynamic' if scales else 'off')
    if scales:
        assert found[0]['is_distributed'] is (ranks > 1)  # exactly then
        if tf.__version__.startswith('1.15'):
            assert found[0]['kind'] == 'NPULossScaleOptimizer'
            assert found[0]['around'] == ('a distributed optimizer' if ranks > 1 else None)
            manager, = folders.of(adapter.events, 'manager')
            assert manager == {'event': 'manager', 'initial': npu.INITIAL_SCALE, 'patience': 1, 'down': 0.5}
        else:
            assert found[0]['kind'] == 'NPUOptimizer' and found[0]['is_loss_scale'] is True
    averaged_outside = ranks > 1 and not (scales and tf.__version__.startswith('2.'))
    assert len(folders.of(adapter.events, 'distributed')) == averaged_outside
    assert isinstance(update, tf.Operation)
    with open_session(runtime) as session:
        for _ in range(3):
            session.run(update)
        # momentum 0.9, rate 0.5: 1, 1.9 and 2.71 times half the gradient
        np.testing.assert_allclose(session.run(weights), -2.805 * np.array([1, 2, 3]), rtol=1e-6)
        np.testing.assert_allclose(session.run(gradients[0][0]), [1, 2, 3], rtol=1e-6)  # unscaled, averaged once
        assert session.run(step) == 3


@pytest.mark.smoke
@pytest.mark.parametrize('inf_nan', ['', '1'])
@pytest.mark.parametrize('ranks', [1, 8])
def test_an_overflow_skips_the_step_and_costs_no_dozens(ranks, inf_nan, adapter, tf, tmp_path, environment, request):
    environment.setenv('FAKE_ASCEND_INF_NAN', inf_nan)
    if ranks == 8:
        request.getfixturevalue('eight_ranks')
    runtime = start(tmp_path, '--precision_mode=force_fp16')
    weights, _, step, _, update = graph(runtime, slope=HUGE)
    with open_session(runtime) as session:
        skipped = 0
        while not session.run(weights).any():
            session.run(update)
            skipped += 1
            assert session.run(step) == skipped  # a skipped step counts: the loop has done it
            assert skipped <= 12
        assert skipped > 1
        np.testing.assert_allclose(session.run(weights), -0.5 * HUGE * np.array([1, 2, 3]), rtol=1e-6)
        scale = [v for v in tf.global_variables() if v.op.name == 'loss_scale'][0]
        assert session.run(scale) == npu.INITIAL_SCALE / 2 ** (skipped - 1)


@pytest.mark.smoke
@pytest.mark.parametrize('inf_nan', ['', '1'])
def test_an_overflow_elsewhere_skips_the_step_here(inf_nan, adapter, tf, tmp_path, environment, eight_ranks):
    environment.setenv('FAKE_ASCEND_INF_NAN', inf_nan)
    environment.setenv('FAKE_ASCEND_OVERFLOW_ELSEWHERE', '1')
    runtime = start(tmp_path, '--precision_mode=force_fp16')
    weights, _, step, _, update = graph(runtime)
    with open_session(runtime) as session:
        session.run(update)
        scale = [v for v in tf.global_variables() if v.op.name == 'loss_scale'][0]
        assert session.run(scale) == npu.INITIAL_SCALE / 2 and session.run(step) == 1
        np.testing.assert_array_equal(session.run(weights), [0, 0, 0])


@pytest.mark.smoke
def test_the_scale_moves(tf, monkeypatch):
    monkeypatch.setattr(npu, 'GROWTH_STEPS', 3)
    manager = npu.DynamicLossScale(tf)
    finite = tf.placeholder(tf.bool, [])
    read, update = manager.get_loss_scale(), manager.update_loss_scale(finite)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())

        def after(*steps):
            for was_finite in steps:
                session.run(update, {finite: was_finite})
            return session.run(read)
        assert session.run(read) == 4096 and after(True, True) == 4096
        assert after(False) == 2048 and after(True, True) == 2048  # the count begins anew
        assert after(True) == 4096 and after(True, True, True) == 8192
        assert after(*[False] * 20) == 1
        assert after(*[True] * 90) == npu.LARGEST_SCALE
    assert sorted(v.op.name for v in tf.global_variables()) == ['good_steps', 'loss_scale']


@pytest.mark.smoke
def test_every_variable_is_broadcast_and_assigned(adapter, tf, tmp_path, eight_ranks):
    runtime = start(tmp_path)
    weights, moving, step, _, update = graph(runtime)
    adapter.roots_value[0] = lambda tensor: tensor + 5
    with open_session(runtime) as session:
        before = {v.op.name: session.run(v) for v in tf.global_variables()}
        runtime.broadcast(tf.global_variables())
        after = {v.op.name: session.run(v) for v in tf.global_variables()}
    broadcast = folders.of(adapter.events, 'broadcast')
    assert [event['variables'] for event in broadcast] == [[v.op.name] for v in tf.global_variables()]
    assert {event['root_rank'] for event in broadcast} == {0}
    assert {'weights', 'moving_mean', 'global_step', 'weights/Momentum', 'loss_scale'} <= set(after)
    for name in after:
        np.testing.assert_array_equal(after[name], before[name] + 5, name)


@pytest.mark.smoke
def test_one_rank_broadcasts_nothing(adapter, tf, tmp_path):
    runtime = start(tmp_path)
    graph(runtime)
    open_session(runtime)
    runtime.broadcast(tf.global_variables())
    assert not folders.of(adapter.events, 'broadcast') and not folders.of(adapter.events, 'distributed')


@pytest.mark.smoke
def test_a_loop_runs_on_the_device(adapter, tf, tmp_path):
    runtime = start(tmp_path, steps_per_run=4)
    _, _, step, gradients, update = graph(runtime)
    with open_session(runtime) as session:
        looped = runtime.looped(session, update)
        session.run(looped)
        assert session.run(step) == 4
        session.run(looped)
        assert session.run(step) == 8
        with pytest.raises(adapter.Lost, match='fed'):
            session.run(looped, {gradients[0][0]: [0.0] * 3})
    assert folders.of(adapter.events, 'set_iteration_per_loop') == [{'event': 'set_iteration_per_loop', 'steps': 4}]
    assert folders.of(adapter.events, 'deprecated')  # enable_data_pre_proc: said, and obeyed
    assert start(tmp_path).looped(None, update) is update


@pytest.mark.smoke
def test_the_stand_ins_are_no_kinder_than_the_adapter(adapter, tf, tmp_path, eight_ranks):
    for dtype in (tf.bool, tf.uint8, tf.int64, tf.float64):
        with pytest.raises(TypeError):
            adapter.allreduce(tf.zeros([2], dtype), 'sum')
    config = start(tmp_path).session_config()
    tf.InteractiveSession('', tf.get_default_graph(), config).close()
    session, = folders.of(adapter.events, 'session')
    assert session['entries'] == 1 and session['options']['hcom_parallel'] is True  # the third argument's


@pytest.mark.smoke
def test_checkpoints_go_both_ways_between_scaled_and_unscaled_runs(adapter, tf, tmp_path):
    def checkpoint(mode, steps, restored=None):
        tf.reset_default_graph()
        runtime = start(tmp_path, '--precision_mode=' + mode)
        weights, _, step, _, update = graph(runtime)
        saver, prefix = tf.train.Saver(max_to_keep=0), str(tmp_path / ('%s-%d' % (mode, steps)))
        with open_session(runtime) as session:
            if restored:
                graph_files.restore(tf, session, restored, may_be_missing=runtime.may_be_missing)
            scale = [session.run(v) for v in tf.global_variables() if v.op.name == 'loss_scale']
            for _ in range(steps):
                session.run(update)
            graph_files.save(tf, saver, session, prefix)
            return prefix, session.run([weights, step]), scale

    plain, (after_two, _), _ = checkpoint('force_fp32', 2)
    scaled, (after_four, step), scale = checkpoint('force_fp16', 2, restored=plain)
    assert step == 4 and scale == [npu.INITIAL_SCALE]
    assert not np.array_equal(after_two, after_four)
    _, (weights, step), _ = checkpoint('force_fp32', 0, restored=scaled)
    assert step == 4
    np.testing.assert_array_equal(weights, after_four)
    _, (weights, step), scale = checkpoint('force_fp16', 1, restored=scaled)
    assert step == 5 and scale == [npu.INITIAL_SCALE]
