# SPDX-License-Identifier: Apache-2.0
"""State on disk: whole or absent, never half.

Run folder:
  flags.json                    the run's resolved flags; a folder without it holds no run
  ckpt/step-00000500/           one checkpoint: the model's files and state.json, which is written last
  ckpt/checkpoint               TensorFlow's pointer to the newest one: tf.train.latest_checkpoint(ckpt) works
  ckpt/best.json                which of them evaluated best

A checkpoint is written to a temporary folder, flushed, renamed; only then older ones go. Kept are the newest two and
the best. This module does not import TensorFlow: `write` and `read` are the caller's.
"""
import collections
import json
import os
import shutil
import signal

from common import flags as flag_rules
from common.files import DataError, move_aside, read_json, write_text

FLAGS_FILE, STATE_FILE, BEST_FILE, POINTER_FILE = "flags.json", "state.json", "best.json", "checkpoint"
PREFIX = "model"  # a checkpoint's files are model.index, model.data-00000-of-00001


def open_run(output_path, flags):
    """Decides, before anything is written, whether this is a new run or the continuation of one.

    Called by the launcher before it opens the log and again by the training process, where it changes nothing more.
    Only rank 0 looks: others get its weights and its step, also where they do not see its disk.

    Args:
      output_path: run folder; need not exist.
      flags: {name: value}, with "resume" as in flags.add_run_group.
    Returns:
      True when output_path holds an unfinished run that is to be continued.
    Raises:
      DataError: the flags do not agree with the run that is there, or there is nothing to continue.
    """
    if not is_rank_0():
        return False
    resume = flags["resume"]
    fresh = str(resume).lower() in ("false", "no", "0")
    required = str(resume).lower() in ("true", "yes", "1")
    recorded = read_json(os.path.join(output_path, FLAGS_FILE))
    if recorded is None:
        if required:
            raise DataError(output_path, "an unfinished run, because of --resume=True", "no %s in it" % FLAGS_FILE,
                            "give the --output_path of the run to continue, or leave --resume out")
        return False
    if fresh or is_finished(output_path):
        if required:
            raise DataError(output_path, "an unfinished run, because of --resume=True", "a finished one",
                            "leave --resume out to move it aside and train anew")
        move_aside(output_path)
        return False
    difference = flag_rules.first_difference(recorded, json.loads(json.dumps(flags)))
    if difference:
        raise DataError("--%s" % difference[0], "%r as in the unfinished run in %s" % (difference[1], output_path),
                        repr(difference[2]),
                        "give the same value to continue it, another --output_path, or --resume=False to start anew")
    return True


def find_start(store, continued, resume, find=None):
    """What training starts from.

    Args:
      store: CheckpointStore of the run.
      continued: what open_run said.
      resume: the flag.
      find: path -> (prefix, state), for --resume=PATH; default find_checkpoint.
    Returns:
      (prefix, state): of a run that is continued its newest checkpoint, else the one that --resume=PATH means; None for
      a start from nothing, and on ranks other than 0.
    Raises:
      DataError: PATH holds no checkpoint.
    """
    if not is_rank_0():
        return None
    store.clean()
    found = store.newest() if continued else None
    if found is None and resume.lower() not in ("auto", "true", "false"):
        found = (find or find_checkpoint)(resume)
    return found


def is_rank_0():
    """Whether this process decides about the run folder: it is alone, or rank 0 of several."""
    return os.environ.get("RANK_ID", "") in ("", "0")


def is_finished(output_path):
    """True when the last line of the run's metrics.jsonl is its [done] event."""
    try:
        with open(os.path.join(output_path, "metrics.jsonl"), encoding="utf-8") as lines:
            last = collections.deque(lines, maxlen=1)
        return bool(last) and json.loads(last[0]).get("event") == "done"
    except (OSError, ValueError):
        return False


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      output_path: run folder.
    """

    def __init__(self, output_path):
        self.folder = os.path.join(output_path, "ckpt")

    def save(self, state, write, metric=None):
        """Writes one checkpoint.

        Args:
          state: JSON-able dict with "step"; comes back from newest() and best().
          write: function(prefix) that writes the model's files under that path prefix.
          metric: this checkpoint's evaluation, higher is better; None when it was not evaluated.
        Returns:
          The checkpoint's path prefix.
        """
        os.makedirs(self.folder, exist_ok=True)
        name = "step-%08d" % state["step"]
        temporary = os.path.join(self.folder, "tmp-%s-%d" % (name, os.getpid()))
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary)
        try:
            write(os.path.join(temporary, PREFIX))
            sizes = {}
            for file_name in sorted(os.listdir(temporary)):
                path = os.path.join(temporary, file_name)
                sizes[file_name] = os.path.getsize(path)
                _flush(path)
            write_text(os.path.join(temporary, STATE_FILE), json.dumps(dict(state, files=sizes, metric=metric)))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        final = os.path.join(self.folder, name)
        if os.path.exists(final):  # the same step again, now with its evaluation
            old = "%s-replaced" % temporary
            os.rename(final, old)
            os.rename(temporary, final)
            shutil.rmtree(old)
        else:
            os.rename(temporary, final)
        _flush(self.folder)
        write_text(os.path.join(self.folder, POINTER_FILE), 'model_checkpoint_path: "%s/%s"\n' % (name, PREFIX))
        best = read_json(os.path.join(self.folder, BEST_FILE))
        if metric is not None and (best is None or metric >= best["metric"]):
            best = {"checkpoint": name, "metric": metric}
            write_text(os.path.join(self.folder, BEST_FILE), json.dumps(best))
        for old in self._names()[:-2]:
            if not best or old != best["checkpoint"]:
                shutil.rmtree(os.path.join(self.folder, old))
        return os.path.join(final, PREFIX)

    def newest(self):
        """(prefix, state) of the newest whole checkpoint, or None. Leftovers of a killed save are passed over."""
        for name in reversed(self._names()):
            found = _whole(os.path.join(self.folder, name))
            if found:
                return found
        return None

    def best(self):
        """(prefix, state) of the checkpoint that evaluated best, or None."""
        best = read_json(os.path.join(self.folder, BEST_FILE))
        return _whole(os.path.join(self.folder, best["checkpoint"])) if best else None

    def clean(self):
        """Removes what a killed save of this run left behind."""
        if os.path.isdir(self.folder):
            for name in os.listdir(self.folder):
                if name.startswith("tmp-"):
                    shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)

    def _names(self):
        if not os.path.isdir(self.folder):
            return []
        return sorted(name for name in os.listdir(self.folder) if name.startswith("step-"))


def find_checkpoint(path):
    """The checkpoint that a user means by a path.

    Args:
      path: a run folder, its ckpt/, one checkpoint's folder, or a path prefix (.../model).
    Returns:
      (prefix, state); state is {} for a checkpoint that was not written by this package.
    Raises:
      DataError: there is no whole checkpoint.
    """
    for run_folder in (path, os.path.dirname(os.path.normpath(path))):
        store = CheckpointStore(run_folder)
        if os.path.normpath(path) in (os.path.normpath(run_folder), os.path.normpath(store.folder)):
            found = store.newest()
            if found:
                return found
    found = _whole(path)
    if found:
        return found
    if os.path.exists(path + ".index"):
        return path, read_json(os.path.join(os.path.dirname(path), STATE_FILE)) or {}
    raise DataError(path, "a run folder, its ckpt folder, a checkpoint's folder or a path prefix such as "
                          "ckpt/step-00000500/model", "no whole checkpoint", "train first, or correct the path")


def check_variables(stored, expected, where):
    """Compares a checkpoint's variables with a network's, to fail with a name instead of a stack trace.

    Args:
      stored, expected: {variable name: shape as list of int}.
      where: the checkpoint, for the message.
    Raises:
      DataError: naming the first variable that is missing or has another shape.
    """
    for name in sorted(expected):
        if list(stored.get(name, [])) != list(expected[name]) or name not in stored:
            found = "shape %s" % (list(stored[name]),) if name in stored else "no such variable"
            raise DataError(where, "variable %s of shape %s" % (name, list(expected[name])), found,
                            "give a checkpoint of this network")


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a flag that the loop reads after each step; a second Ctrl-C ends at once.

    Args:
      ranks: int. Several must stop after the same step, so with them exit_code waits for Runtime.meet.
    Attributes:
      asked: 0 while nobody asked this process; 143 after SIGTERM, 130 after Ctrl-C.
      exit_code: 0 while training goes on, else the code to end with.
    """

    def __init__(self, ranks=1):
        self._alone = ranks == 1
        self.asked = self.exit_code = 0
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number, _frame):
        self.asked = 128 + number
        if self._alone:
            self.exit_code = self.asked
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _whole(folder):
    state = read_json(os.path.join(folder, STATE_FILE))
    if not state:
        return None
    for name, size in state["files"].items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or os.path.getsize(path) != size:
            return None
    return os.path.join(folder, PREFIX), state


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
