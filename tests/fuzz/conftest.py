# SPDX-License-Identifier: Apache-2.0
"""Processes that try cases, watched from outside; the counts of the cases, shown at the end."""
import collections
import json
import os
import select
import subprocess
import sys
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LONGEST_SEC, MOST_BYTES = 10, 2 * 10 ** 9
_TICKS, _PAGE = os.sysconf('SC_CLK_TCK'), os.sysconf('SC_PAGE_SIZE')

# It watches by audit hooks, which are newer than the oldest Python here; one Python is enough.
collect_ignore_glob = ['test_*.py'] if sys.version_info < (3, 10) else []


def pytest_configure(config):
    config.fuzz_counts = {}


def pytest_terminal_summary(terminalreporter, config):
    if config.fuzz_counts:
        terminalreporter.section('damaged files')
        for name, counts in sorted(config.fuzz_counts.items()):
            terminalreporter.write_line('%-20s tried %6d: read %6d, refused %6d, found %d' % (
                name, sum(counts.values()), counts['returned'], counts['refused'], counts['found']))


class Worker:
    """One process of worker.py, watched from outside; started anew when a case ends it."""

    def __init__(self, work, folder):
        self._command = [sys.executable, os.path.join(HERE, 'worker.py'), work, folder]
        self._process = None
        self._starting = True

    def ask(self, **order):
        """(outcome, words, name of the damaged file) of a case."""
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
            self._starting = True
        self._process.stdin.write((json.dumps(order) + '\n').encode())
        self._process.stdin.flush()
        reason = self._wait()
        if reason:
            self.close()
            return 'found', reason, '?'
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self.close()
            return 'found', 'the process ended with %d' % code, '?'
        self._starting = False
        return json.loads(line)

    def _wait(self):
        """None when there is an answer, else what went wrong. The time is the process' own: the machine may be busy."""
        begun, used_sec = time.monotonic(), self._used()[0]
        longest_sec = LONGEST_SEC * (6 if self._starting else 1)  # to import TensorFlow and draw the files
        while not select.select([self._process.stdout], [], [], 0.02)[0]:
            now_sec, memory_bytes = self._used()
            if memory_bytes > MOST_BYTES:
                return '%.1f GB of memory' % (memory_bytes / 1e9)
            if now_sec - used_sec > longest_sec or time.monotonic() - begun > 12 * longest_sec:
                return 'no end after %.0f s' % (time.monotonic() - begun)
        return None

    def _used(self):
        """(seconds of the processor, bytes of memory) so far."""
        try:
            with open('/proc/%d/stat' % self._process.pid) as file:
                fields = file.read().rpartition(')')[2].split()
        except OSError:
            return 0, 0
        return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope='session')
def workers(tmp_path_factory):
    """{model folder: Worker}, started when they are asked."""
    work = str(tmp_path_factory.mktemp('fuzz'))
    started = collections.defaultdict(lambda: None)

    def of(folder):
        started[folder] = started[folder] or Worker(work, folder)
        return started[folder]
    yield of
    for worker in started.values():
        worker.close()
