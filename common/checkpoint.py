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
import itertools
import json
import os
import re
import shutil

from common import flags as flag_rules
from common import ranks
from common.files import DataError, kind_of, lock_folder, move_aside, prepare_output_dir, read_json, write_text

FLAGS_FILE, STATE_FILE, BEST_FILE, POINTER_FILE = "flags.json", "state.json", "best.json", "checkpoint"
LOCK_FD = "RUN_LOCK_FD"  # environment: the descriptor of a lock that the launcher hands down
_NUMBER, _NONE = (int, float), type(None)
_LENGTHS = ("epochs", "train_steps")
PREFIX = "model"  # a checkpoint's files are model.index, model.data-00000-of-00001


def open_run(output_path, flags):
    """Decides, before anything is written, whether this is a new run or the continuation of one, and locks the folder.

    Called by the launcher before it opens the log and again by the training process, where it changes nothing more: the
    launcher's lock is handed down in LOCK_FD. Only rank 0 looks: others get its weights and its step, also where they
    do not see its disk.

    Args:
      output_path: run folder; need not exist.
      flags: {name: value}, with "resume" as flags.resume gives it.
    Returns:
      (True when output_path holds an unfinished run that is to be continued, file descriptor of the lock or None).
      The lock dies with the processes that hold it.
    Raises:
      DataError: another process trains there, the flags do not agree with the run that is there, or there is nothing
        to continue; nothing has been touched then.
    """
    if not ranks.is_rank_0():
        return False, None
    lock = _lock(output_path) if os.path.isdir(output_path) else None
    try:
        continued, replaced = _decide(output_path, flags)
    except DataError:
        if lock is not None:
            os.close(lock)
        raise
    if replaced and lock is not None:
        move_aside(output_path)
        os.close(lock)
        lock = None
    prepare_output_dir(output_path)
    return continued, _lock(output_path) if lock is None else lock


def _decide(output_path, flags):
    """(whether the run that is there is continued, whether it is to be moved aside); DataError refuses."""
    recorded = _read_fields(os.path.join(output_path, FLAGS_FILE))
    state = "none" if recorded is None else "finished" if is_finished(output_path) else "unfinished"
    _check_resume(output_path, flags, state)
    if flags.get("extend") and state != "none":
        recorded = dict(recorded or {}, **_check_extension(output_path, flags))
    elif state != "unfinished" or flags["resume"] == "False":
        return False, state != "none"
    difference = flag_rules.first_difference(recorded, json.loads(json.dumps(flags)))
    if difference:
        longer = ", --extend when it is larger to train on to that end" if difference[0] in _LENGTHS else ""
        raise DataError("--%s" % difference[0], "%r as in the %s run in %s" % (difference[1], state, output_path),
                        repr(difference[2]), "give the same value to continue it%s, another --output_path with "
                        "--init_from=%s to start anew from its weights, or --resume=False to start from none" % (
                            longer, output_path))
    return True, False


def _check_extension(output_path, flags):
    """The lengths of a longer run, which --extend admits; DataError when it is not longer than what is there."""
    prefix, state = find_checkpoint(output_path)
    unit = "step" if flags.get("train_steps") else "epoch"
    check_is_before_end(prefix, state, unit, flags.get("train_steps") or flags.get("epochs"), "--extend")
    return {name: flags.get(name) for name in _LENGTHS}


def _check_resume(output_path, flags, state):
    """DataError when --resume asks for what is not there; `state` of the run folder: none, unfinished, finished."""
    resume = flags["resume"]
    if flags.get("extend") and (state == "none" or resume not in ("auto", "True")):
        raise DataError(output_path, "a run to train on, because of --extend",
                        "no %s in it" % FLAGS_FILE if state == "none" else "--resume=%s" % resume,
                        "give the --output_path of the run that is to become longer, and no --resume")
    if resume in ("auto", "False") or flags.get("extend"):
        return
    if resume == "True":
        if state != "unfinished":
            raise DataError(output_path, "an unfinished run, because of --resume=True",
                            "no %s in it" % FLAGS_FILE if state == "none" else "a finished one",
                            "give the --output_path of the run to continue, or leave --resume out to train anew")
        return
    if flags.get("init_from"):
        raise DataError("--init_from", "one place that weights come from", "--resume=%s as well" % resume,
                        "leave one of them out: --resume=PATH brings step and optimizer, --init_from weights alone")
    prefix, source = find_checkpoint(resume)
    inside = os.path.realpath(prefix).startswith(os.path.realpath(output_path) + os.sep)
    if inside and state == "finished":
        raise DataError("--resume", "a checkpoint of another run", "the finished run of --output_path itself",
                        "give another --output_path to train on from it, or leave --resume out to train anew")
    newest = find_checkpoint(output_path)[0] if inside else prefix
    if os.path.realpath(newest) != os.path.realpath(prefix):
        raise DataError("--resume", "the newest checkpoint of the run in --output_path, %s" % newest, prefix,
                        "give --resume=True to continue from the newest, or another --output_path")
    if inside:
        return
    check_is_before_end(prefix, source, "step", flags.get("train_steps"))
    if not flags.get("train_steps"):
        check_is_before_end(prefix, source, "epoch", flags.get("epochs"))


def check_is_before_end(prefix, state, unit, end, flag="--resume"):
    """DataError when a checkpoint to train on from has done as many steps, or epochs, as the new run is to have."""
    if end and state.get(unit, 0) >= end:
        raise DataError(flag, "a checkpoint before %s %g, the end of this run" % (unit, end),
                        "%s of %s %g" % (prefix, unit, state[unit]), "give a larger --epochs or --train_steps")


def check_classes(prefix, state, classes, where):
    """DataError when a checkpoint says that it was trained on other classes than those of the data.

    Args:
      prefix, state: from find_checkpoint.
      classes: names, in order.
      where: what the data comes from, for the message.
    """
    recorded = state.get("classes", list(classes))
    for number, (name, other) in enumerate(itertools.zip_longest(recorded, classes)):
        if name != other:
            raise DataError(where, "the classes of %s, whose class %d is %s" % (prefix, number, name or "absent"),
                            other or "no such class", "give the data that it was trained with")


def find_start(store, continued, resume, end_step):
    """What training starts from: (path prefix, state), or None for nothing, and on ranks other than 0.

    Args:
      store: CheckpointStore of the run; what a killed save left behind goes.
      continued: what open_run said; then it is the newest checkpoint, without one as for a new run.
      resume: as in the flags; a path means another run's.
      end_step: int, that of the run.
    Raises:
      DataError: the path holds no checkpoint, or one of the end or later.
    """
    if not ranks.is_rank_0():
        return None
    store.clean()
    if continued:
        store.settle()
    newest = store.newest() if continued else None
    if newest or resume in ("auto", "True", "False"):
        return newest
    prefix, state = find_checkpoint(resume)
    check_is_before_end(prefix, state, "step", end_step)
    return prefix, state


def _lock(output_path):
    """The descriptor of this run's lock on its folder: the launcher's, which was handed down, or one of its own."""
    try:
        handed_down = int(os.environ.get(LOCK_FD, ""))
        if os.path.samestat(os.fstat(handed_down), os.stat(output_path)):
            return handed_down
    except (ValueError, OSError):
        pass
    try:
        return lock_folder(output_path, wait=False)
    except OSError as error:
        raise DataError(output_path, "a run folder that is free", "one that another training uses" if isinstance(
            error, BlockingIOError) else str(error), "wait for its end, or give another --output_path") from error


def is_finished(output_path):
    """True when the last line of the run's metrics.jsonl is its [done] event."""
    try:
        with open(os.path.join(output_path, "metrics.jsonl"), encoding="utf-8") as lines:
            last = collections.deque(lines, maxlen=1)
        return bool(last) and json.loads(last[0]).get("event") == "done"
    except (OSError, ValueError, AttributeError):
        return False


class CheckpointStore:
    """The checkpoints of one run, in its folder `name`.

    Args:
      output_path: run folder.
      name: None for what the run's flags say (--name), or "ckpt".
    """

    def __init__(self, output_path, name=None):
        recorded = {} if name else _read_fields(os.path.join(output_path, FLAGS_FILE), name=(str, _NONE)) or {}
        self.folder = os.path.join(output_path, name or recorded.get("name") or "ckpt")

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
        self.settle()
        return os.path.join(final, PREFIX)

    def settle(self):
        """Makes pointer, best.json and the number of checkpoints agree with those that are whole."""
        whole = {name: found[1] for name, found in (
            (name, _whole(os.path.join(self.folder, name))) for name in self._names()) if found}
        if not whole:
            return
        newest = list(whole)[-2:]
        write_text(os.path.join(self.folder, POINTER_FILE), 'model_checkpoint_path: "%s/%s"\n' % (newest[-1], PREFIX))
        judged = [(state["metric"], name) for name, state in whole.items() if state.get("metric") is not None]
        if judged:
            metric, best = max(judged)  # of equal ones the newest
            write_text(os.path.join(self.folder, BEST_FILE), json.dumps({"checkpoint": best, "metric": metric}))
            newest.append(best)
        for old in self._names():
            if old < newest[0] and old not in newest:
                going = os.path.join(self.folder, "tmp-" + old)  # a name under which nobody takes half of it for whole
                os.rename(os.path.join(self.folder, old), going)
                shutil.rmtree(going)

    def newest(self):
        """(prefix, state) of the newest whole checkpoint, or None. Leftovers of a killed save are passed over."""
        for name in reversed(self._names()):
            found = _whole(os.path.join(self.folder, name))
            if found:
                return found
        return None

    def best(self):
        """(prefix, state) of the checkpoint that evaluated best, or None."""
        best = self._read_best()
        return _whole(os.path.join(self.folder, best["checkpoint"])) if best else None

    def clean(self):
        """Removes what a killed save of this run left behind, or what files.py was writing."""
        for folder in filter(os.path.isdir, (os.path.dirname(self.folder), self.folder)):
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if folder == self.folder and name.startswith("tmp-"):
                    shutil.rmtree(path, ignore_errors=True)
                elif re.search(r"^\.probe-|\.tmp-\d+(\.\w+)?$", name) and os.path.isfile(path):
                    os.remove(path)

    def _read_best(self):
        return _read_fields(os.path.join(self.folder, BEST_FILE), checkpoint=str, metric=_NUMBER)

    def _names(self):
        if not os.path.isdir(self.folder):
            return []
        return sorted(name for name in os.listdir(self.folder) if name.startswith("step-"))


def find_checkpoint(path, best=False):
    """The checkpoint that a user means by a path.

    Args:
      path: a run folder, its folder of checkpoints, one checkpoint's folder, or a path prefix (.../model).
      best: of a run, the checkpoint that evaluated best instead of the newest.
    Returns:
      (prefix, state); state is {} for a checkpoint that was not written by this package.
    Raises:
      DataError: there is no whole checkpoint, or none that was evaluated.
    """
    path = os.path.normpath(os.path.expanduser(path))
    for run_folder in (path, os.path.dirname(path)):
        store = CheckpointStore(run_folder)
        if path in (os.path.normpath(run_folder), os.path.normpath(store.folder)):
            chosen = store.best() if best else store.newest()
            if chosen:
                return chosen
            if best and store.newest():
                raise DataError(path, "a checkpoint that was evaluated (%s)" % BEST_FILE, "none",
                                "leave --best out to take the newest")
    chosen = _whole(path) or (_whole(os.path.dirname(path)) if os.path.basename(path) == PREFIX else None)
    if chosen:
        return chosen
    if os.path.exists(path + ".index"):
        return path, _read_fields(os.path.join(os.path.dirname(path), STATE_FILE)) or {}
    raise DataError(path, "a run folder, its ckpt folder, a checkpoint's folder or a path prefix such as "
                          "ckpt/step-00000500/model", kind_of(path) or "no whole checkpoint",
                    "train first, or correct the path")


def _whole(folder):
    state = _read_fields(os.path.join(folder, STATE_FILE), step=_NUMBER, files=dict, epoch=_NUMBER + (_NONE,),
                         wall_sec=_NUMBER + (_NONE,), metric=_NUMBER + (_NONE,))
    if state is None:
        return None
    for name, size in state["files"].items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or os.path.getsize(path) != size:
            return None
    return os.path.join(folder, PREFIX), state


def _read_fields(path, **types):
    """The JSON object in a file, None when there is none or one of these fields is not of its type."""
    content = read_json(path)
    if isinstance(content, dict) and all(isinstance(content.get(name), kinds) for name, kinds in types.items()):
        return content
    return None


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
