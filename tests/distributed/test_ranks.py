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

import numpy as np
import pytest
from conftest import ROOT

KILLS = int(os.environ.get('KILLS', '3'))  # of random ranks at random times


def equal(left, right, tolerance=1e-6):
    assert set(left) == set(right)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.smoke
def test_two_ranks_learn_what_one_learns_with_their_batches_together(new_run):
    one, two = new_run(), new_run()
    one.finish(1, '--batch_size=8', '--train_steps=12')
    said = two.finish(2, '--batch_size=4', '--train_steps=12', '--log_every=4')
    equal(one.variables(), two.variables())
    assert two.checksums(2)[0] == two.checksums(2)[1] and 'Final Performance' in said
    assert 'ranks=2' in said and 'lr_rule="0.01 as given for 2 ranks; by the linear rule 0.005 for one"' in said
    assert re.findall(r'\[(\w+)\]', two.log(1)) == ['done']  # rank 0 alone tells
    assert len(two.events('done')) == 1
    # the loss of a line is that of all ranks
    one_again = new_run()
    one_again.finish(1, '--batch_size=8', '--train_steps=12', '--log_every=4')
    for mine, theirs in zip(one_again.events('train'), two.events('train')):
        assert mine['loss'] == pytest.approx(theirs['loss'], rel=1e-5)


def test_eight_ranks_share_the_cores_and_learn_the_same(new_run):
    one, eight = new_run(), new_run()
    one.finish(1, '--batch_size=8', '--train_steps=12')
    said = eight.finish(8, '--batch_size=1', '--train_steps=12', RANK_TABLE_FILE=os.path.join(
        ROOT, 'ShufflenetV2_ID0371_For_Tensorflow', 'test', '8p.json'))
    equal(one.variables(), eight.variables())
    assert len(set(eight.checksums(8))) == 1
    assert ('ranks share %d core(s)' % os.cpu_count() in said) == (os.cpu_count() < 8)


def test_equal_shards_give_what_one_shard_gives(new_run):
    one, two = new_run(), new_run()
    one.finish(1, '--train_steps=12')
    two.finish(2, '--train_steps=12', '--same_data')
    equal(one.variables(), two.variables(), 0)


@pytest.mark.parametrize('asked', [pytest.param('launcher', marks=pytest.mark.smoke), 'rank 1'])
def test_a_stop_is_one_for_all_and_the_same_command_goes_on(new_run, asked):
    undisturbed, stopped = new_run(), new_run()
    words = ['--train_steps=60', '--save_every=1000']
    undisturbed.finish(2, *words)
    launcher = stopped.start(2, '--log_every=1', *words, PAUSE_SEC='0.1')
    wait_for_step(stopped, 3)
    if asked == 'launcher':
        launcher.send_signal(signal.SIGTERM)
    else:
        os.kill(pid_of_rank(launcher, 1), signal.SIGTERM)
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 143 and 'stopped on request' in said, said
    assert '[fail]' not in stopped.log(0) + stopped.log(1)
    step = stopped.events('save')[-1]['step']
    assert 3 <= step < 60
    said = stopped.finish(2, '--log_every=1', *words)
    assert 'continuing' in said and stopped.events('run')[-1]['first_step'] == step
    equal(undisturbed.variables(), stopped.variables())
    assert len(set(stopped.checksums(2))) == 1


def test_another_number_of_ranks_does_not_continue_a_run(new_run):
    run = new_run()
    launcher = run.start(2, '--train_steps=1000', '--log_every=1', PAUSE_SEC='0.1')
    wait_for_step(run, 2)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    said = run.finish(1, '--train_steps=1000', '--log_every=1', code=1)
    assert "--ranks: expected '2' as in the unfinished run" in said and said.count('\n') == 1


def test_a_nan_of_one_rank_stops_all(new_run):
    run = new_run()
    said = run.finish(2, '--train_steps=20', '--nan_at=5', code=1)
    assert 'loss at step 5: found nan' in said and 'failed first' in said
    assert run.events('fail')[-1]['message'].startswith('loss at step 5')


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_rank_is_named_and_the_others_say_that_it_is_lost(new_run, victim):
    run = new_run()
    launcher = run.start(2, '--train_steps=1000', '--log_every=1', '--save_every=5', PAUSE_SEC='0.05')
    wait_for_step(run, 7)
    killed = time.time()
    os.kill(pid_of_rank(launcher, victim), signal.SIGKILL)
    said, _ = launcher.communicate(timeout=60)
    assert time.time() - killed < 30
    assert launcher.returncode == 137 and 'rank %d failed first (exit code 137, SIGKILL)' % victim in said, said
    survivor = run.log(1 - victim)
    assert '[fail] message="rank %d: expected all ranks to take part' % (1 - victim) in survivor, survivor
    assert 'Traceback' not in survivor


def test_kills_at_random_times_cost_no_more_than_the_steps_since_the_last_checkpoint(new_run):
    chance = random.Random(int(os.environ.get('KILLS_SEED', '0')))
    undisturbed, run = new_run(), new_run()
    words = ['--train_steps=%d' % (150 * KILLS), '--save_every=5']
    started = time.time()
    undisturbed.finish(2, *words)
    start_sec, newest = undisturbed.events('run')[0]['time'] - started, 0  # more where others use the machine
    for _ in range(KILLS):
        launcher = run.start(2, *words, PAUSE_SEC='0.02')
        time.sleep(chance.uniform(0.1, 2.0) * start_sec)
        victim = chance.randrange(2)
        while not pid_of_rank(launcher, victim):
            time.sleep(0.05)
        os.kill(pid_of_rank(launcher, victim), signal.SIGKILL)
        killed = time.time()
        said, _ = launcher.communicate(timeout=120)
        assert launcher.returncode == 137 and time.time() - killed < 30, said
        saved = [event['step'] for event in run.events('save')] if '[save]' in run.log() else [0]
        assert saved[-1] >= newest, said  # no checkpoint is lost
        newest = saved[-1]
    assert newest > 0
    run.finish(2, *words)
    equal(undisturbed.variables(), run.variables(), 0)
    assert run.checksums(2) == undisturbed.checksums(2)


def test_two_servers_train_as_one(new_run, servers, tmp_path):
    table = tmp_path / 'table.json'
    table.write_text(json.dumps({
        'version': '1.0', 'status': 'completed', 'server_count': '2', 'server_list': [
            {'server_id': address, 'device': [{'device_id': str(device), 'rank_id': str(2 * server + device)}
                                              for device in range(2)]} for server, address in enumerate(servers)]}))
    one, first, second = new_run(), new_run(), new_run()  # two disks
    one.finish(1, '--batch_size=8', '--train_steps=40')
    words = ['--batch_size=2', '--train_steps=40', '--save_every=5', '--log_every=1']

    def start(pause_sec):
        return [run.start(4, *words, before=servers[address], RANK_TABLE_FILE=str(table), PAUSE_SEC=pause_sec)
                for run, address in zip((first, second), servers)]

    # a rank of the second server dies: both servers end, the same command goes on where rank 0 has saved
    launchers = start('0.2')
    wait_for_step(first, 8)
    os.kill(pid_of_rank(launchers[1], 3), signal.SIGKILL)
    for launcher, code in zip(launchers, (1, 137)):
        said, _ = launcher.communicate(timeout=30)
        assert launcher.returncode == code, said
    launchers = start('0')
    said = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], '\n'.join(said)
    assert 'Final Performance' in said[0] and 'the result is in the run folder on ' + list(servers)[0] in said[1]
    assert first.events('run')[-1]['first_step'] >= 5
    assert not os.path.exists(os.path.join(str(second.folder), 'ckpt'))
    equal(one.variables(), first.variables())
    sums = [re.findall(r'checksum=(\w+)', run.log(rank))[-1] for run, rank in (
        (first, 0), (first, 1), (second, 2), (second, 3))]
    assert len(set(sums)) == 1


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


def wait_for_step(run, step, seconds=60):
    deadline = time.time() + seconds
    while time.time() < deadline:
        if '[train] step=%d ' % step in run.log():
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
