# SPDX-License-Identifier: Apache-2.0
"""Several ranks on CPUs or GPUs: sums by TensorFlow's own collectives, NCCL on GPUs, a ring over gRPC on CPUs.

MultiWorkerMirroredStrategy reduces; who takes part is in TF_CONFIG, which the launcher sets. Variables remain each
rank's own: they start equal and equal, averaged gradients change them.
"""
import functools
import json
import os
import re
from typing import Any, Dict

from common.backends.local import Local
from common.files import DataError

BYTES_PER_PACK = 32 << 20  # of gradients reduced at a time: many small reductions cost more than the bytes
# A ring cuts a tensor into chunks of 64 bytes and more. A rank that has no chunk to fetch does not notice that its
# neighbour is gone, so every sum comes with a chunk for each.
_CHUNK_VALUES = 16
TIMEOUT_SEC = 600  # for all ranks to come to a sum; one of them may still be writing its shards or its checkpoint


class RankLost(OSError):
    """Another rank ended or does not answer, so that this one cannot go on."""


class Collective(Local):
    """One of several ranks. Make it before anything else of TensorFlow is used.

    Raises:
      DataError: TF_CONFIG does not say who takes part, or this rank cannot listen at its address.
    """

    def __init__(self, tf, *args, **kwargs):
        super().__init__(tf, *args, **kwargs)
        workers = _workers(self.rank, self.ranks)
        here, cores = [_host(worker) for worker in workers].count(_host(workers[self.rank])), os.cpu_count() or 1
        if self.device == "cpu" and here > cores:
            self.warnings.append("%d ranks share %d core(s): this shows that it works, not how fast it could be" % (
                here, cores))
        try:
            self._start(workers)
        except (tf.errors.OpError, RuntimeError) as error:
            raise DataError(workers[self.rank], "an address of this machine with a port that is free",
                            str(error).split("\n")[0], "end what uses it, or give the table another host_port or "
                            "HCCL_IF_BASE_PORT") from error

    def _start(self, workers):
        import tensorflow
        tf, distribute = self.tf, tensorflow.distribute
        if hasattr(distribute.experimental, "CommunicationOptions"):
            options = distribute.experimental.CommunicationOptions(bytes_per_pack=BYTES_PER_PACK,
                                                                   timeout_seconds=float(TIMEOUT_SEC))
            strategy = distribute.MultiWorkerMirroredStrategy(communication_options=options)
            self._in_replica, self._all_reduce = strategy.run, functools.partial(_all_reduce, tf, options=options)
        else:  # TensorFlow 1.15, which waits for a lost rank for ever; the launcher ends it
            strategy = distribute.experimental.MultiWorkerMirroredStrategy()
            self._in_replica, self._all_reduce = strategy.experimental_run_v2, functools.partial(_all_reduce, tf)
        if not self.eager:
            self._config = strategy.update_config_proto(self.session_config())
            if tf.__version__.startswith("1."):
                # The strategy asks for scoped allocators, which a server's devices lack there. OFF would count as ON.
                self._config.graph_options.rewrite_options.ClearField("scoped_allocator_optimization")
            self._server = tf.distribute.Server({"worker": workers}, job_name="worker", task_index=self.rank,
                                                protocol="grpc", config=self._config)

    def _make_session(self):
        tf, rank = self.tf, self.rank

        class Session(tf.Session):  # type: ignore[name-defined]
            run = _naming_lost_ranks(tf, rank, tf.Session.run)

        if self.device == "cpu" and self.compute_dtype != tf.float32:
            # It fuses a convolution with its bias and activation to an operation that is of bfloat16 for oneDNN alone:
            # a graph that is sent to a server is checked before oneDNN has taken it, and refused.
            rewrites = self._config.graph_options.rewrite_options
            rewrites.remapping = rewrites.OFF
        return Session(self._server.target, config=self._config)

    def wrap_optimizer(self, optimizer):
        # Outside control_dependencies before the graph's first sum: that makes the graph's stacks of contexts each
        # thread's own. Within such a context the change would leave it open for ever, and all later operations would
        # wait for its.
        self._in_replica(lambda: None)
        return _AveragedGradients(optimizer, self.mean_gradients)

    def sum_tensors(self, tensors):
        tf = self.tf
        sums: Dict[int, Any] = {}
        for dtype in sorted({tensor.dtype.base_dtype.name for tensor in tensors}):  # packed, so one type at a time
            places = [place for place, tensor in enumerate(tensors) if tensor.dtype.base_dtype.name == dtype]
            chosen = [tensors[place] for place in places] + [tf.zeros([_CHUNK_VALUES * self.ranks], dtype)]
            sums.update(zip(places, self._in_replica(functools.partial(self._all_reduce, chosen))))
        return [sums[place] for place in range(len(tensors))]

    def mean_tensors(self, tensors):
        """In float32. What products compute in bfloat16 travels in it: half the bytes, and no more is known of it."""
        tf = self.tf
        dtype = self.compute_dtype if self.device == "cpu" else tf.float32  # NCCL of old releases has no bfloat16
        sums = self.sum_tensors([tf.cast(tensor, dtype) if len(tensor.shape) > 1 else tensor for tensor in tensors])
        return [tf.cast(total, tf.float32) / self.ranks for total in sums]

    def naming_lost_ranks(self, function):
        return _naming_lost_ranks(self.tf, self.rank, function)


class _AveragedGradients:
    """A graph's optimizer whose compute_gradients gives the mean over ranks."""

    def __init__(self, optimizer, mean):
        self._optimizer, self._mean = optimizer, mean
        self.apply_gradients = optimizer.apply_gradients

    def compute_gradients(self, *args, **kwargs):
        gradients, variables = zip(*self._optimizer.compute_gradients(*args, **kwargs))
        return list(zip(self._mean(list(gradients)), variables))


def _all_reduce(tf, tensors, **keywords):
    # The strategy looks at the device of a tensor, which the caller's need not have.
    return tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, [tf.identity(tensor) for tensor in tensors], **keywords)


def _naming_lost_ranks(tf, rank, function):
    errors = tf.errors

    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except errors.OpError as error:
            if not (isinstance(error, (errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError))
                    or "ollective" in str(error)):
                raise
            raise RankLost(
                "rank %d: expected all ranks to take part in the step; found that one is lost (%s); see the log of the "
                "rank that failed first; the same command continues from the last checkpoint" % (
                    rank, _last_words(str(error)))) from error
    return run


def _last_words(text):
    """Of an OpError's many lines what happened."""
    for pattern in (r"aborted by: (.+)", r"(.*timed out.*)", r"(.*recvmsg.*)"):
        found = re.search(pattern, text)
        if found:
            return found.group(1).strip()[:200]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[0][:200] if lines else "no reason given"


def _workers(rank, ranks):
    """["host:port", ...] of TF_CONFIG; DataError when it does not fit RANK_ID and RANK_SIZE."""
    text = os.environ.get("TF_CONFIG") or ""
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        fits = len(workers) == ranks and task["type"] == "worker" and int(task["index"]) == rank
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise DataError("TF_CONFIG", "the addresses of the %d ranks that RANK_SIZE says, and rank %d as this one"
                        % (ranks, rank), repr(text)[:200], "start with test/*_8p.sh, or unset RANK_SIZE for one rank")
    return workers


def _host(address):
    return address.rpartition(":")[0]
