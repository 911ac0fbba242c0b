# SPDX-License-Identifier: Apache-2.0
"""The life of a training run, once for all models: open or continue, [run], stop, evaluate, save, [done], failure.

    with Run(parsed, training_images) as run:                 # the run folder; nothing is touched when it is refused
        runtime = run.open_runtime()                          # TensorFlow, the device, run.first_step
        ...                                                   # build, restore from run.restored, runtime.broadcast
        run.begin(variables, save, evaluate, model="CSPNet")  # flags.json, the [run] line
        for step in run.steps():                              # `step` steps are done when a round ends
            images, labels = run.wait(batches)
            loss = ...
            run.ended(step, lr, loss=loss)                    # [train] line, evaluation, checkpoint, stop
    return run.exit_code
"""
import gc
import json
import math
import os
import resource
import signal
import time
from typing import Any, List

from common import checkpoint, progress, ranks, runlog
from common.files import DataError, write_text


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a flag that the loop reads after each step; a second Ctrl-C ends at once.

    Args:
      count: of ranks. Several must stop after the same step, so with them exit_code waits for mean_and_stop.
    Attributes:
      asked: 0 while nobody asked this process; 143 after SIGTERM, 130 after Ctrl-C.
      exit_code: 0 while training goes on, else the code to end with.
    """

    def __init__(self, count=1):
        self._alone = count == 1
        self.asked = self.exit_code = 0
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number, _frame):
        self.asked = 128 + number
        if self._alone:
            self.exit_code = self.asked
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Losses:
    """The losses of the steps since the last [train] line; those of other ranks are asked for at each look."""

    def __init__(self) -> None:
        self.names: List[str] = []
        self._unseen: List[List[float]] = []  # of this rank, by step
        self._seen: List[List[float]] = []  # means over ranks, by step

    def add(self, parts):
        """One step's: {name: value}."""
        self.names = list(parts)
        self._unseen.append([float(value) for value in parts.values()])

    def look(self, mean):
        """Yields (steps ago, name, mean over ranks) of all that were added since the last look."""
        width, count = len(self.names), len(self._unseen)
        means = mean([value for parts in self._unseen for value in parts])
        self._seen += [means[first:first + width] for first in range(0, len(means), width)]
        self._unseen = []
        for index, value in enumerate(means):
            yield count - 1 - index // width, self.names[index % width], value

    def means(self):
        """{name: mean}, of several parts "loss", their sum, as the first; begins anew."""
        parts = {name: sum(values) / len(self._seen) for name, values in zip(self.names, zip(*self._seen))}
        self._seen = []
        return dict({"loss": sum(parts.values())}, **parts)


class Run:
    """One run from its folder to its end; in a with statement, which tells failures.

    Args:
      parsed: the folder's flags.
      training_images: int, all ranks together.
      drop_remainder: whether an epoch's last incomplete batch is left out.
    Attributes:
      restored: (path prefix, state) of the checkpoint to start from, or None.
      first_step, total_steps, steps_per_epoch: int; first_step once the runtime is open.
      stop: StopRequest, once begun; exit_code: of the process, in the end.
    Raises:
      DataError: there are fewer images than a step takes, or the folder is refused (checkpoint.open_run).
    """

    def __init__(self, parsed, training_images, drop_remainder=True):
        self._started, self._parsed, self._images = time.time(), parsed, training_images
        self.rank, self.ranks = ranks.read()
        self._images_per_step = parsed.batch_size * self.ranks
        self.steps_per_epoch = (training_images if drop_remainder else
                                training_images + self._images_per_step - 1) // self._images_per_step
        if self.steps_per_epoch == 0:
            raise DataError("--batch_size", "at most the %d training images of the data" % training_images,
                            "%d images a step" % self._images_per_step, "give a smaller one")
        self.total_steps = parsed.train_steps or parsed.epochs * self.steps_per_epoch
        self._continued, self._lock = checkpoint.open_run(parsed.output_path, vars(parsed))
        self._store = checkpoint.CheckpointStore(parsed.output_path, getattr(parsed, "name", None) or "ckpt")
        self.restored = checkpoint.find_start(self._store, self._continued, parsed.resume, self.total_steps)
        self.stop: Any = None
        self._log: Any = None
        self._bar: Any = None
        self._phase: Any = None  # what goes on while no step ends
        self._result, self._losses, self._shared_at, self._step, self._wait_sec = None, _Losses(), -1, 0, 0.0
        self._shown_loss: Any = None
        self.exit_code = 1

    def open_runtime(self, **words):
        """The backend: see runtime.open_runtime, which imports TensorFlow; only once flags and data are right."""
        from common.runtime import open_runtime
        self._runtime = open_runtime(self._parsed, **words)
        gc.disable()  # until begin(): to look through a graph while it is made costs time and frees nothing
        self._phase = progress.Phase("building the network")
        self.first_step = self._runtime.broadcast_int(self.restored[1].get("step", 0) if self.restored else 0)
        return self._runtime

    def begin(self, variables, save, evaluate=None, judged_by=None, state=None, parameters=0, peak_rate=None,
              look_every=1, advice="lower the learning rate, or set --precision_mode=force_fp32",
              new_warnings=lambda: (), log_name=None, at_end=lambda: None, **fields):
        """Call it when weights are as training starts with: writes flags.json and the [run] line.

        Args:
          variables: all that training changes.
          save: function(path prefix) that writes the model's files; None to write none.
          evaluate: function() -> fields of the [eval] line, or None when a request to stop cut it short.
          judged_by: the field of these, higher is better, that a checkpoint is judged by.
          state: dict, what a checkpoint says besides its step.
          parameters: how many the network has; peak_rate: of learning, for the [run] line of several ranks.
          look_every: steps between two looks at the loss and at requests to stop.
          advice: what to do about a loss that is not finite.
          new_warnings: function() -> sentences that came up since the last call.
          log_name: as for runlog.RunLog.
          at_end: function() that rank 0 calls before the [done] line.
        """
        gc.enable()
        parsed, runtime = self._parsed, self._runtime
        self._phase.close()
        self._variables, self._save_files, self._evaluate, self._judged_by = variables, save, evaluate, judged_by
        self._state, self._look_every, self._advice, self._new_warnings = state or {}, look_every, advice, new_warnings
        self._per_run, self._at_end = runtime.steps_per_run, at_end
        self._newest = self.restored[0] if self.restored else None
        self._before_sec = self.restored[1].get("wall_sec", 0.0) if self._continued and self.restored else 0.0
        if self.rank == 0:
            write_text(os.path.join(parsed.output_path, checkpoint.FLAGS_FILE),
                       json.dumps(vars(parsed), indent=1, sort_keys=True))
        self._log = runlog.RunLog(parsed.output_path, self.rank,
                                  parsed.SUMMARY or os.path.join(parsed.output_path, "tb"), log_name)
        before = {"before_sec": self._before_sec} if self._before_sec else {}
        self._log.event(runlog.RUN, **fields, batch_size=parsed.batch_size, images=self._images,
                        steps=self.total_steps, first_step=self.first_step, seed=parsed.seed,
                        precision_mode=parsed.precision_mode, commit=runlog.source_commit(), parameters=parameters,
                        **before, **runtime.describe(peak_rate))
        self._log.warn(*runtime.warnings)
        self.stop = StopRequest(self.ranks)

    def steps(self):
        """Yields the number of steps that are done when the round ends; then finishes the run."""
        self._throughput = runlog.Throughput(self._images_per_step * self._per_run, max(1, 5 // self._per_run))
        self._bar = progress.bar(self.total_steps, done=self.first_step, unit="steps")
        self._phase = progress.Phase("first step")
        for step in range(self.first_step + self._per_run, self.total_steps + 1, self._per_run):
            yield step
            if self.stop.exit_code:
                self.exit_code = self.stop.exit_code
                return
        self._finish()

    def wait(self, batches):
        """next(batches); the time is counted as waiting for data."""
        asked = time.perf_counter()
        batch = next(batches)
        self._wait_sec = time.perf_counter() - asked
        return batch

    def ended(self, step, lr, **losses):
        """Call it after each round of steps(): says, evaluates and saves what is due.

        Args:
          step: from steps(); lr: float, the rate of this step.
          losses: loss=value, or the parts of it by name; this rank's.
        """
        parsed, self._step = self._parsed, step
        self._phase.close()
        self._losses.add(losses)
        epochs = parsed.eval_every or self.total_steps  # 0: at the end alone
        line_due, evaluation_due, save_due = (  # whether one of this round's steps is such a multiple, or the last
            step == self.total_steps or step % every < self._per_run
            for every in (parsed.log_every, self.steps_per_epoch * epochs, parsed.save_every))
        if step == self.first_step + self._per_run:
            line_due = True
            self._bar.unpause()  # what the first step took is no measure for the others
        evaluation_due = evaluation_due and self._evaluate is not None
        looks = line_due or evaluation_due or save_due or self._per_run > 1 or step % self._look_every == 0
        if looks:
            self._look(step)
        self._throughput.step(self._wait_sec)
        self._show(losses)
        if not looks:
            return
        with self._throughput.paused():
            if line_due:
                self._log.event(runlog.TRAIN, step=step, epoch=step / self.steps_per_epoch, **self._losses.means(),
                                lr=lr, **self._throughput.recent((self.total_steps - step) // self._per_run))
                self._log.warn(*self._new_warnings())
            if evaluation_due and not self.stop.exit_code:
                self._evaluate_at(step)
                metric = (self._result or {}).get(self._judged_by)
                self._save(step, metric if metric is not None and math.isfinite(metric) else None)
            elif save_due or self.stop.exit_code:
                self._save(step)

    def _look(self, step):
        """At the losses since the last look, and at requests to stop, of all ranks."""
        for rounds_ago, name, value in self._losses.look(
                lambda values: self._runtime.mean_and_stop(self.stop, values)):
            if not math.isfinite(value):
                raise runlog.NonFiniteLoss(
                    "%s at step %d: found %s, expected a finite number; the last whole checkpoint is %s; %s" % (
                        name.replace("_", " "), step - rounds_ago * self._per_run, value, self._newest or "none yet",
                        self._advice))

    def _show(self, losses):
        """The bar: how far, a loss that does not jump, images/s, the last figure of an evaluation."""
        if not self._bar.disable:
            loss = sum(map(float, losses.values()))
            self._shown_loss = loss if self._shown_loss is None else 0.9 * self._shown_loss + 0.1 * loss
            speed = self._throughput.images_per_sec()
            parts = ["loss %#.4g" % self._shown_loss]
            if speed:
                parts.append("%.*f images/s" % (speed < 100, speed))
            if self._result:
                parts.append("%s %.3f" % (self._judged_by, self._result[self._judged_by]))
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(self._per_run)

    def _share_statistics(self, step):
        if self._shared_at != step:  # means of equal values need not be equal to them
            self._runtime.share_statistics(self._variables)
            self._shared_at = step

    def _evaluate_at(self, step):
        self._share_statistics(step)
        self._bar.clear()
        self._result = self._evaluate()
        self._runtime.mean_and_stop(self.stop, [])  # a request that came meanwhile is one for all ranks
        self._log.warn(*self._new_warnings())
        if self._result is not None:
            self._log.event(runlog.EVAL, step=step, epoch=step / self.steps_per_epoch, **self._result)

    def _save(self, step, metric=None):
        self._share_statistics(step)
        if self.rank != 0 or self._save_files is None:
            return
        state = dict(self._state, step=step, epoch=step / self.steps_per_epoch,
                     wall_sec=self._before_sec + time.time() - self._started)
        self._bar.clear()
        with progress.Phase("saving"):
            self._newest = self._store.save(state, self._save_files, metric)
        self._log.event(runlog.SAVE, step=step, path=self._newest)

    def _finish(self):
        """[done]; evaluates first when a kill came between the last checkpoint and that line."""
        self._bar.close()
        if self._evaluate is not None and self._result is None:
            self._evaluate_at(self.total_steps)
            if self.stop.exit_code:
                self.exit_code = self.stop.exit_code
                return
        self._share_statistics(self.total_steps)
        checksum, same = self._runtime.checksum(self._variables)
        if not same:
            self._log.warn("the ranks' variables differ: compare the checksums of their [done] lines")
        if self.rank == 0:
            with progress.Phase("finishing"):
                self._at_end()
        speed = self._throughput.total(self.ranks)
        if speed:
            speed["ms_per_step"] /= self._per_run
        judged = {name: value for name, value in (self._result or {}).items()
                  if name == self._judged_by or name.startswith("top1_")}
        self._log.event(runlog.DONE, step=self.total_steps, **speed, **judged, checksum=checksum,
                        wall_sec=self._before_sec + time.time() - self._started,
                        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, status="ok")
        self.exit_code = 0

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        gc.enable()
        for line in (self._phase, self._bar):
            if line is not None:
                line.close()
        begun = self._log is not None
        if begun and isinstance(error, Exception):
            self._log.fail(error, self._step)
            self.exit_code = 1
        if begun:
            self._log.close()
        if self._lock is not None:
            os.close(self._lock)
        return begun and isinstance(error, Exception)  # what came before is main()'s to tell: nothing has begun
