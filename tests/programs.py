# SPDX-License-Identifier: Apache-2.0
"""Programs as a user runs them, in processes of their own, and what they say and leave. Their networks are small."""
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
IN_PROGRAMS = os.path.join(TESTS, 'in_programs')
_OF_A_RANK = ('ASCEND_DEVICE_ID', 'RANK_ID', 'RANK_SIZE', 'RANK_TABLE_FILE', 'CUDA_VISIBLE_DEVICES', 'JOB_ID',
              'TF_CONFIG', 'SERVER_ID', 'CALLED_FROM', 'HCCL_IF_BASE_PORT', 'PYTHONPATH')


def environment(**more):
    """This process's, without what a launcher sets; small networks, this Python."""
    own = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
    return dict(own, **dict({'PYTHON': sys.executable, 'PYTHONPATH': IN_PROGRAMS}, **more))


def start(command, env=(), **kwargs):
    """Starts a command; `env` is added to its environment."""
    return subprocess.Popen(command, env=environment(**dict(env)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, **kwargs)


def finish(command, timeout=300, **kwargs):
    """(exit code, what it said)."""
    process = start(command, **kwargs)
    said, _ = process.communicate(timeout=timeout)
    return process.returncode, said


def interrupt(process, after, do):
    """Waits for a line of the process that holds `after`, does something and returns all that it said.

    Args:
      do: number of a signal for the process, or a function to call.
    """
    said = ''
    for line in process.stdout:
        said += line
        if after in line:
            do() if callable(do) else process.send_signal(do)
            break
    return said + process.communicate(timeout=120)[0]


def on_terminal(command, columns=120, timeout=300, env=(), **kwargs):
    """(exit code, what it showed) of a command on a terminal."""
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    process = subprocess.Popen(command, env=environment(**dict(env)), stdin=child, stdout=child, stderr=child, **kwargs)
    os.close(child)
    shown = b''
    while select.select([terminal], [], [], timeout)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the last writer has closed its side
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return process.wait(timeout), shown.decode('utf-8', 'replace')


@contextlib.contextmanager
def drawn_on_terminal(columns):
    """A terminal as the launcher hands one down; a list of the lines that were drawn on it, once that is over."""
    from common import progress
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    drawn, parts = [], []

    def read():
        with contextlib.suppress(OSError):  # the last writer has closed its side
            while True:
                parts.append(os.read(ours, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    os.environ[progress.TERMINAL_FD] = str(theirs)
    try:
        yield drawn
    finally:
        del os.environ[progress.TERMINAL_FD]
        os.close(theirs)
        reader.join()
        os.close(ours)
        text = b''.join(parts).decode().replace('\x1b[K', '')
        drawn += [line.rstrip() for line in re.split('[\r\n]+', text) if line.strip()]


@contextlib.contextmanager
def asked_to_stop(train, monkeypatch, step):
    """Within it a folder's training, in this process, gets SIGTERM in a step, from 1."""
    def rate_and_request(done, *words):
        if done == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(done, *words)
    rate = train.learning_rate
    with monkeypatch.context() as asked:
        asked.setattr(train, 'learning_rate', rate_and_request)
        yield


def events(said, name=None):
    """The events in what a program said: [(name, {key: text})], or of one name [{key: text}]."""
    from common import logparse
    found = [event for event in map(logparse.parse_line, said.splitlines()) if event]
    return [fields for event, fields in found if event == name] if name else found


def event(said, name):
    """Fields of the last [name] line."""
    return events(said, name)[-1]


def script_flags(script):
    """train.py's flags in a launch script."""
    _, said = finish(['bash', script], env={'PYTHON': 'echo'})
    return said.split(' train.py ')[1].split()


def weights(prefix):
    """{name: array} of a TensorFlow checkpoint."""
    import tensorflow.compat.v1 as tf
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def check_shown(shown, ended):
    """What a script of a whole run with an evaluation before its last step shows on a terminal."""
    assert ended == 0 and 'Bad file descriptor' not in shown, shown
    names = [name for name, _ in events(shown)]
    assert names.index('eval') < len(names) - 1 - names[::-1].index('train') and names[-1] == 'done', shown
    for line in ('Final Performance images/sec : ', 'Final Performance sec/step : ', 'E2E Training Duration sec : ',
                 'Final Train Accuracy : 0.', ' steps, '):
        assert line in shown, line


def check_left(folder, case, steps, losses='train_%s_loss.txt'):
    """What a run leaves in its folder; `losses` names the file of as many losses as it had steps."""
    for name in ('train_0.log', 'metrics.jsonl', 'flags.json', 'ckpt/checkpoint', 'report.md', 'curves.png',
                 case + '.log', losses % case):
        assert os.path.exists(os.path.join(str(folder), name)), name
    with open(os.path.join(str(folder), losses % case)) as lines:
        assert len(lines.read().split()) == steps
    assert [name for name in os.listdir(os.path.join(str(folder), 'tb')) if 'tfevents' in name]


def is_alive(pid):
    """Whether a process is there and no zombie."""
    try:
        with open('/proc/%d/stat' % pid) as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False
