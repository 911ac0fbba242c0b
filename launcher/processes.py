# SPDX-License-Identifier: Apache-2.0
"""Starts processes side by side, stops all when one fails, and leaves none behind.

Each process leads a session and a process group of its own, so the terminal's Ctrl-C reaches the caller alone, and what
a process started itself can be ended with it. To be stopped means: SIGTERM to the process, time to save, SIGKILL to its
group. Processes write into their logs themselves, so they can still do so when the caller is gone.

The caller may be killed at any moment (kill -9, a closed terminal). Therefore a watcher, this file as a script in a
session of its own, reads a pipe that ends with the caller and stops the groups whose numbers it was told. Each process
begins as this file, too, and tells its number before it becomes the command: it is known from the first moment on.
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
    # (index, exit code) of a process that ended, (None, number) for a signal to us
    events: queue.SimpleQueue = queue.SimpleQueue()

    def note_request(number, _frame):
        events.put((None, number))

    previous = {number: signal.signal(number, note_request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _start_watcher() as watcher:
            processes = [_start(command, task, watcher.stdin) for task in tasks]
            waiting = [threading.Thread(target=_wait, args=(index, process, watcher.stdin, events), daemon=True)
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
            _send(os.killpg, running.values(), signal.SIGKILL)
            continue
        if index is None:
            requests += 1
            if requests < 3:
                _send(os.kill, running.values(), number)
            else:
                _send(os.killpg, running.values(), signal.SIGKILL)
            continue
        del running[index]
        exit_code = number if number >= 0 else 128 - number
        if exit_code and first[1] == 0:
            first = index, exit_code
            if not requests:
                _send(os.kill, running.values(), signal.SIGTERM)
            deadline = time.monotonic() + (SAVING_SEC if requests or number in _ON_REQUEST else GRACE_SEC)
    return first


def _start(command, task, watched):
    words = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(watched.fileno()),
             ",".join(map(str, sorted(task.cores or ())))]
    return subprocess.Popen(words + command, env=task.environment, stdin=subprocess.DEVNULL, stdout=task.log,
                            stderr=subprocess.STDOUT, pass_fds=(watched.fileno(),) + tuple(task.pass_fds),
                            start_new_session=True)


def _wait(index, process, watched, events):
    """Reports a process's end and ends what is left of its group. A thread each: polling would blur who was first."""
    events.put((index, process.wait()))
    deadline = time.monotonic() + _LEFTOVER_SEC
    while _send(os.killpg, [process.pid], 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send(os.killpg, [process.pid], signal.SIGKILL)
    with contextlib.suppress(OSError):
        watched.write(b"-%d\n" % process.pid)


def _send(send, pids, number):
    """Sends a signal with os.kill, or os.killpg to whole groups; whether anybody was there to get it."""
    reached = False
    for pid in pids:
        with contextlib.suppress(OSError):
            send(pid, number)
            reached = True
    return reached


def _start_watcher():
    """Into its stdin go '+pid' and '-pid'; when that is closed it does its work and ends."""
    return subprocess.Popen([sys.executable, "-I", "-S", os.path.abspath(__file__)], bufsize=0, cwd="/",
                            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)


def watch(lines):
    """The watcher: follows b'+pid' and b'-pid' lines to their end, then stops every process that was not taken back."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # a scheduler may send these to everybody
        signal.signal(number, signal.SIG_IGN)
    groups = set()
    for line in lines:
        if line.startswith(b"+"):
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    _send(os.kill, groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SEC
    while _send(os.kill, groups, 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    _send(os.killpg, groups, signal.SIGKILL)


def become(watched, cores, *command):
    """A process's first moments: tells the watcher its number, binds its cores ("0,1", or ""), is then the command."""
    os.write(int(watched), b"+%d\n" % os.getpid())
    os.close(int(watched))
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execv(command[0], command)


if __name__ == "__main__":
    if sys.argv[1:]:
        become(*sys.argv[1:])
    watch(sys.stdin.buffer)
