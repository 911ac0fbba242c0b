# SPDX-License-Identifier: Apache-2.0
"""The launcher, with a training script that needs no TensorFlow."""
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT

SCRIPT = '''
import argparse, os, signal, sys, time
sys.path.insert(0, %r)
from common import flags
def parse_args(argv=None):
    parser = flags.Parser(prog="train.py")
    parser.add_argument("--do", default="finish")
    flags.add_run_group(parser, epochs=1, batch_size=8, precision_mode="force_fp32")
    parsed = parser.parse_args(argv)
    parsed.output_path = os.path.abspath(parsed.output_path)
    return parsed
def find_data(parsed):
    from common.datacheck import DataError
    if parsed.data_path:
        raise DataError(parsed.data_path, "data", "none", "give another")
if __name__ == "__main__":
    parsed, rank = parse_args(), int(os.environ["RANK_ID"])
    signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
    print("rank", rank, "of", os.environ["RANK_SIZE"], "device", os.environ["ASCEND_DEVICE_ID"], "pid", os.getpid())
    print("[run] model=Fake device=cpu ranks=%%s batch_size=8" %% os.environ["RANK_SIZE"])
    if parsed.do == "fail" and rank == int(os.environ["RANK_SIZE"]) - 1:
        time.sleep(0.3)
        sys.exit("the reason")
    if parsed.do in ("fail", "wait"):
        time.sleep(60)
    if parsed.do == "finish":
        from common import runlog
        bar = runlog.progress_bar(30, 0)
        bar.update(30)
        bar.refresh()
        bar.close()
        print("[train] step=1 loss=2.0")
        print("[done] step=1 images_per_sec=80.0 images_per_sec_per_card=80.0 ms_per_step=100.0 status=ok")
''' % ROOT


@pytest.fixture
def start(tmp_path):
    """Starts the launcher in a model folder of its own; the process is killed in the end."""
    folder = tmp_path / 'Net'
    folder.mkdir()
    (folder / 'train.py').write_text(SCRIPT)
    started = []

    def launch(*words, ranks=1):
        environment = dict(os.environ, PYTHON=sys.executable, PYTHONPATH=ROOT)
        for name in ('ASCEND_DEVICE_ID', 'RANK_ID', 'RANK_SIZE'):
            environment.pop(name, None)
        started.append(subprocess.Popen(
            [sys.executable, '-m', 'common.launch', '--case=acc', '--ranks=%d' % ranks, 'train.py',
             '--output_path=out'] + list(words),
            cwd=str(folder), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1], folder / 'out'
    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()


def test_a_terminal_sees_a_progress_bar_and_the_log_does_not(tmp_path):
    (tmp_path / 'train.py').write_text(SCRIPT)
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
    process = subprocess.Popen([sys.executable, '-m', 'common.launch', '--case=acc', 'train.py', '--output_path=out'],
                               cwd=str(tmp_path), env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=ROOT),
                               stdout=child, stderr=child)
    os.close(child)
    said = b''
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the last writer has closed its side
            break
        if not part:
            break
        said += part
    os.close(terminal)
    assert process.wait(60) == 0, said
    assert b'30/30' in said and b'Final Performance' in said
    assert '30/30' not in (tmp_path / 'out' / 'train_0.log').read_text()


def wait_for(path, text, seconds=20):
    deadline = time.time() + seconds
    while time.time() < deadline:
        if path.exists() and text in path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError('%s never appeared in %s' % (text, path))


def is_alive(pid):
    try:
        with open('/proc/%d/stat' % pid) as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def test_a_run_ends_with_the_documented_block_and_files(start):
    process, out = start()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert 'Final Performance images/sec : 80.00' in said
    assert 'Final Performance sec/step : 0.1000' in said
    assert sorted(os.listdir(str(out))) == ['Net_bs8_1p_acc.log', 'Net_bs8_1p_acc_loss.txt', 'train_0.log']
    assert 'rank 0 of 1 device 0' in (out / 'train_0.log').read_text()


def test_a_failing_rank_stops_all_and_gives_its_exit_code(start):
    process, out = start('--do=fail', ranks=3)
    before = time.time()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.time() - before < 30
    assert 'rank 2 failed first' in said and 'the reason' in said and 'training failed' in said
    assert 'Final Performance' not in said
    for rank in range(3):
        text = (out / ('train_%d.log' % rank)).read_text()
        assert 'rank %d of 3 device %d' % (rank, rank) in text
        assert ('saved' in text) == (rank < 2)  # SIGTERM, not SIGKILL, ends the others
        assert not is_alive(int(text.split('pid ')[1].split()[0]))


def test_success_without_a_result_is_a_failure(start):
    process, _ = start('--do=nothing')
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and 'without a [done] line' in said


def test_sigterm_reaches_the_training_which_saves(start):
    process, out = start('--do=wait')
    wait_for(out / 'train_0.log', '[run]')
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and 'saved' in said and 'continues this run' in said


def test_ctrl_c_reaches_the_training(start):
    process, out = start('--do=wait')
    pid = int(wait_for(out / 'train_0.log', '[run]').split('pid ')[1].split()[0])
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and 'KeyboardInterrupt' in said
    assert not is_alive(pid)


def test_no_orphan_survives_the_launcher(start):
    process, out = start('--do=wait', ranks=2)
    pids = [int(wait_for(out / ('train_%d.log' % rank), '[run]').split('pid ')[1].split()[0]) for rank in range(2)]
    assert all(is_alive(pid) for pid in pids)
    process.kill()
    process.wait()
    deadline = time.time() + 20
    while any(is_alive(pid) for pid in pids) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in pids)


def test_a_wrong_flag_is_found_before_anything_starts(start):
    process, out = start('--batch_size=0')
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and '--batch_size' in said
    assert not out.exists()


def test_missing_data_is_found_before_anything_starts(start):
    process, out = start('--data_path=nowhere')
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and said.endswith('nowhere: expected data; found none; give another.\n')
    assert said.count('\n') == 1
    assert not out.exists()
