# SPDX-License-Identifier: Apache-2.0
"""One process on a CPU or GPU, and what the other backends are made of: they replace what is theirs."""
import zlib
from typing import AbstractSet, Any, Callable, Dict, List, Optional

import numpy as np

from common.backends import execution

_SUM_LENGTHS = (16, 1 << 14)  # of the float32 vectors in which all_sum() sends numbers: a few, or many at a time
_STATISTICS = ("moving_mean", "moving_variance")


class Local:
    """What the model's loop needs to know of the machine.

    Args:
      tf: tensorflow.compat.v1 for a graph in sessions, TensorFlow 2 for eager.
      device: "npu", "gpu" or "cpu"; reason: why, in a few words.
      rank, ranks: this process and how many there are.
      eager: the style of execution.
      large_kernels: True for a network of large products: on a CPU its operations then take turns, each on all cores,
        instead of two of them sharing the cores and their caches.
    Attributes:
      steps_per_run: training steps that one run of looped() does: 1 but on Ascend.
      compute_dtype: tf.DType that convolutions and matrix products are to use; variables stay float32.
      may_be_missing: names of variables that a checkpoint of this network need not have.
      warnings: sentences for [warn] lines.
    """

    steps_per_run = 1
    may_be_missing: AbstractSet[str] = frozenset()

    def __init__(self, tf: Any, device: str, reason: str, rank: int = 0, ranks: int = 1, eager: bool = False,
                 large_kernels: bool = False) -> None:
        self.tf, self.device, self.reason, self.rank, self.ranks = tf, device, reason, rank, ranks
        self.eager, self.compute_dtype, self._large_kernels = eager, tf.float32, large_kernels
        self.warnings: List[str] = []
        self.execution: Any = execution.Eager(tf, self.naming_lost_ranks) if eager else execution.Sessions(tf)
        self._sums: Dict[int, Callable] = {}
        self._share: Optional[Callable] = None

    # Sessions

    def session_config(self):
        """ConfigProto for this device."""
        config = self.tf.ConfigProto(allow_soft_placement=True)
        if self.device == "cpu" and self._large_kernels:
            config.inter_op_parallelism_threads = 1
        if self.device == "gpu":
            config.gpu_options.allow_growth = True
        return config

    def open_session(self):
        """The session of this rank's training, on the default graph."""
        self._sums, self._share = {}, None
        self.execution.session = self._make_session()
        return self.execution.session

    def _make_session(self):
        return self.tf.Session(config=self.session_config())

    def wrap_optimizer(self, optimizer):
        """A graph's optimizer with what the device needs around it: its compute_gradients averages over ranks."""
        return optimizer

    def looped(self, _session, update):
        """The operation to run instead of `update`: one run of it does steps_per_run steps on the device.

        Batches and rates must come from initializable iterators of the graph: a host cannot feed a loop.
        """
        return update

    # Eager

    def keras_optimizer(self, optimizer, variables):
        """A Keras optimizer ready for these variables, with what the device needs around it."""
        if hasattr(optimizer, "build"):
            optimizer.build(variables)
        else:  # Keras 2
            optimizer._create_all_weights(variables)
        return optimizer

    def scale_loss(self, loss, _optimizer):
        """The loss to differentiate; pass the gradients through unscale() afterwards."""
        return loss

    def unscale(self, gradients, _optimizer):
        """The gradients of the loss from those of scale_loss()."""
        return gradients

    def mean_gradients(self, gradients):
        """The mean of each gradient over ranks, for a step that Keras' optimizer applies."""
        if self.ranks == 1:
            return gradients
        means = iter(self.mean_tensors([gradient for gradient in gradients if gradient is not None]))
        return [None if gradient is None else next(means) for gradient in gradients]

    def naming_lost_ranks(self, function):
        """An eager step that ends with collective.RankLost when another rank is lost; sessions do that themselves."""
        return function

    # Ranks: all must come to each of these, in the same order

    def sum_tensors(self, tensors):
        """Sums over ranks, in a graph or in a tf.function: list of tensors."""
        return tensors

    def mean_tensors(self, tensors):
        """Means over ranks, likewise."""
        return [total / self.ranks for total in self.sum_tensors(tensors)]

    def of_rank_0(self, variables):
        """Rank 0's values of variables: tensors."""
        values = [execution.read(variable) for variable in variables]
        return self.sum_tensors(values if self.rank == 0 else [self.tf.zeros_like(value) for value in values])

    def broadcast(self, variables):
        """Gives variables rank 0's values: weights, slots, moving statistics, the step.

        Call it after they are initialised or restored and before the graph is finalized. Alone it does nothing.
        """
        if self.ranks > 1:
            self.execution.assignment(variables, lambda: self.of_rank_0(variables))()

    def all_sum(self, values):
        """Sums over ranks: an array or list of numbers, which travel as float32 -> float64 array of its shape."""
        values = np.asarray(values, np.float64)
        if self.ranks == 1:
            return values
        length = next((length for length in _SUM_LENGTHS if values.size <= length), _SUM_LENGTHS[-1])
        if length not in self._sums:
            self._sums[length] = self.execution.compiled(lambda tensor: self.sum_tensors([tensor])[0], length)
        parts = np.zeros([-(-values.size // length), length], np.float32)
        parts.ravel()[:values.size] = values.ravel()
        summed = [self._sums[length](part) for part in parts]
        return np.concatenate(summed).astype(np.float64)[:values.size].reshape(values.shape)

    def broadcast_int(self, number):
        """Rank 0's int, for all ranks, before there is a graph. What the others give is not looked at."""
        if self.ranks == 1:
            return number
        mine = [number if self.rank == 0 else 0]
        if self.eager:
            return int(self.all_sum(mine)[0])
        with self.tf.Graph().as_default(), self.open_session():
            return int(self.all_sum(mine)[0])

    def mean(self, fields, count):
        """Means over the examples of all ranks: {name: float}, from those over this rank's `count` examples."""
        if self.ranks == 1:
            return fields
        sums = self.all_sum([fields[name] * count if count else 0.0 for name in sorted(fields)] + [count])
        return {name: float(value / sums[-1]) for name, value in zip(sorted(fields), sums)}

    def mean_and_stop(self, stop, losses):
        """Once a step: the losses' means over ranks; a request to stop that one rank got becomes one for all.

        Args:
          stop: run.StopRequest.
          losses: list of float.
        """
        if self.ranks == 1:
            return [float(loss) for loss in losses]
        sums = self.all_sum([bool(stop.asked)] + losses)
        if sums[0]:
            stop.exit_code = stop.asked or 143
        return [float(value) / self.ranks for value in sums[1:]]

    def share_statistics(self, variables):
        """Averages over ranks what each has counted by itself: the moving statistics among these variables."""
        if self.ranks == 1:
            return
        if self._share is None:
            moving = [variable for variable in variables  # averages of them are called moving_mean/...
                      if set(variable.name.split(":")[0].split("/")[-2:]) & set(_STATISTICS)]
            self._share = self.execution.assignment(
                moving, lambda: self.mean_tensors([execution.read(variable) for variable in moving])
            ) if moving else lambda: None
        self._share()

    def checksum(self, variables):
        """Checksum of all these variables' values: 8 hexadecimal digits, and whether all ranks have the same."""
        crc = 0
        for value in self.execution.values(sorted(variables, key=lambda variable: variable.name)):
            crc = zlib.crc32(np.ascontiguousarray(value).tobytes(), crc)
        halves = np.array([crc >> 16, crc & 0xffff])
        return "%08x" % crc, bool((self.all_sum(halves) == self.ranks * halves).all())

    # What a model and a [run] line ask

    def fuse(self, function):
        """Compiles an elementwise function of tensors into one kernel where TensorFlow can (CPU, TensorFlow 2).

        Elsewhere, and where XLA is missing, it is the function itself: the mathematics is the same.
        """
        if self.device != "cpu" or self.tf.__version__.startswith("1."):
            return function
        import tensorflow
        return tensorflow.function(function, jit_compile=True)

    def describe(self, peak_rate=None):
        """Fields for the [run] line; of several ranks also what the learning rate is for."""
        fields = dict(device=self.device, device_reason=self.reason, ranks=self.ranks, tf=self.tf.__version__,
                      compute_dtype=self.compute_dtype.name)
        if self.ranks > 1 and peak_rate:
            fields["lr_rule"] = "%g as given for %d ranks; by the linear rule %g for one" % (
                peak_rate, self.ranks, peak_rate / self.ranks)
        return fields
