# SPDX-License-Identifier: Apache-2.0
"""Starts several ranks through the launcher, in folders of a test's own, and reads what they leave behind."""
import json
import os
import re
import signal
import subprocess
import sys

import programs
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = programs.ROOT


class Run:
    """One run folder, by default of tiny_train.py."""

    def __init__(self, folder, launchers):
        self.folder, self._launchers = folder, launchers

    def start(self, ranks, *words, before=(), command=None, cwd=HERE, **environment):
        command = command or [sys.executable, '-m', 'launcher', '--case=acc', '--ranks=%d' % ranks, 'tiny_train.py']
        own = programs.environment(PYTHONPATH=os.pathsep.join([ROOT, programs.IN_PROGRAMS]), **environment)
        self._launchers.append(subprocess.Popen(
            list(before) + command + ['--device=cpu', '--output_path=%s' % self.folder] + list(words), cwd=cwd, env=own,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return self._launchers[-1]

    def finish(self, ranks, *words, code=0, **how):
        """Starts, waits, returns what was said."""
        process = self.start(ranks, *words, **how)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        return said

    def log(self, rank=0):
        path = os.path.join(str(self.folder), 'train_%d.log' % rank)
        if not os.path.exists(path):
            return ''
        with open(path) as file:
            return file.read()

    def checksums(self, ranks):
        """Those of the ranks' [done] lines, the newest of each."""
        return [re.findall(r'\[done\] .*checksum=(\w+)', self.log(rank))[-1] for rank in range(ranks)]

    def events(self, kind):
        with open(os.path.join(str(self.folder), 'metrics.jsonl')) as lines:
            return [event for event in map(json.loads, lines) if event['event'] == kind]

    def variables(self, folder='ckpt'):
        """{name: array} of the newest checkpoint."""
        import tensorflow.compat.v1 as tf
        reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(os.path.join(str(self.folder), folder)))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _runs(folder):
    launchers, count = [], []

    def make():
        count.append(1)
        return Run(folder / ('run%d' % len(count)), launchers)
    yield make
    for process in launchers:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
def new_run(tmp_path):
    """() -> Run in a folder of its own; launchers that are left in the end are killed, and their ranks with them."""
    yield from _runs(tmp_path)


@pytest.fixture(scope='session')
def shared_run(tmp_path_factory):
    """The same for runs that several tests look at."""
    yield from _runs(tmp_path_factory.mktemp('shared'))
