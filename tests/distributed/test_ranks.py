# SPDX-License-Identifier: Apache-2.0
"""Several ranks of a tiny network through the launcher: what they learn, how they stop, what survives a kill."""
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import types

import numpy as np
import pytest

KILLS = int(os.environ.get('KILLS', '1'))  # of random ranks at random times
STEPS = 60
LONG = ['--train_steps=%d' % STEPS, '--save_every=5', '--log_every=4']


def equal(left, right, tolerance=1e-5):
    assert set(left) == set(right)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture(scope='session')
def alone(shared_run):
    """One rank with batches of 8: what ranks learn whose batches are that together."""
    run = shared_run()
    run.finish(1, '--batch_size=8', '--train_steps=%d' % STEPS, '--log_every=4')
    return run


@pytest.fixture(scope='session')
def undisturbed(shared_run):
    """(two ranks that nobody stops, what their launcher said)."""
    run = shared_run()
    return run, run.finish(2, *LONG)


@pytest.mark.smoke
def test_two_ranks_learn_what_one_learns_with_their_batches_together(alone, undisturbed):
    two, said = undisturbed
    equal(alone.variables(), two.variables())
    assert two.checksums(2)[0] == two.checksums(2)[1] and 'Final Performance' in said
    assert 'ranks=2' in said and 'lr_rule="0.002 as given for 2 ranks; by the linear rule 0.001 for one"' in said
    assert re.findall(r'\[(\w+)\]', two.log(1)) == ['done']  # rank 0 alone tells
    assert len(two.events('done')) == 1
    for mine, theirs in zip(alone.events('train'), two.events('train')):  # the loss of a line is that of all ranks
        assert mine['loss'] == pytest.approx(theirs['loss'], rel=1e-5)
    assert alone.events('train')[-1]['loss'] > 1e-3  # no run has come to the end that all runs share


def test_four_ranks_share_the_cores_and_learn_the_same(alone, new_run):
    four = new_run()
    said = four.finish(4, '--batch_size=2', '--train_steps=%d' % STEPS)
    equal(alone.variables(), four.variables())
    assert len(set(four.checksums(4))) == 1
    assert ('ranks share %d core(s)' % os.cpu_count() in said) == (os.cpu_count() < 4)


def test_equal_shards_give_what_one_shard_gives_and_a_nan_of_one_rank_stops_all(alone, new_run):
    two = new_run()
    said = two.finish(2, '--batch_size=8', '--train_steps=%d' % (2 * STEPS), '--save_every=%d' % STEPS, '--same_data',
                      '--nan_at=%d' % (STEPS + 5), code=1)
    equal(alone.variables(), two.variables(), 0)
    told = 'loss at step %d: found nan' % (STEPS + 5)
    assert told in said and 'failed first' in said and two.events('fail')[-1]['message'].startswith(told)


@pytest.mark.smoke
def test_a_stop_is_one_for_all_and_the_same_command_goes_on(undisturbed, new_run):
    """The launcher is asked, then rank 1 alone; another number of ranks does not continue."""
    run, step = new_run(), 0
    for asked in ('launcher', 'rank 1'):
        launcher = run.start(2, *LONG, '--log_every=1', PAUSE_SEC='0.1')
        wait_for_step(run, step + 3)
        if asked == 'launcher':
            launcher.send_signal(signal.SIGTERM)
        else:
            os.kill(pid_of_rank(launcher, 1), signal.SIGTERM)
        said, _ = launcher.communicate(timeout=60)
        assert launcher.returncode == 143 and 'stopped on request' in said, said
        assert '[fail]' not in run.log(0) + run.log(1)
        assert run.events('run')[-1]['first_step'] == step
        assert step + 3 <= run.events('save')[-1]['step'] < STEPS
        step = run.events('save')[-1]['step']
    said = run.finish(1, *LONG, '--log_every=1', code=1)
    assert "--ranks: expected '2' as in the unfinished run" in said and said.count('\n') == 1
    said = run.finish(2, *LONG, '--log_every=1')
    assert 'continuing' in said and run.events('run')[-1]['first_step'] == step
    equal(undisturbed[0].variables(), run.variables())
    assert len(set(run.checksums(2))) == 1


def test_kills_cost_no_more_than_the_steps_since_the_last_checkpoint(undisturbed, new_run):
    """Of each rank in training, of random ranks at random times, of all at once; meanwhile the folder is the run's."""
    run, chance = new_run(), random.Random(int(os.environ.get('KILLS_SEED', '0')))
    newest, start_sec = 0, 0.0

    def killed_in_turn():
        nonlocal newest
        end = time.time()
        said, _ = launcher.communicate(timeout=120)
        assert launcher.returncode == 137 and time.time() - end < 30, said
        saved = run.events('save')[-1]['step'] if '[save]' in run.log() else 0
        assert saved >= newest, said  # no checkpoint is lost
        newest = saved
        return said

    for victim in (0, 1):
        started = time.time()
        launcher = run.start(2, *LONG, '--log_every=1', PAUSE_SEC='0.2')
        wait_for_step(run, newest + 7)
        start_sec = max(start_sec, run.events('run')[-1]['time'] - started)  # more where others use the machine
        if victim == 0:
            said = run.finish(2, *LONG, '--log_every=1', code=1)
            assert '%s: expected a run folder that is free; found one that another training uses;' % run.folder in said
            assert said.count('\n') == 1
        os.kill(pid_of_rank(launcher, victim), signal.SIGKILL)
        said = killed_in_turn()
        assert 'rank %d failed first (exit code 137, SIGKILL)' % victim in said, said
        survivor = run.log(1 - victim)
        assert '[fail] message="rank %d: expected all ranks to take part' % (1 - victim) in survivor, survivor
        assert 'Traceback' not in survivor
    for _ in range(KILLS):
        launcher = run.start(2, *LONG, '--log_every=1', PAUSE_SEC='%.3f' % (start_sec / 5))
        time.sleep(chance.uniform(0.1, 2.0) * start_sec)
        victim = chance.randrange(2)
        while not pid_of_rank(launcher, victim):
            time.sleep(0.05)
        os.kill(pid_of_rank(launcher, victim), signal.SIGKILL)
        killed_in_turn()
    assert newest > 0
    before = len(run.log())
    launcher = run.start(2, *LONG, '--log_every=1', PAUSE_SEC='0.2')
    wait_for_step(run, newest + 1, after=before)
    for pid in [pid_of_rank(launcher, rank) for rank in range(2)] + [launcher.pid]:
        os.kill(pid, signal.SIGKILL)
    said = run.finish(2, *LONG, '--log_every=1')  # at once: the dead hold no folder
    assert 'continuing' in said
    equal(undisturbed[0].variables(), run.variables(), 0)
    assert run.checksums(2) == undisturbed[0].checksums(2)


def test_two_servers_train_as_one(alone, new_run, servers, tmp_path):
    table = tmp_path / 'table.json'
    table.write_text(json.dumps({
        'version': '1.0', 'status': 'completed', 'server_count': '2', 'server_list': [
            {'server_id': address, 'device': [{'device_id': '0', 'rank_id': str(server)}]}
            for server, address in enumerate(servers)]}))
    first, second = new_run(), new_run()  # two disks
    words = ['--batch_size=4', '--train_steps=%d' % STEPS, '--save_every=5', '--log_every=1']

    def start(pause_sec):
        return [run.start(2, *words, before=servers[address], RANK_TABLE_FILE=str(table), PAUSE_SEC=pause_sec)
                for run, address in zip((first, second), servers)]

    # a rank of the second server dies: both servers end, the same command goes on where rank 0 has saved
    launchers = start('0.2')
    wait_for_step(first, 8)
    os.kill(pid_of_rank(launchers[1], 1), signal.SIGKILL)
    for launcher, code in zip(launchers, (1, 137)):
        said, _ = launcher.communicate(timeout=30)
        assert launcher.returncode == code, said
    launchers = start('0')
    said = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], '\n'.join(said)
    assert 'Final Performance' in said[0] and 'the result is in the run folder on ' + list(servers)[0] in said[1]
    assert first.events('run')[-1]['first_step'] >= 5
    assert not os.path.exists(os.path.join(str(second.folder), 'ckpt'))
    equal(alone.variables(), first.variables())
    assert len({re.findall(r'checksum=(\w+)', run.log(rank))[-1] for run, rank in ((first, 0), (second, 1))}) == 1


def test_a_port_that_is_in_use_is_named(new_run, tmp_path):
    with socket.socket() as user:
        user.bind(('127.0.0.1', 0))
        user.listen(1)
        port = user.getsockname()[1]
        (tmp_path / 'table.json').write_text(json.dumps({
            'version': '1.0', 'status': 'completed', 'server_count': '1', 'server_list': [
                {'server_id': '127.0.0.1', 'device': [
                    {'device_id': '0', 'rank_id': '0'}, {'device_id': '1', 'rank_id': '1', 'host_port': str(port)}]}]}))
        said = new_run().finish(2, '--train_steps=2', code=1, RANK_TABLE_FILE=str(tmp_path / 'table.json'))
    assert 'rank 1 failed first' in said and '127.0.0.1:%d: expected an address of this machine' % port in said, said


def wait_for_step(run, step, seconds=60, after=0):
    """Until the log says the step, behind so many letters of it."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        if '[train] step=%d ' % step in run.log()[after:]:
            return
        time.sleep(0.05)
    raise AssertionError('step %d never came; the log: %s' % (step, run.log()))


def pid_of_rank(launcher, rank):
    """The process of a rank, or None while there is none. The launcher may run behind `ip netns exec`, which execs."""
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(launcher.pid)], stdout=subprocess.PIPE, text=True)
    for pid in children.stdout.split():
        try:
            with open('/proc/%s/environ' % pid, 'rb') as file:
                if b'RANK_ID=%d' % rank in file.read().split(b'\0'):
                    return int(pid)
        except OSError:
            pass
    return None


@pytest.mark.parametrize('device, computed, sent', [
    ('cpu', 'float32', 'float32'), ('cpu', 'bfloat16', 'bfloat16'), ('gpu', 'bfloat16', 'float32')])
def test_gradients_of_products_travel_in_the_type_of_the_products(device, computed, sent):
    import tensorflow.compat.v1 as tf

    from common.backends.collective import Collective
    travelled = []

    def doubled(tensors):
        travelled.extend(tensor.dtype.name for tensor in tensors)
        return [tensor + tensor for tensor in tensors]
    with tf.Graph().as_default(), tf.Session() as session:
        given = [tf.constant(np.full([2, 2], 1.5, np.float32)), tf.constant(np.full([2], 1.001, np.float32))]
        means = Collective.mean_tensors(types.SimpleNamespace(
            tf=tf, device=device, ranks=2, compute_dtype=getattr(tf, computed), sum_tensors=doubled), given)
        values = session.run(means + given)
    assert travelled == [sent, 'float32'] and {mean.dtype for mean in means} == {tf.float32}
    for mean, expected in zip(values[:2], values[2:]):
        np.testing.assert_array_equal(mean, expected)
