# SPDX-License-Identifier: Apache-2.0
"""Starts processes side by side, stops all when one fails, and leaves none behind.

Each process leads a session and a process group of its own, so the terminal's Ctrl-C reaches the caller alone, and what
a process started itself can be ended with it. To be stopped means: SIGTERM to the process, time to save, SIGKILL to its
group. Processes write into their logs themselves, so they can still do so when the caller is gone.

The caller may be killed at any moment (kill -9, a closed terminal). Therefore a watcher, this file as a script in a
session of its own, reads a pipe that ends with the caller and stops the groups whose numbers it was told.
"""
import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time

GRACE_SEC = 20  # from SIGTERM to SIGKILL when one has failed
SAVING_SEC = 120  # the same when all were asked to stop, from the end of the first: another may still be saving
_LEFTOVER_SEC = 1  # what a process's own children get to end after it
_ON_REQUEST = (130, 143)  # exit codes of one that was asked, 128 + SIGINT or SIGTERM, and has saved

Task = collections.namedtuple("Task", "environment log cores pass_fds")
Task.__doc__ = """One process to start: dict environment, its log (a binary file opened for appending, also of its
stderr), cores to bind it to (set of int, or None) and file descriptors that it inherits."""


def run(command, tasks):
    """Runs a command once for each task and returns when all processes have ended.

    When one fails, all are stopped. When one ends on request (exit code 130 or 143), so are they, with more time. A
    SIGINT or SIGTERM to the caller goes to every process; the third one is a SIGKILL. Call it from the main thread.

    Args:
      command: list of str.
      tasks: list of Task.
    Returns:
      (index, exit_code) of the process that failed first; (None, 0) when none did. A signal's number counts from 128.
    """
    events = queue.SimpleQueue()  # (index, exit code) of a process that ended, (None, number) for a signal to us
    previous = {number: signal.signal(number, lambda number, _frame: events.put((None, number)))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _watcher() as watched:
            processes = [_start(command, task, watched) for task in tasks]
            waiting = [threading.Thread(target=_wait, args=(index, process, watched, events), daemon=True)
                       for index, process in enumerate(processes)]
            for thread in waiting:
                thread.start()
            failed = _see_to_the_end([process.pid for process in processes], events)
            for thread in waiting:
                thread.join()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return failed


def _see_to_the_end(pids, events):
    """Answers events until every process has ended; (index, exit_code) of the first failure, or (None, 0)."""
    running, first, requests, deadline = dict(enumerate(pids)), (None, 0), 0, None
    while running:
        try:
            index, number = events.get(timeout=deadline and max(0, deadline - time.monotonic()))
        except queue.Empty:
            deadline = None
            for pid in running.values():
                _signal(os.killpg, pid, signal.SIGKILL)
            continue
        if index is None:
            requests += 1
            for pid in running.values():
                _signal(*(os.kill, pid, number) if requests < 3 else (os.killpg, pid, signal.SIGKILL))
            continue
        del running[index]
        exit_code = number if number >= 0 else 128 - number
        if exit_code and first[1] == 0:
            first = index, exit_code
            if not requests:
                for pid in running.values():
                    _signal(os.kill, pid, signal.SIGTERM)
            deadline = time.monotonic() + (SAVING_SEC if requests or number in _ON_REQUEST else GRACE_SEC)
    return first


def _start(command, task, watched):
    def before_exec():  # in the child: from here on the watcher knows it, whatever happens to the caller
        os.write(watched.fileno(), b"+%d\n" % os.getpid())
        if task.cores:
            os.sched_setaffinity(0, task.cores)
    return subprocess.Popen(command, env=task.environment, stdin=subprocess.DEVNULL, stdout=task.log,
                            stderr=subprocess.STDOUT, pass_fds=task.pass_fds, start_new_session=True,
                            preexec_fn=before_exec)


def _wait(index, process, watched, events):
    """Reports a process's end and ends what is left of its group. A thread each: polling would blur who was first."""
    events.put((index, process.wait()))
    deadline = time.monotonic() + _LEFTOVER_SEC
    while _signal(os.killpg, process.pid, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(os.killpg, process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        watched.write(b"-%d\n" % process.pid)


def _signal(send, pid, number):
    """True when somebody was there to get the signal."""
    try:
        send(pid, number)
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _watcher():
    """Gives the pipe into which the watcher is told '+pid' and '-pid'; in the end it has done its work."""
    watcher = subprocess.Popen([sys.executable, "-I", "-S", os.path.abspath(__file__)], bufsize=0, cwd="/",
                               stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        yield watcher.stdin
    finally:
        watcher.stdin.close()
        watcher.wait()


def watch(lines):
    """The watcher: follows b'+pid' and b'-pid' lines to their end, then stops every process that was not taken back."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # a scheduler may send these to everybody
        signal.signal(number, signal.SIG_IGN)
    groups = set()
    for line in lines:
        (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    left = {pid for pid in groups if _signal(os.kill, pid, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_SEC
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {pid for pid in left if _signal(os.kill, pid, 0)}
    for pid in groups:
        _signal(os.killpg, pid, signal.SIGKILL)


if __name__ == "__main__":
    watch(sys.stdin.buffer)
