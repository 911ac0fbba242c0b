# SPDX-License-Identifier: Apache-2.0
"""Batches made ahead of time by worker processes, in shared memory, in the order of the steps.

Of W workers each makes every W-th batch and keeps two of them ready. So the batches are the same for every number of
workers, also for none. Only "this slot is full" and "this slot is free" go through pipes.
"""
import atexit
import itertools
import multiprocessing
import multiprocessing.connection
import signal
import time
import traceback

from common.files import Explained
from common.lazy import np

try:
    from multiprocessing import resource_tracker
except ImportError:  # Python 3.7
    from multiprocessing import semaphore_tracker as resource_tracker

SLOTS = 2  # finished batches that wait in each worker
_PATIENCE_SEC = 5  # for a worker to see that nobody wants its batches any more
_ALIGNMENT = 64
_NEVER = 1 << 62


class WorkerDied(Explained):
    """A worker process ended before its time; the text has its traceback, or the signal that ended it."""


class BatchQueue:
    """Iterates over (step, arrays of the batch).

    Workers are spawned: nothing of this process is copied into them, but its main module is imported there, so that
    should import TensorFlow within functions. Ctrl-C and SIGTERM are this process's to answer, workers do not get
    them; they end with it, however it ends.

    Args:
      make_sample: picklable; make_sample(step, position) -> tuple of numpy arrays, of one set of shapes and dtypes.
      batch_size: int, positions per step.
      first_step, end_step: the steps first_step..end_step - 1; without end_step it goes on for ever.
      num_workers: processes; 0 makes every batch in this process when it is asked for.
    Raises:
      whatever make_sample raises for the first sample, which is made here.
    """

    def __init__(self, make_sample, batch_size, first_step=0, end_step=None, num_workers=0):
        specs = [((batch_size,) + array.shape, array.dtype) for array in make_sample(first_step, 0)]
        end_step = _NEVER if end_step is None else end_step
        self._steps, self._make_sample = iter(range(first_step, end_step)), make_sample
        self._workers, self._turn, self._lent = [], -1, None
        if num_workers == 0:
            self._batch = _arrays(bytearray(_size(specs)), specs)
            return
        context = multiprocessing.get_context("spawn")
        atexit.register(self.close)
        resource_tracker.getfd()  # starts it, which unblocks the signals: so not later
        # Workers inherit the mask. Not even their start can be interrupted by a signal meant for this process.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for number in range(num_workers):
                self._workers.append(_Worker(number, context, make_sample, specs,
                                             range(first_step + number, end_step, num_workers)))
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def __iter__(self):
        return self

    def __next__(self):
        """(step, tuple of arrays [batch_size, ...]); the arrays are views that hold until the next call.

        Raises:
          WorkerDied: any worker failed or was killed.
          StopIteration: after end_step - 1.
        """
        if self._lent:
            self._lent.free_slot()
            self._lent = None
        step = next(self._steps)
        if not self._workers:
            _fill(self._batch, self._make_sample, step)
            return step, self._batch
        self._turn = (self._turn + 1) % len(self._workers)
        worker = self._workers[self._turn]
        while True:
            for each in self._workers:
                each.listen()
            if worker.full_slots:
                break
            multiprocessing.connection.wait([each.pipe for each in self._workers if each.batches_left])
        self._lent = worker
        return step, worker.take()

    def close(self):
        """Ends the workers; none is left when this returns."""
        atexit.unregister(self.close)
        deadline = time.monotonic() + _PATIENCE_SEC
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(max(0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers, self._lent, self._steps = [], None, iter(())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Worker:
    """One process, as the training process sees it."""

    def __init__(self, number, context, make_sample, specs, steps):
        # Mapped from a file without a name: nothing to tidy up, however the processes end.
        memory = [context.RawArray("b", _size(specs)) for _ in range(SLOTS)]
        self._slots = itertools.cycle([_arrays(slot, specs) for slot in memory])
        self.number, self.full_slots = number, 0
        self.batches_left = len(steps)  # that it has yet to make
        self.pipe, its_end = context.Pipe()
        with its_end:
            self.process = context.Process(target=_work, args=(its_end, make_sample, specs, memory, steps), daemon=True)
            self.process.start()

    def take(self):
        self.full_slots -= 1
        return next(self._slots)

    def free_slot(self):
        try:
            self.pipe.send(None)
        except OSError:
            pass  # it is done, or dead: listen() knows

    def listen(self):
        """Takes in what the process has said; raises WorkerDied when it is gone without being done."""
        try:
            while self.batches_left and self.pipe.poll():
                complaint = self.pipe.recv()
                if complaint:
                    raise WorkerDied("input worker %d failed:\n%s" % (self.number, complaint))
                self.full_slots += 1
                self.batches_left -= 1
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = "was killed by %s" % signal.Signals(-code).name if code < 0 else "ended with exit code %d" % code
            raise WorkerDied("input worker %d (process %d): expected a batch; found that it %s; if memory ran out, "
                             "lower --num-workers." % (self.number, self.process.pid, how)) from None


def _work(pipe, make_sample, specs, memory, steps):
    """The life of a worker process."""
    import cv2
    cv2.setNumThreads(1)
    slots = [_arrays(slot, specs) for slot in memory]
    try:
        for count, step in enumerate(steps):
            if count >= SLOTS:
                pipe.recv()  # a slot is free
            try:
                _fill(slots[count % SLOTS], make_sample, step)
            except Exception:
                pipe.send(traceback.format_exc())
                return
            pipe.send(None)
    except (EOFError, OSError):
        pass  # the training process closed its end, or is dead


def _fill(batch, make_sample, step):
    for position in range(len(batch[0])):
        for of_all, of_one in zip(batch, make_sample(step, position)):
            of_all[position] = of_one


def _size(specs):
    return sum(_padded(shape, dtype) for shape, dtype in specs)


def _padded(shape, dtype):
    return -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


def _arrays(memory, specs):
    """Tuple of arrays that lie one after the other in memory."""
    arrays, offset = [], 0
    for shape, dtype in specs:
        arrays.append(np.ndarray(shape, dtype, memory, offset))
        offset += _padded(shape, dtype)
    return tuple(arrays)
