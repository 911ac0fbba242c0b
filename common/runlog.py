# SPDX-License-Identifier: Apache-2.0
"""What a run says while it runs: event lines, metrics.jsonl, throughput.

An event line is `10:15:41 [train] step=500 loss=1.2345`. The same fields, unrounded, go to metrics.jsonl, one JSON
object a line. A value with blanks is written as a JSON string: `[warn] message="no AVX512_BF16"`.
"""
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback

from common import ranks
from common.files import DataError, Explained, end_last_line, is_full_disk

RUN, TRAIN, EVAL, SAVE, WARN, FAIL, DONE = "run", "train", "eval", "save", "warn", "fail", "done"
EVENTS = (RUN, TRAIN, EVAL, SAVE, WARN, FAIL, DONE)

METRICS_FILE = "metrics.jsonl"

# Digits that a reader wants to see; other floats get six significant ones.
_DECIMALS = {"loss": 4, "top1": 4, "top1_no_ema": 4, "top1_tta": 4, "top5": 4, "map": 4, "map_area": 4, "epoch": 3,
             "images_per_sec": 1, "images_per_sec_per_card": 1, "ms_per_step": 1, "eta_sec": 0, "wall_sec": 1,
             "data_wait": 3}


class NonFiniteLoss(Explained):
    """The loss became NaN or infinite; the text names step, value, last checkpoint and what to do."""


def format_event(event, fields):
    """(event, {key: value}) -> '[event] key=value ...'."""
    return "[%s] %s" % (event, " ".join("%s=%s" % (key, _format_value(key, value)) for key, value in fields.items()))


def _format_value(key, value):
    if isinstance(value, float):
        return "%.*f" % (_DECIMALS[key], value) if key in _DECIMALS else "%.6g" % value
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c == '"' for c in text) else text


def say(line):
    """Prints a line over what progress.py drew; no lack of characters, closed pipe or full disk ends the work."""
    try:
        text = ("\r\033[K" if sys.stdout.isatty() else "") + line
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:  # nobody reads any more; or there is no room, but perhaps for the next line
        sys.stdout = (open(sys.stdout.fileno(), "w", encoding=encoding, closefd=False) if is_full_disk(error) else
                      open(os.devnull, "w"))


class RunLog:
    """Writes the event lines of one rank.

    Args:
      output_path: run folder, or None to print only.
      rank: this process; ranks above 0 only print, and of events only [warn], [fail] and [done].
      tensorboard: folder for TensorBoard, or None.
      log_name: a file of the run folder that gets the event lines as well, or None.
    """

    def __init__(self, output_path=None, rank=0, tensorboard=None, log_name=None):
        self.rank = rank
        self._tensorboard = ScalarWriter(tensorboard) if tensorboard and rank == 0 else None
        self._file = self._text_file = None
        if output_path and rank == 0:
            self._file = _append_lines(os.path.join(output_path, METRICS_FILE))
            if log_name:
                self._text_file = _append_lines(os.path.join(output_path, log_name))

    def event(self, event, **fields):
        """Prints one event and appends it to metrics.jsonl; numbers also go to TensorBoard as <event>/<key>."""
        if self.rank != 0 and event not in (WARN, FAIL, DONE):
            return
        line = time.strftime("%H:%M:%S ") + format_event(event, fields)
        say(line)
        if self._text_file:
            self._text_file.write(line + "\n")
            self._text_file.flush()
        if self._file:
            self._file.write(json.dumps(dict(time=round(time.time(), 3), event=event, **fields)) + "\n")
            self._file.flush()
        if self._tensorboard and event in (TRAIN, EVAL) and "step" in fields:
            for key, value in fields.items():
                if key != "step" and isinstance(value, float):
                    self._tensorboard.scalar("%s/%s" % (event, key), value, fields["step"])

    def warn(self, *messages):
        """A [warn] line for each sentence."""
        for message in messages:
            self.event(WARN, message=message)

    def fail(self, error, step=None):
        """The [fail] line of an exception; what was not foreseen also leaves its traceback in the log.

        Args:
          step: the step after which it happened, or None.
        """
        if is_full_disk(error) and not isinstance(error, Explained):
            error = DataError(getattr(error, "filename", None) or "the run folder", "room to write", "a full disk",
                              "free some space and give the same command again, which goes on from the last whole "
                              "checkpoint")
        lines = [line for line in str(error).strip().split("\n") if line.strip()] or ["no reason given"]
        message = lines[0] if len(lines) == 1 else "%s %s" % (lines[0], lines[-1])
        if not isinstance(error, (Explained, OSError)):
            traceback.print_exception(type(error), error, error.__traceback__)
            message = "%s%s: %s" % ("after step %d: " % step if step else "", type(error).__name__, message)
        elif len(lines) > 1:  # a worker's traceback
            say("\n".join(lines))
        with contextlib.suppress(OSError):  # it has been said; the disk may be full
            self.event(FAIL, message=message)

    def close(self):
        for file in (self._file, self._text_file):
            if file:
                with contextlib.suppress(OSError):  # of what is left of a line that event() could not write
                    file.close()


def _append_lines(path):
    end_last_line(path)
    return open(path, "a", encoding="utf-8")


def guarded(function, *args):
    """A program's exit code: what function(*args) returns, or 1 after a [fail] line that says in a sentence why."""
    try:
        return function(*args)
    except Exception as error:
        RunLog(rank=0 if ranks.is_rank_0() else 1).fail(error)
        return 1


class Throughput:
    """Images per second of training alone: warm-up steps, evaluation and saving do not count.

    Call step() after every training step and wrap everything else in paused().
    """

    def __init__(self, images_per_step, warmup_steps=5):
        self._images_per_step, self._warmup_left = images_per_step, warmup_steps
        self._total_steps = self._recent_steps = 0
        self._total_sec = self._recent_sec = self._recent_wait_sec = 0.0
        self._mark = time.perf_counter()

    def step(self, data_wait_sec=0.0):
        """Counts one step that ended now; data_wait_sec of it were spent waiting for its batch."""
        now = time.perf_counter()
        elapsed_sec, self._mark = now - self._mark, now
        if self._warmup_left > 0:
            self._warmup_left -= 1
            return
        self._total_steps += 1
        self._total_sec += elapsed_sec
        self._recent_steps += 1
        self._recent_sec += elapsed_sec
        self._recent_wait_sec += data_wait_sec

    @contextlib.contextmanager
    def paused(self):
        """The time spent inside is not training time."""
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before

    def images_per_sec(self):
        """Of the steps since the last [train] line, else of all; 0.0 while there are none."""
        steps, elapsed_sec = ((self._recent_steps, self._recent_sec) if self._recent_steps else
                              (self._total_steps, self._total_sec))
        return steps * self._images_per_step / elapsed_sec if steps else 0.0

    def recent(self, steps_left):
        """Fields for a [train] line over the steps since the last call; {} when all of them were warm-up.

        Args:
          steps_left: int, to the end of the run.
        Returns:
          dict with images_per_sec, data_wait (share of the time spent waiting for batches) and eta_sec (training
          time left at the average speed so far).
        """
        if not self._recent_steps:
            return {}
        fields = {"images_per_sec": self._recent_steps * self._images_per_step / self._recent_sec,
                  "data_wait": self._recent_wait_sec / self._recent_sec,
                  "eta_sec": steps_left * self._total_sec / self._total_steps}
        self._recent_steps, self._recent_sec, self._recent_wait_sec = 0, 0.0, 0.0
        return fields

    def total(self, ranks):
        """Fields for the [done] line: images of all ranks / training seconds since warm-up; {} for a shorter run.

        Returns:
          dict with images_per_sec, images_per_sec_per_card and ms_per_step.
        """
        if not self._total_steps:
            return {}
        images_per_sec = self._total_steps * self._images_per_step / self._total_sec
        return {"images_per_sec": images_per_sec, "images_per_sec_per_card": images_per_sec / ranks,
                "ms_per_step": 1000 * self._total_sec / self._total_steps}


class ScalarWriter:
    """TensorBoard scalars in a folder. TensorFlow's FileWriter would fail in a thread of its own, or not at all."""

    def __init__(self, folder):
        import tensorflow.compat.v1
        self._tf = tensorflow.compat.v1
        os.makedirs(folder, exist_ok=True)
        self._file = self._tf.python_io.TFRecordWriter(os.path.join(folder, "events.out.tfevents.%d.%s.%d" % (
            time.time(), socket.gethostname(), os.getpid())))
        self._write(file_version="brain.Event:2")

    def scalar(self, name, value, step):
        """Writes and flushes one value."""
        self._write(step=step, summary=self._tf.Summary(value=[self._tf.Summary.Value(tag=name, simple_value=value)]))

    def _write(self, **fields):
        self._file.write(self._tf.Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()


def source_commit():
    """Short git commit of this source tree, with '+' when it has changes; 'unknown' outside a checkout."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        commit = subprocess.check_output(["git", "-C", root, "rev-parse", "--short", "HEAD"],
                                         stderr=subprocess.DEVNULL).decode().strip()
        changed = subprocess.check_output(["git", "-C", root, "status", "--porcelain", "--untracked-files=no"],
                                          stderr=subprocess.DEVNULL)
        return commit + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
