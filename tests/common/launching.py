# SPDX-License-Identifier: Apache-2.0
"""A training script that needs no TensorFlow, for tests of the launcher, and how to start it and look at it."""
import json
import os
import shutil
import subprocess
import sys
import time

import programs
from conftest import ROOT

SCRIPT = '''
import argparse, json, os, signal, socket, subprocess, sys, time
from common import flags

def parse_args(argv=None):
    parser = flags.Parser(prog="train.py")
    parser.add_argument("--do", default="finish")
    parser.add_argument("--mode", default="train")
    flags.add_run_group(parser, epochs=1, batch_size=8, precision_mode="force_fp32")
    parsed = parser.parse_args(argv)
    parsed.output_path = parsed.output_path or flags.default_output_path(os.path.dirname(os.path.abspath(__file__)))
    return parsed

def find_data(parsed):
    from common.files import DataError
    if parsed.data_path:
        raise DataError(parsed.data_path, "data", "none", "give another")

def done(step=1):
    print("[train] step=%d loss=2.0" % step)
    print("[done] step=1 images_per_sec=80.0 images_per_sec_per_card=80.0 ms_per_step=100.0 status=ok")

def finish(rank, last):
    from common import progress
    bar = progress.bar(30)
    bar.update(30)
    bar.refresh()
    bar.close()
    done()

def nothing(rank, last):
    pass

def go_on(rank, last):
    print("[run] model=Fake device=cpu ranks=1 batch_size=8 first_step=1 before_sec=1000")
    print("[train] step=2 loss=1.0")
    done(3)

def chinese(rank, last):
    os.write(1, "训练\\n".encode())
    done()

def all_but_last(rank, last):
    if rank != last:
        done()

def wait(rank, last):
    time.sleep(60)

def wait_for_others(rank, last):  # the last rank returns when all are ready for a signal
    if rank != last:
        time.sleep(60)
    while not all(os.path.exists("../ready_%d" % other) for other in range(last)):
        time.sleep(0.01)

def fail(rank, last):
    wait_for_others(rank, last)
    sys.exit("the reason")

def crash(rank, last):
    wait_for_others(rank, last)
    os.kill(os.getpid(), signal.SIGKILL)

def lose_peer(rank, last):  # the others see it 50 ms later and fail, too
    if rank == last:
        wait_for_others(rank, last)
        print("the reason")
        open("../gone", "w").close()
        os._exit(3)
    while not os.path.exists("../gone"):
        time.sleep(0.002)
    time.sleep(0.05)
    sys.exit("a peer vanished")

def give_up(rank, last):  # on request of somebody at another server
    wait_for_others(rank, last)
    sys.exit(143)

def early(rank, last):
    time.sleep(0 if rank == last else 1)
    done()

def tell(rank, last):
    names = ("RANK_ID", "RANK_SIZE", "ASCEND_DEVICE_ID", "CUDA_VISIBLE_DEVICES", "JOB_ID", "RANK_TABLE_FILE",
             "TF_CONFIG", "CM_CHIEF_IP", "CM_WORKER_SIZE")
    told = {name: os.environ[name] for name in names if name in os.environ}
    print("told " + json.dumps(dict(told, output_path=parse_args().output_path, cores=sorted(os.sched_getaffinity(0)))))
    done()

def child():
    code = ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
            "time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    print("child %d." % process.pid)

def leave(rank, last):
    child()
    done()

def stubborn(rank, last):  # as one that hangs in native code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child()
    open("../settled", "w").close()
    time.sleep(60)

def stubborn_fail(rank, last):
    if rank != last:
        stubborn(rank, last)
    while not os.path.exists("../settled"):
        time.sleep(0.01)
    sys.exit("the reason")

def stubborn_signalled(rank, last):  # not asked to save: ended
    if rank == last:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while not os.path.exists("../settled"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    stubborn(rank, last)

def meet(rank, last, then="done"):  # all ranks connect to rank 0, which lets them go
    host, port = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][0].split(":")
    if rank == 0:
        server, met = socket.socket(), {}
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(port)))
        server.listen(last)
        while len(met) < last:
            connection, (address, _) = server.accept()
            met[int(connection.recv(16))] = connection
            print("met from", address)
        if then != "done":
            print("all are here")
            signal.pause()
        for connection in met.values():
            connection.send(then.encode())
    else:
        while True:
            try:
                connection = socket.create_connection((host, int(port)), 1)
                break
            except OSError:
                time.sleep(0.05)
        connection.settimeout(60)
        connection.send(b"%d" % rank)
        heard = connection.recv(16)
        if heard != b"done":
            sys.exit(143 if heard == b"stop" else "rank 0 vanished")
    done()

def meet_and_stop(rank, last):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    meet(rank, last, "stop")

def meet_and_fail(rank, last):
    if rank == last:
        time.sleep(0.5)
        sys.exit("the reason")
    meet(rank, last, "stop")

if __name__ == "__main__":
    parsed, rank = parse_args(), int(os.environ["RANK_ID"])
    signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
    print("rank", rank, "of", os.environ["RANK_SIZE"], "device", os.environ["ASCEND_DEVICE_ID"], "pid", os.getpid())
    if parsed.do != "go_on":
        print("[run] model=Fake device=cpu ranks=%s batch_size=8" % os.environ["RANK_SIZE"])
    open("../ready_%d" % rank, "w").close()
    globals()[parsed.do](rank, int(os.environ["RANK_SIZE"]) - 1)
'''

class Launching:
    """Starts launchers in a model folder Net below `folder`; close() ends those that are left.

    The launcher is a copy that loses its patience after two seconds instead of twenty.
    """

    def __init__(self, folder):
        self.net, self.root, self._started = folder / 'Net', folder / 'root', []
        self.net.mkdir()
        (self.net / 'train.py').write_text(SCRIPT)
        for package in ('common', 'launcher', 'tools'):
            shutil.copytree(os.path.join(ROOT, package), str(self.root / package),
                            ignore=shutil.ignore_patterns('__pycache__'))
        processes = self.root / 'launcher' / 'processes.py'
        patient = processes.read_text()
        assert patient.count('GRACE_SEC = 20 ') == 1
        processes.write_text(patient.replace('GRACE_SEC = 20 ', 'GRACE_SEC = 2 '))

    def start(self, *words, ranks=1, output='out', before=(), **environment):
        """Returns the launcher's process; `before` are words before its command, `environment` is added."""
        own = programs.environment(PYTHONPATH=str(self.root), **environment)
        self._started.append(subprocess.Popen(
            list(before) + [sys.executable, '-m', 'launcher', '--case=acc', '--ranks=%s' % ranks, 'train.py']
            + (['--output_path=' + output] if output else []) + list(words),
            cwd=str(self.net), env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return self._started[-1]

    def run(self, *words, **how):
        """Starts, waits; returns (exit code, what was said)."""
        process = self.start(*words, **how)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def log(self, number=0):
        return self.net / 'out' / ('train_%d.log' % number)

    def told(self, number=0):
        """What a rank found in its environment (--do=tell)."""
        return json.loads(self.log(number).read_text().split('told ')[1].split('\n')[0])

    def close(self):
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.stdout.close()


def wait_for(path, text, seconds=60):
    """The content of a file once it contains a text."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        if path.exists() and text in path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError('%s never appeared in %s' % (text, path))


def all_gone(pids, seconds):
    """Whether processes end within a time."""
    deadline = time.time() + seconds
    while any(map(programs.is_alive, pids)) and time.time() < deadline:
        time.sleep(0.05)
    return not any(map(programs.is_alive, pids))


def pids_in(text):
    """The process numbers that the script printed: its own and its child's."""
    return [int(part.split()[0].rstrip('.')) for word in ('pid ', 'child ') for part in text.split(word)[1:]]
