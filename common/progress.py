# SPDX-License-Identifier: Apache-2.0
"""What a person at a terminal sees while work goes on: one line at its bottom. Files and pipes get nothing of it.

    with progress.Phase("starting TensorFlow"): ...         # starting TensorFlow, 4 s
    with progress.bar(images, "evaluating") as bar: ...     # evaluating  41%|████      | 4096/10000 images, 00:09 left
"""
import os
import sys
import threading
import time

TERMINAL_FD = "RUN_PROGRESS_FD"  # environment: a terminal's file descriptor that the launcher hands down
_FIRST_SEC = 0.5  # what is over sooner is not worth a line


def _terminal():
    """The file to draw on: the launcher's terminal when it handed one down, else stderr. Not closed with the line: the
    next one needs it, and its number could by then be a checkpoint's."""
    handed_down = os.environ.get(TERMINAL_FD)
    return open(int(handed_down), "w", closefd=False) if handed_down else sys.stderr


class Phase:
    """Says from now until close() what is going on, and for how many seconds."""

    def __init__(self, text):
        self._text, self._ended, self._thread = text, threading.Event(), None
        self._file = _terminal()
        if self._file.isatty():
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()

    def _tick(self):
        began, wait_sec = time.monotonic(), _FIRST_SEC
        while not self._ended.wait(wait_sec):
            self._draw("%s, %.0f s" % (self._text, time.monotonic() - began))
            wait_sec = 1

    def _draw(self, text):
        try:
            self._file.write("\r\033[K" + text)
            self._file.flush()
        except OSError:  # the terminal was closed
            self._ended.set()

    def close(self):
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
            self._draw("")

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()



def bar(total, text="", done=0, unit="images"):
    """A tqdm bar, which update(count) moves; what set_postfix_str() gives stands before the time that is left.

    Args:
      total, done: int, of the whole work.
      text: what is going on.
    """
    from tqdm import tqdm
    shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}{postfix}, {remaining} left"
    return tqdm(total=total, initial=done, unit=unit, desc=text, bar_format="{desc} " + shape if text else shape,
                file=_terminal(), disable=None, leave=False, position=0, dynamic_ncols=True, smoothing=0,
                mininterval=0.5, miniters=1)


def over(items, text):
    """Yields the items of a sequence, batches, under a bar."""
    with bar(len(items), text, unit="batches") as line:
        for item in items:
            yield item
            line.update()
