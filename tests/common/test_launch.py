# SPDX-License-Identifier: Apache-2.0
"""The launcher on one server, with a training script that needs no TensorFlow."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import programs
import pytest
from conftest import ROOT
from launching import SCRIPT, Launching, all_gone, pids_in, wait_for

from common import logparse
from launcher import launch, processes


@pytest.fixture
def net(tmp_path):
    launching = Launching(tmp_path)
    yield launching
    launching.close()


def write_table(path, device_ids):
    path.write_text(json.dumps({'version': '1.0', 'status': 'completed', 'server_count': '1', 'server_list': [
        {'server_id': '192.0.2.1', 'device': [{'device_id': str(device_id), 'rank_id': str(rank)}
                                              for rank, device_id in enumerate(device_ids)]}]}))
    return str(path)


def test_a_terminal_sees_a_progress_bar_and_the_log_does_not(tmp_path):
    (tmp_path / 'train.py').write_text(SCRIPT)
    ended, shown = programs.on_terminal(
        [sys.executable, '-m', 'launcher', '--case=acc', 'train.py', '--output_path=out'], cwd=str(tmp_path),
        env={'PYTHONPATH': ROOT})
    assert ended == 0 and '30/30' in shown and 'Final Performance' in shown, shown
    assert '30/30' not in (tmp_path / 'out' / 'train_0.log').read_text()


def test_a_run_ends_with_the_documented_block_and_files(net):
    code, said = net.run()
    assert code == 0, said
    assert 'log: %s\n' % net.log() in said and said.index('rank 0 of 1') < said.index('[done]')
    assert 'Final Performance images/sec : 80.00' in said
    assert 'Final Performance sec/step : 0.1000' in said
    assert sorted(os.listdir(str(net.net / 'out'))) == [
        'Net_bs8_1p_acc.log', 'train_0.log', 'train_Net_bs8_1p_acc_loss.txt']
    assert 'rank 0 of 1 device 0' in net.log().read_text()


FIRST_SESSION = """[run] model=Fake device=cpu ranks=1 batch_size=8 first_step=0
[train] step=1 loss=3.0
[train] step=2 loss=9.0
"""


def test_a_continued_run_is_summed_up_as_a_whole(net):
    (net.net / 'out').mkdir()
    net.log().write_text(FIRST_SESSION)
    code, said = net.run('--do=go_on')
    assert code == 0 and 'loss=9.0' not in said, said
    assert (net.net / 'out' / 'train_Net_bs8_1p_acc_loss.txt').read_text() == '3.0000\n1.0000\n2.0000\n'
    assert 1000 <= int(said.split('E2E Training Duration sec : ')[1].split()[0]) < 1060
    assert re.search(r'^E2ETrainingTime = 10\d\d$', (net.net / 'out' / 'Net_bs8_1p_acc.log').read_text(), re.M)


def test_an_evaluation_leaves_the_run_that_it_is_about(net):
    (net.net / 'out').mkdir()
    for name, text in (('flags.json', '{}'), ('metrics.jsonl', '{"event": "done"}\n'), ('train_0.log', '[done]\n')):
        (net.net / 'out' / name).write_text(text)
    before = sorted(os.listdir(str(net.net / 'out')))
    code, said = net.run('--mode=evaluate', '--do=nothing')
    assert code == 0 and 'Final' not in said and 'rank 0 of 1' in said, said
    assert sorted(os.listdir(str(net.net / 'out'))) == before and 'out.1' not in os.listdir(str(net.net))
    assert net.run('--mode=evaluate', '--do=fail')[0] == 1
    assert net.run('--mode=train_and_evaluate')[0] == 0 and 'out.1' in os.listdir(str(net.net))


@pytest.mark.parametrize('redirected, left', [
    ('| head -1', ['log: ']), ('>&-', []), ('>&- 2>&-', []), ('>/dev/full', [])])
def test_training_outlives_those_who_look_at_it(net, redirected, left):
    words = ' '.join([sys.executable, '-m', 'launcher', '--case=acc', 'train.py', '--output_path=out', '--do=early'])
    ended = subprocess.run(['bash', '-c', '%s %s; exit ${PIPESTATUS[0]}' % (words, redirected)], cwd=str(net.net),
                           env=dict(os.environ, PYTHONPATH=str(net.root)), text=True, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, '') and 'Net_bs8_1p_acc.log' in os.listdir(str(net.net / 'out'))
    assert [line[:5] for line in ended.stdout.splitlines()] == left


def test_a_failure_on_a_full_disk_names_it_though_the_log_has_no_room(net):
    (net.net / 'out').mkdir()
    if subprocess.call(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(net.net / 'out')],
                       stderr=subprocess.DEVNULL):
        pytest.skip('this user may not mount a small disk')
    try:
        code, said = net.run('--do=fail')
        assert code == 1 and 'exit code 1; log: %s; its disk is full: free some space\n' % net.log() in said, said
    finally:
        subprocess.call(['umount', '--lazy', str(net.net / 'out')])


def test_what_a_terminal_cannot_show_is_shown_in_another_way(net):
    code, said = net.run('--do=chinese', PYTHONIOENCODING='ascii')
    assert code == 0 and '\\u8bad\\u7ec3\n' in said and 'Final Performance' in said, said


def test_a_report_that_cannot_be_written_is_no_failed_training(net):
    (net.net / 'out' / 'report.md').mkdir(parents=True)
    (net.net / 'out' / 'Net_bs8_1p_acc.log').mkdir()
    (net.net / 'out' / 'metrics.jsonl').write_text('{"event": "train", "step": 1}\n')
    code, said = net.run()
    assert code == 0 and 'Final Performance images/sec : 80.00' in said, said
    warnings = [line for line in said.splitlines() if '[warn]' in line]
    assert len(warnings) == 2 and 'report.md could not be written: IsADirectoryError' in warnings[0], said


@pytest.mark.parametrize('words, name, batch_size', [
    ([], 'bs8_4p_perf', '8'), (['--total_batch'], 'bs32_4p_perf', '32')])
def test_the_case_counts_a_cards_batch_or_all(words, name, batch_size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'train.py').write_text('')
    own = launch._parse_args(['--case=perf', '--ranks=4'] + words + ['train.py', '--total_batch'])
    launch._write_result(own, str(tmp_path), logparse.summarize(['[run] ranks=4 batch_size=8']), 1)
    text = (tmp_path / ('%s_%s.log' % (tmp_path.name, name))).read_text()
    assert 'BatchSize = %s\n' % batch_size in text


def test_several_ranks_share_folder_and_cores_and_only_the_first_is_shown(net):
    cores = sorted(os.sched_getaffinity(0))
    size = max(1, len(cores) // 3)
    empty = dict.fromkeys(('RANK_SIZE', 'ASCEND_DEVICE_ID', 'JOB_ID', 'SERVER_ID', 'HCCL_IF_BASE_PORT'), '')
    code, said = net.run('--do=tell', ranks=3, output=None, TF_CONFIG='{}', CM_CHIEF_IP='10.0.0.1', CM_WORKER_SIZE='9',
                         **empty)
    assert code == 0 and '3 ranks: 0-2 on this server (127.0.0.1), %d core(s) each\n' % size in said, said
    assert 'rank 0 of 3' in said and 'rank 1 of 3' not in said and 'Net_bs8_3p_acc.log' in os.listdir(
        str(net.net / 'test' / 'output' / '0'))
    (net.net / 'out').symlink_to(net.net / 'test' / 'output' / '0')
    told = [net.told(rank) for rank in range(3)]
    cluster = json.loads(told[0]['TF_CONFIG'])['cluster']
    assert len(set(cluster['worker'])) == 3 and all(word.startswith('127.0.0.1:') for word in cluster['worker'])
    for rank in range(3):
        block = cores[rank * size:(rank + 1) * size] if len(cores) >= 3 else [cores[rank % len(cores)]]
        assert json.loads(told[rank].pop('TF_CONFIG')) == {
            'cluster': cluster, 'task': {'type': 'worker', 'index': rank}}
        assert told[rank] == {
            'RANK_ID': str(rank), 'RANK_SIZE': '3', 'ASCEND_DEVICE_ID': str(rank), 'CUDA_VISIBLE_DEVICES': str(rank),
            'JOB_ID': '10087', 'cores': block, 'output_path': str(net.net / 'test' / 'output' / '0')}


def test_the_log_of_every_rank_is_where_the_documents_say(net):
    output = net.net / 'test' / 'output'
    (output / '2').mkdir(parents=True)
    (output / '2' / 'train_2.log').write_text('another run\n')
    for _ in range(2):
        code, said = net.run('--do=early', ranks=3, output=None, ASCEND_DEVICE_ID='')
        assert code == 0, said
        assert 'rank 0 of 3 device 0' in (output / '0' / 'train_0.log').read_text()
        assert 'rank 1 of 3 device 1' in (output / '1' / 'train_1.log').read_text()
        assert (output / '2' / 'train_2.log').read_text() == 'another run\n'
    code, said = net.run(output=None, ASCEND_DEVICE_ID='1')  # one card of its own afterwards
    assert code == 0 and 'rank 0 of 1 device 1' in (output / '1' / 'train_1.log').read_text(), said
    assert 'rank 0 of 1' not in (output / '0' / 'train_1.log').read_text()


def test_one_rank_is_left_alone(net):
    given = dict(CUDA_VISIBLE_DEVICES='5', RANK_TABLE_FILE='any', JOB_ID='7', ASCEND_DEVICE_ID='4', SERVER_ID='other')
    code, said = net.run('--do=tell', TF_CONFIG='{}', CM_CHIEF_IP='10.0.0.1', **given)
    assert code == 0 and 'on this server' not in said, said
    del given['SERVER_ID']
    assert net.told(4) == dict(given, RANK_ID='0', RANK_SIZE='1', cores=sorted(os.sched_getaffinity(0)),
                               output_path=str(net.net / 'out'))


def test_a_rank_table_says_which_devices(net, tmp_path):
    table = write_table(tmp_path / 'table.json', [2, 0])
    code, said = net.run('--do=tell', ranks=2, RANK_TABLE_FILE='table.json', CALLED_FROM=str(tmp_path),
                         CUDA_VISIBLE_DEVICES='GPU-a, GPU-b,GPU-c', output=str(net.net / 'out'))
    assert code == 0 and '0-1 on this server (192.0.2.1)' in said and 'log: %s\n' % net.log(2) in said, said
    told = [net.told(2), net.told(0)]
    assert [one['ASCEND_DEVICE_ID'] for one in told] == ['2', '0'] and [one['RANK_ID'] for one in told] == ['0', '1']
    assert [one['CUDA_VISIBLE_DEVICES'] for one in told] == ['GPU-c', 'GPU-a']
    assert {one['RANK_TABLE_FILE'] for one in told} == {table}
    assert all('"127.0.0.1:' in one['TF_CONFIG'] for one in told)  # one server: the address need not be this machine's


@pytest.mark.parametrize('value', ['', '-1'])
def test_no_gpu_stays_no_gpu(value, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
    assert launch._visible_gpu(3) == value


@pytest.mark.parametrize('cores, ranks, expected', [
    (8, 2, [{0, 1, 2, 3}, {4, 5, 6, 7}]), (7, 3, [{0, 1}, {2, 3}, {4, 5}]), (2, 4, [{0}, {1}, {0}, {1}]),
    (4, 1, [None])])
def test_cores_are_shared_in_blocks(cores, ranks, expected, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(cores)))
    assert launch._share_cores(ranks) == expected


def test_rank_numbers_are_shown_in_short():
    assert launch._spans([0, 1, 2, 4, 6, 7]) == '0-2,4,6-7'


def test_the_end_of_a_log_is_shown_without_chatter(tmp_path, capsys):
    (tmp_path / 'log').write_bytes(b'old\n2026-01-01 10:00:00.1: I tensorflow/core\nnew\xff\nno newline')
    ended = threading.Event()
    ended.set()
    with open(str(tmp_path / 'log'), 'rb') as log:
        log.seek(4)
        launch._follow(log, ended)
    assert capsys.readouterr().out == 'new\ufffd\nno newline\n'


def test_a_failing_rank_stops_all_and_gives_its_exit_code(net):
    process = net.start('--do=fail', ranks=3)
    wait_for(net.log(2), 'the reason')
    before = time.time()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and time.time() - before < 30
    assert 'rank 2 failed first (exit code 1); the end of %s' % net.log(2) in said and 'the reason' in said
    assert 'training failed' in said and 'Final Performance' not in said
    for rank in range(3):
        text = net.log(rank).read_text()
        assert 'rank %d of 3 device %d' % (rank, rank) in text
        assert ('saved' in text) == (rank < 2)  # SIGTERM, not SIGKILL, ends the others
        assert not programs.is_alive(pids_in(text)[0])


def test_the_rank_that_failed_first_is_shown_not_those_that_lost_it(net):
    code, said = net.run('--do=lose_peer', ranks=4)
    assert code == 3 and 'rank 3 failed first (exit code 3)' in said and 'the reason' in said, said
    assert 'a peer vanished' not in said.split('failed first')[1]


def test_a_rank_that_a_signal_ends_is_named_with_it(net):
    code, said = net.run('--do=crash', ranks=2)
    assert code == 137 and 'rank 1 failed first (exit code 137, SIGKILL)' in said, said
    assert 'saved' in net.log(0).read_text()


@pytest.mark.parametrize('do, ends_with', [('stubborn_fail', 1), ('stubborn_signalled', 143)])
def test_a_rank_that_hangs_is_killed_with_its_children_in_time(do, ends_with, net):
    code, said = net.run('--do=' + do, ranks=2)
    assert code == ends_with and ('rank 1 failed first' in said) == (code == 1), said
    pids = pids_in(net.log(0).read_text())
    assert len(pids) == 2 and all_gone(pids, 5)
    assert processes.GRACE_SEC < 30


def test_a_rank_may_end_before_the_others(net):
    code, said = net.run('--do=early', ranks=2)
    assert code == 0 and '[done]' in net.log(0).read_text() and 'Final Performance' in said, said


def test_what_a_finished_rank_left_behind_is_ended(net):
    code, said = net.run('--do=leave')
    pids = pids_in(net.log().read_text())
    assert code == 0 and len(pids) == 2 and all_gone(pids, 5), said


def test_success_without_a_result_is_a_failure(net):
    code, said = net.run('--do=nothing')
    assert code == 1 and 'without a [done] line' in said


def test_sigterm_reaches_every_rank_which_saves(net):
    process = net.start('--do=wait', ranks=2)
    for rank in range(2):
        wait_for(net.log(rank), '[run]')
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and 'saved' in said and 'continues this run' in said
    assert 'saved' in net.log(1).read_text() and 'failed' not in said


def test_ctrl_c_reaches_the_training(net):
    process = net.start('--do=wait')
    pid, = pids_in(wait_for(net.log(), '[run]'))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and 'KeyboardInterrupt' in said  # 130, but 1 from Python 3.7
    assert not programs.is_alive(pid)


def test_the_third_request_is_not_refused(net):
    process = net.start('--do=stubborn', ranks=2)
    pids = sum([pids_in(wait_for(net.log(rank), 'child')) for rank in range(2)], [])
    for _ in range(3):
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    process.communicate(timeout=60)
    assert process.returncode == 137 and all_gone(pids, 5)


def test_a_rank_that_was_asked_elsewhere_stops_the_run_on_request(net):
    code, said = net.run('--do=give_up', ranks=2)
    assert code == 143 and 'stopped on request' in said and 'failed' not in said, said
    assert 'saved' in net.log(0).read_text()


def test_no_orphan_survives_the_launcher(net):
    process = net.start('--do=wait', ranks=2)
    pids = [pids_in(wait_for(net.log(rank), '[run]'))[0] for rank in range(2)]
    assert all(programs.is_alive(pid) for pid in pids)
    process.kill()
    assert all_gone(pids, 20)
    assert all('saved' in net.log(rank).read_text() for rank in range(2))


def test_no_orphan_survives_even_if_it_hangs_and_has_children(net):
    process = net.start('--do=stubborn', ranks=2)
    pids = sum([pids_in(wait_for(net.log(rank), 'child')) for rank in range(2)], [])
    watcher, = [pid for pid in children(process.pid) if pid not in pids]
    os.kill(watcher, signal.SIGTERM)  # as a scheduler that asks everybody
    process.kill()
    time.sleep(0.5)
    assert len(pids) == 4 and all(programs.is_alive(pid) for pid in pids + [watcher])  # they have time to save
    assert all_gone(pids + [watcher], 20)


def test_no_rank_survives_a_launcher_that_is_killed_while_it_starts_them(net):
    """Killed at the first sign of a rank, when some are known to nobody but themselves."""
    process = net.start('--do=wait', ranks=8)
    deadline, seen = time.time() + 20, set()
    while len(seen) < 3 and time.time() < deadline:
        seen.update(children(process.pid))
    process.send_signal(signal.SIGSTOP)
    seen.update(children(process.pid))
    process.kill()
    assert len(seen) >= 3 and all_gone(seen, 20)


def children(pid):
    try:
        with open('/proc/%d/task/%d/children' % (pid, pid)) as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def test_a_wrong_flag_is_found_before_anything_starts(net):
    code, said = net.run('--batch_size=0')
    assert code == 2 and '--batch_size' in said
    assert not (net.net / 'out').exists()


def test_missing_data_is_found_before_anything_starts(net):
    code, said = net.run('--data_path=nowhere')
    assert code == 1 and said.endswith('nowhere: expected data; found none; give another.\n')
    assert said.count('\n') == 1
    assert not (net.net / 'out').exists()


@pytest.mark.parametrize('ranks, environment, told', [
    ('0', {}, "--ranks: found '0', expected an integer of at least 1"),
    ('two', {}, "--ranks: found 'two'"),
    (2, {'RANK_TABLE_FILE': 'nowhere.json'}, 'nowhere.json: expected a rank table'),
    (3, {'RANK_TABLE_FILE': 'table.json'}, 'table.json: expected 3 devices, as --ranks says; found 2;'),
    (2, {'RANK_TABLE_FILE': 'table.json', 'SERVER_ID': 'b'}, '--server_id: expected one of 192.0.2.1'),
    (2, {'CUDA_VISIBLE_DEVICES': '0'}, 'CUDA_VISIBLE_DEVICES: expected at least 2 GPUs, because a rank has device 1'),
    (2, {'HCCL_IF_BASE_PORT': 'high'}, 'HCCL_IF_BASE_PORT: expected a port'),
    (1, {'ASCEND_DEVICE_ID': 'npu'}, "ASCEND_DEVICE_ID: expected a device's number")])
def test_what_cannot_start_is_said_in_one_sentence(ranks, environment, told, net):
    write_table(net.net / 'table.json', [0, 1])
    code, said = net.run(ranks=ranks, **environment)
    assert code == (2 if '--ranks:' in told else 1) and told in said and said.count('\n') == 1, said
    assert not (net.net / 'out').exists()
