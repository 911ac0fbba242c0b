# SPDX-License-Identifier: Apache-2.0
"""The only file that knows NPU, GPU and CPU: device, session, numeric type, optimizer, ranks, fused functions.

Nothing is imported at the top that needs a device; Ascend's packages are imported here alone, and only when chosen.
"""
import importlib
import importlib.util
import os
import zlib

import numpy as np

from common import checkpoint
from common.collectives import AveragedGradients, Collectives
from common.files import DataError

_MIXED = ("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "allow_fp32_to_bf16",
          "force_fp16")
_ADAPTERS = {"1.15": "npu_bridge", "2.6": "npu_device"}  # TensorFlow -> Ascend's package for it
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_GPUS = "/proc/driver/nvidia/gpus"
_SUM_LENGTHS = (16, 1 << 14)  # of the float32 vectors in which total() sends numbers: a few, or many at a time


class Runtime:
    """What the model's loop needs to know of the machine.

    Args:
      parsed: namespace with the flags of flags.add_device_group.
      keras: the model is eager TensorFlow 2 instead of a graph in a session.
      steps_per_run: training steps that one run of the session is to do where the device has such a loop (Ascend).
      large_kernels: True for a network of large products: on a CPU its operations then take turns, each on all cores,
        instead of two of them sharing the cores and their caches.
    Attributes:
      tf: tensorflow.compat.v1 with TF2 behaviour off; with keras=True TensorFlow 2 as it is.
      device: "npu", "gpu" or "cpu"; `reason` says in a few words why.
      rank, ranks: this process and how many there are (RANK_ID, RANK_SIZE).
      steps_per_run: training steps that one run of looped() does: 1 but on Ascend.
      compute_dtype: tf.DType that convolutions and matrix products are to use; variables stay float32.
      warnings: sentences for [warn] lines.
    """

    def __init__(self, parsed, keras=False, steps_per_run=1, large_kernels=False):
        self.warnings, self._eager, self._large_kernels = [], keras, large_kernels
        self.rank, self.ranks = _find_rank()
        self._keep_adapter_log(parsed.device)
        self.tf = _import_tensorflow2() if keras else _import_tensorflow()
        self.device, self.reason = _choose_device(self.tf, parsed.device)
        self.steps_per_run = steps_per_run if self.device == "npu" else 1
        self._npu_options, self._scales_loss, self._scale_variables, self._optimizer_facts = {}, False, (), {}
        self._session = self._collectives = None
        self._sums, self._shared_statistics = {}, None
        if self.device == "gpu" and (keras or self.ranks > 1):
            for gpu in self.tf.config.experimental.list_physical_devices("GPU"):
                self.tf.config.experimental.set_memory_growth(gpu, True)
        if self.device == "npu":
            os.environ.pop("TF_CONFIG", None)  # the rank table says who takes part
            self._start_npu(parsed, keras)
        elif self.ranks > 1:
            self._start_collectives(parsed.device)
        else:
            given = [flag for flag in ("over_dump", "data_dump_flag", "profiling", "use_mixlist", "fusion_off_flag",
                                       "autotune") if getattr(parsed, flag)]
            if given:
                self.warnings.append("--%s has no effect on %s" % (", --".join(given), self.device))
        self.compute_dtype = self._choose_dtype(parsed.precision_mode)

    def _keep_adapter_log(self, wanted):
        """Lets TensorFlow log INFO where an NPU may be used: one such line proves that the device was."""
        if wanted not in ("auto", "npu") or not any(map(_is_installed, _ADAPTERS.values())):
            os.environ.setdefault(_LOG_LEVEL, "2")
        elif os.environ.get(_LOG_LEVEL, "0") != "0":
            self.warnings.append("%s=%s is set to 0: the line that proves the use of the NPU is of level INFO"
                                 % (_LOG_LEVEL, os.environ[_LOG_LEVEL]))
            os.environ[_LOG_LEVEL] = "0"

    def _start_npu(self, parsed, keras):
        """Checks options and environment, then imports Ascend's adapter and, for Keras, opens the device."""
        from common import npu_options
        self._npu_options = npu_options.session_parameters(parsed, self.ranks, self.steps_per_run)
        self._scales_loss = parsed.precision_mode in npu_options.FLOAT16_MODES
        _check_npu_environment(self.ranks, keras)
        if self.ranks == 1 and os.environ.pop("RANK_TABLE_FILE", None):
            self.warnings.append("RANK_TABLE_FILE is not used by one rank: with it, Ascend would wait for others")
        self._npu = _import_adapter(self.tf, keras)
        if keras:
            npu_options.fill_global_options(self._npu.global_options(), self._npu_options)
            try:
                self._npu.open().as_default()
            except RuntimeError as error:
                raise DataError("ASCEND_DEVICE_ID=%s" % os.environ.get("ASCEND_DEVICE_ID", ""), "an NPU that opens",
                                str(error), "look at it with npu-smi info, and at ~/ascend/log") from error

    def _start_collectives(self, wanted):
        """Opens this rank's way to the others on a CPU or GPU."""
        _check_own_gpu(self.tf, self.device, wanted)
        self._collectives = Collectives(self.tf, self.rank, self.ranks, None if self._eager else self.session_config())
        here, cores = self._collectives.ranks_here, os.cpu_count() or 1
        if self.device == "cpu" and here > cores:
            self.warnings.append("%d ranks share %d core(s): this shows that it works, not how fast it could be" % (
                here, cores))

    def _choose_dtype(self, precision_mode):
        tf = self.tf
        if self.device == "npu" or precision_mode not in _MIXED:
            return tf.float32  # on Ascend the compiler lowers the precision, by precision_mode
        if self.device == "gpu":
            gpu = tf.config.experimental.list_physical_devices("GPU")[0]
            details = getattr(tf.config.experimental, "get_device_details", lambda _: {})(gpu)
            if details.get("compute_capability", (0, 0)) >= (8, 0):
                return tf.bfloat16
            self.warnings.append("precision_mode=%s: this GPU has no bfloat16 units, computing in float32"
                                 % precision_mode)
            return tf.float32
        if not _cpu_has_bf16():
            self.warnings.append("precision_mode=%s: this CPU has no AVX512_BF16 or AMX_BF16, computing in float32"
                                 % precision_mode)
            return tf.float32
        if tuple(int(part) for part in tf.__version__.split(".")[:2]) < (2, 9):  # before oneDNN was the default
            self.warnings.append("precision_mode=%s: TensorFlow %s has no bfloat16 kernels for this CPU, computing in "
                                 "float32" % (precision_mode, tf.__version__))
            return tf.float32
        return tf.bfloat16

    def session_config(self):
        """ConfigProto for this device."""
        config = self.tf.ConfigProto(allow_soft_placement=True)
        if self.device == "cpu" and self._large_kernels:
            config.inter_op_parallelism_threads = 1
        if self.device == "gpu":
            config.gpu_options.allow_growth = True
        if self.device == "npu":
            from common import npu_options
            npu_options.fill_session_config(config, self._npu_options)
        return config

    def open_session(self):
        """The session of this rank's training; a lost rank ends its run() with collectives.RankLost."""
        self._sums, self._shared_statistics = {}, None
        if self._collectives:
            self._session = self._collectives.open_session()
        else:
            self._session = self.tf.Session(config=self.session_config())
        return self._session

    def wrap_optimizer(self, optimizer):
        """The optimizer with what the device needs around it: its compute_gradients averages over ranks.

        On Ascend around that loss scaling, in the modes that compute float16.
        """
        if self._collectives:
            self._collectives.enter_graph()
            return AveragedGradients(optimizer, self.mean_gradients)
        if self.device != "npu":
            return optimizer
        npu, distributed = self._npu, self.ranks > 1
        self._optimizer_facts = {"loss_scale": "dynamic" if self._scales_loss else "off"}
        if not self._scales_loss:
            return npu.npu_distributed_optimizer_wrapper(optimizer) if distributed else optimizer
        from common import loss_scale
        before = set(_names(self.tf.global_variables()))
        if hasattr(npu, "NPULossScaleOptimizer"):
            if distributed:
                optimizer = npu.npu_distributed_optimizer_wrapper(optimizer)
            manager = npu.ExponentialUpdateLossScaleManager(
                init_loss_scale=loss_scale.INITIAL_SCALE, incr_every_n_steps=loss_scale.GROWTH_STEPS,
                decr_every_n_nan_or_inf=1, decr_ratio=0.5)
            optimizer = npu.NPULossScaleOptimizer(optimizer, manager, is_distributed=distributed)
        else:  # on TensorFlow 2 the adapter has one optimizer for both, and no manager
            optimizer = npu.NPUOptimizer(optimizer, loss_scale.DynamicLossScale(self.tf), is_distributed=distributed,
                                         is_loss_scale=True)
        self._scale_variables = set(_names(self.tf.global_variables())) - before
        return loss_scale.EveryStepCounts(self.tf, optimizer)

    def broadcast(self, session):
        """Gives every global variable rank 0's value: weights, slots, moving statistics, the step.

        Call it after variables are initialised or restored and before the graph is finalized. Alone it does nothing.
        """
        if self.ranks == 1:
            return
        variables = self.tf.global_variables()
        session.run([variable.assign(value, read_value=False)
                     for variable, value in zip(variables, self._of_rank_0(variables))])

    def _of_rank_0(self, variables):
        """Rank 0's values of a graph's or of eager variables: tensors."""
        if self.device != "npu":
            values = [_read(variable) for variable in variables]
            return self._sum(values if self.rank == 0 else [self.tf.zeros_like(value) for value in values])
        values = []
        for variable in variables:
            with self.tf.control_dependencies(values[-1:]):  # all ranks in the same order, so none is fused
                values += self._npu.hccl_ops.broadcast([variable], 0, fusion=0)
        return values

    def looped(self, session, update):
        """The operation to run instead of `update`: one run of it does steps_per_run steps on the device.

        Batches and rates must come from initializable iterators of the graph: a host cannot feed a loop.
        """
        return self._npu.util.set_iteration_per_loop(session, update, self.steps_per_run) if (
            self.steps_per_run > 1) else update

    def keras_optimizer(self, optimizer, variables):
        """A Keras optimizer ready for these variables, with what the device needs around it.

        On Ascend: averaging over ranks, and around it loss scaling in the modes that compute float16.
        """
        if self.device == "npu":
            from common import loss_scale
            if self.ranks > 1:
                optimizer = self._npu.distribute.npu_distributed_keras_optimizer_wrapper(optimizer)
            if self._scales_loss:
                optimizer = self._npu.train.optimizer.NpuLossScaleOptimizer(
                    optimizer, initial_scale=loss_scale.INITIAL_SCALE, dynamic_growth_steps=loss_scale.GROWTH_STEPS)
            self._optimizer_facts = {"loss_scale": "dynamic" if self._scales_loss else "off",
                                     "variables_on": ":".join(variables[0].device.split(":")[-2:])}
        if hasattr(optimizer, "build"):
            optimizer.build(variables)
        else:  # Keras 2
            optimizer._create_all_weights(variables)
        return optimizer

    def broadcast_variables(self, variables):
        """Gives eager variables rank 0's values; call it once they are built and restored. Alone it does nothing."""
        if self.ranks == 1:
            return
        if self.device == "npu":
            self._npu.distribute.broadcast(list(variables))
            return
        values = self.tf.function(lambda: self._of_rank_0(variables))()
        for variable, value in zip(variables, values):
            variable.assign(value)

    def mean_gradients(self, gradients):
        """The mean of each gradient over ranks, for a step that Keras' optimizer applies.

        On Ascend the optimizer itself averages, so there they come back as they are.
        """
        if self.ranks == 1 or self.device == "npu":
            return gradients
        present = [gradient for gradient in gradients if gradient is not None]
        means = iter([total / self.ranks for total in self._sum(present)])
        return [None if gradient is None else next(means) for gradient in gradients]

    def naming_lost_ranks(self, function):
        """An eager step that ends with collectives.RankLost when another rank is lost; sessions do that themselves."""
        return self._collectives.naming_lost_ranks(function) if self._collectives else function

    def _sum(self, tensors):
        """Sums over ranks, in a graph or in a tf.function."""
        if self._collectives:
            return self._collectives.sum(tensors)
        if self._eager:
            return [self._npu.distribute.all_reduce(tensor, "sum", fusion=0) for tensor in tensors]
        sums = []
        for tensor in tensors:
            with self.tf.control_dependencies(sums[-1:]):
                sums.append(self._npu.hccl_ops.allreduce(tensor, "sum", fusion=0))
        return sums

    def total(self, values):
        """Sums of numbers over ranks. All ranks must come here, in the same order; alone it returns them.

        Args:
          values: numpy array or list of numbers; they travel as float32.
        Returns:
          float64 array of the same shape.
        """
        values = np.asarray(values, np.float64)
        if self.ranks == 1:
            return values
        length = next((length for length in _SUM_LENGTHS if values.size <= length), _SUM_LENGTHS[-1])
        if length not in self._sums:
            self._sums[length] = self._make_total(length)
        parts = np.zeros([-(-values.size // length), length], np.float32)
        parts.ravel()[:values.size] = values.ravel()
        summed = [self._sums[length](part) for part in parts]
        return np.concatenate(summed).astype(np.float64)[:values.size].reshape(values.shape)

    def _make_total(self, length):
        """float32 [length] numpy -> its sum over ranks, by an operation of the session's graph or by a tf.function."""
        tf = self.tf
        if self._eager:
            compiled = tf.function(lambda values: self._sum([values])[0])
            return self.naming_lost_ranks(lambda values: compiled(tf.constant(values)).numpy())
        session = self._session
        with session.graph.as_default():
            values = tf.placeholder(tf.float32, [length])
            total, = self._sum([values])
        return lambda part: session.run(total, {values: part})

    def mean(self, fields, count):
        """Means over the examples of all ranks.

        Args:
          fields: {name: float}, the means over this rank's examples.
          count: int, how many these are.
        Returns:
          {name: float}.
        """
        if self.ranks == 1:
            return fields
        sums = self.total([fields[name] * count if count else 0.0 for name in sorted(fields)] + [count])
        return {name: float(value / sums[-1]) for name, value in zip(sorted(fields), sums)}

    def meet(self, stop, *losses):
        """Once a step: the losses' means over ranks; a request to stop that one rank got becomes one for all.

        Args:
          stop: checkpoint.StopRequest.
          *losses: float.
        Returns:
          list of float.
        """
        if self.ranks == 1:
            return [float(loss) for loss in losses]
        sums = self.total([bool(stop.asked)] + list(losses))
        if sums[0]:
            stop.exit_code = stop.asked or 143
        return [float(value) / self.ranks for value in sums[1:]]

    def of_rank_0(self, number):
        """Rank 0's int, for all ranks, before there is a graph. What the others give is not looked at."""
        if self.ranks == 1:
            return number
        if self._eager and self.device == "npu":
            variable = self.tf.Variable(float(number))
            self._npu.distribute.broadcast([variable])
            return int(variable.numpy())
        if self._eager:
            return int(self.total([number if self.rank == 0 else 0])[0])
        with self.tf.Graph().as_default(), self.open_session() as session:
            step = self.tf.get_variable("step", [], self.tf.float32, trainable=False, use_resource=True)
            session.run(step.assign(number))
            return int(session.run(self._of_rank_0([step])[0]))

    def share_statistics(self, variables):
        """Averages over ranks what each has counted by itself: the moving statistics among these variables.

        Call it on all ranks before an evaluation and before a checkpoint. Alone it does nothing.
        """
        if self.ranks == 1:
            return
        if self._shared_statistics is None:
            self._shared_statistics = self._make_share_statistics([
                variable for variable in variables
                if variable.name.split("/")[-1].split(":")[0] in ("moving_mean", "moving_variance")])
        self._shared_statistics()

    def _make_share_statistics(self, moving):
        tf = self.tf
        if not moving:
            return lambda: None

        def means():
            return [total / self.ranks for total in self._sum([_read(variable) for variable in moving])]

        if self._eager:
            compiled = self.naming_lost_ranks(tf.function(means))
            return lambda: [variable.assign(mean) for variable, mean in zip(moving, compiled())]
        session = self._session
        with session.graph.as_default():
            assigned = [variable.assign(mean, read_value=False) for variable, mean in zip(moving, means())]
        return lambda: session.run(assigned)

    def checksum(self, variables, log):
        """Checksum of all these variables' values, 8 hexadecimal digits: equal on all ranks, or `log` gets a warning.

        No rank returns before all have come here.
        """
        ordered, crc = sorted(variables, key=lambda variable: variable.name), 0
        for value in [variable.numpy() for variable in ordered] if self._eager else self._session.run(ordered):
            crc = zlib.crc32(np.ascontiguousarray(value).tobytes(), crc)
        if self.ranks > 1:
            halves = np.array([crc >> 16, crc & 0xffff])
            if (self.total(halves) != self.ranks * halves).any():
                log.warn("the ranks' variables differ: compare the checksums of their [done] lines")
        return "%08x" % crc

    def scale_loss(self, loss, optimizer):
        """The loss to differentiate; pass the gradients through unscale() afterwards."""
        return optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss

    def unscale(self, gradients, optimizer):
        """The gradients of the loss from those of scale_loss()."""
        return (optimizer.get_unscaled_gradients(gradients) if hasattr(optimizer, "get_unscaled_gradients")
                else gradients)

    def fuse(self, function):
        """Compiles an elementwise function of tensors into one kernel where TensorFlow can (CPU, TensorFlow 2).

        Elsewhere, and where XLA is missing, it is the function itself: the mathematics is the same.
        """
        if self.device != "cpu" or self.tf.__version__.startswith("1."):
            return function
        import tensorflow
        return tensorflow.function(function, jit_compile=True)

    def restore(self, saver, session, prefix):
        """Restores a checkpoint after comparing its variables with the graph's; DataError names what differs."""
        try:
            stored = dict(self.tf.train.list_variables(prefix))
        except (self.tf.errors.OpError, ValueError) as error:
            raise DataError(prefix, "a TensorFlow checkpoint", str(error).split("\n")[0], "give another one") from error
        expected = {variable.op.name: variable.shape.as_list() for variable in self.tf.global_variables()}
        not_stored = set(self._scale_variables) - set(stored)  # the checkpoint of a run that did not scale the loss
        if not_stored:
            saver = self.tf.train.Saver([variable for variable in self.tf.global_variables()
                                         if variable.op.name not in not_stored])
        checkpoint.check_variables(stored, {name: expected[name] for name in set(expected) - not_stored}, prefix)
        saver.restore(session, prefix)

    def save(self, saver, session, prefix):
        """Writes a checkpoint; a full disk and other trouble in TensorFlow's writer become OSError."""
        try:
            saver.save(session, prefix, write_meta_graph=False, write_state=False)
        except (self.tf.errors.OpError, ValueError) as error:
            reason = "a full disk" if "No space left" in str(error) else "%s: %s" % (type(error).__name__, error)
            raise OSError("%s: expected to write a checkpoint; found %s; the last whole one is untouched: free some "
                          "space and give the same command again" % (prefix, " ".join(reason.split()))) from error

    def tensorboard(self, folder):
        """A writer with scalar(name, value, step) on rank 0, None elsewhere."""
        return _ScalarWriter(folder) if self.rank == 0 else None

    def describe(self, peak_rate=None):
        """Fields for the [run] line; of several ranks also what the learning rate is for."""
        fields = dict(device=self.device, device_reason=self.reason, ranks=self.ranks, tf=self.tf.__version__,
                      compute_dtype=self.compute_dtype.name)
        if self.ranks > 1 and peak_rate:
            fields["lr_rule"] = "%g as given for %d ranks; by the linear rule %g for one" % (
                peak_rate, self.ranks, peak_rate / self.ranks)
        if self.device == "npu":
            fields.update(self._optimizer_facts, steps_per_run=self.steps_per_run)
        return fields


class _ScalarWriter:
    def __init__(self, folder):
        import tensorflow.compat.v1
        self._tf = tensorflow.compat.v1
        with self._tf.Graph().as_default():  # this writer has no eager form, the other one needs TensorBoard
            self._writer = self._tf.summary.FileWriter(folder)

    def scalar(self, name, value, step):
        self._writer.add_summary(self._tf.Summary(value=[self._tf.Summary.Value(tag=name, simple_value=value)]), step)
        self._writer.flush()


def _import_tensorflow():
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    return tf


def _import_tensorflow2():
    import logging

    import tensorflow as tf
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return tf


def _read(variable):
    """A new tensor of a variable's value: the one that a graph keeps may drag control dependencies along."""
    return variable.read_value() if hasattr(variable, "read_value") else variable.value  # Keras 3


def _names(variables):
    return [variable.op.name for variable in variables]


def _find_rank():
    """(rank, ranks) from RANK_ID and RANK_SIZE; DataError when they make no sense."""
    ranks = os.environ.get("RANK_SIZE") or "1"
    if not ranks.isdigit() or int(ranks) < 1:
        raise DataError("RANK_SIZE", "the number of ranks", repr(ranks), "unset it, or start with test/*_8p.sh")
    rank = os.environ.get("RANK_ID") or ("0" if int(ranks) == 1 else "")
    if not rank.isdigit() or int(rank) >= int(ranks):
        raise DataError("RANK_ID", "this process among RANK_SIZE=%s, from 0" % ranks, repr(rank),
                        "export it, or start with test/*_8p.sh")
    return int(rank), int(ranks)


def _check_own_gpu(tf, device, wanted):
    """DataError when this rank was given a GPU that is not there: it would wait on a CPU for the others' GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = os.listdir(_GPUS) if os.path.isdir(_GPUS) else []
    if device == "cpu" and wanted == "auto" and gpus and given not in ("", "-1") and tf.test.is_built_with_cuda():
        raise DataError("CUDA_VISIBLE_DEVICES=%s" % given, "a GPU for this rank", "%d in this machine" % len(gpus),
                        "start as many ranks as there are GPUs (RANK_SIZE), or give --device=cpu")


def _is_installed(package):
    return importlib.util.find_spec(package) is not None


def _choose_device(tf, wanted):
    """('auto'|'npu'|'gpu'|'cpu') -> (device, reason); DataError when the wanted one is not there."""
    release = ".".join(tf.__version__.split(".")[:2])
    package = _ADAPTERS.get(release)
    found = [name for name in _ADAPTERS.values() if _is_installed(name)]
    gpus = tf.config.experimental.list_physical_devices("GPU") if wanted in ("auto", "gpu") else []
    if wanted == "npu" and not package:
        raise DataError("--device=npu", "TensorFlow 1.15 or 2.6, which Ascend's adapters are for",
                        "TensorFlow " + tf.__version__, "use the Python of the Ascend image (docs/ascend.md)")
    if wanted == "npu" and package not in found:
        raise DataError("--device=npu", "the package %s for TensorFlow %s" % (package, release),
                        "no such package in this Python" + "".join("; only " + name for name in found),
                        "install CANN's TensorFlow adapter and source its set_env.sh, or use --device=auto")
    if wanted == "gpu" and not gpus:
        raise DataError("--device=gpu", "a GPU that TensorFlow %s can use" % tf.__version__, "none",
                        "install tensorflow[and-cuda] and a driver, or use --device=auto")
    if wanted == "npu" or (wanted == "auto" and package in found):
        return "npu", "asked, by %s" % package if wanted == "npu" else "%s is installed" % package
    if wanted == "gpu" or gpus:
        return "gpu", "asked" if wanted == "gpu" else "%d GPU(s) found" % len(gpus)
    if found:
        return "cpu", "asked" if wanted == "cpu" else "%s is not for TensorFlow %s, no GPU" % (found[0], release)
    return "cpu", "asked" if wanted == "cpu" else "no NPU package, no GPU"


def _check_npu_environment(ranks, keras):
    """Sets what the adapter needs before it is imported; DataError for what it would refuse later, or wait for."""
    for name in ("CM_CHIEF_IP", "CM_WORKER_SIZE"):
        if os.environ.get(name):
            raise DataError(name, "no cluster without a rank table, since RANK_SIZE and RANK_TABLE_FILE say who takes "
                            "part", repr(os.environ[name]), "unset it")
    if ranks > 1:
        os.environ.setdefault("JOB_ID", "10087")  # any text; without one the first reduction fails
        table = os.environ.get("RANK_TABLE_FILE") or ""
        if not os.path.isfile(table):
            raise DataError("RANK_TABLE_FILE", "the rank table of the %d ranks" % ranks, repr(table),
                            "export the path of a file like test/8p.json")
    # One call runs one step here; with another loop size another number of steps would be trained in silence.
    if keras and os.environ.setdefault("NPU_LOOP_SIZE", "1") != "1":
        raise DataError("NPU_LOOP_SIZE", "1, the steps that a call runs here", repr(os.environ["NPU_LOOP_SIZE"]),
                        "unset it")


def _import_adapter(tf, keras):
    """Ascend's package for sessions, or for eager Keras; DataError when a library below it is missing."""
    package = _ADAPTERS[".".join(tf.__version__.split(".")[:2])]
    try:
        if package == "npu_bridge":
            return importlib.import_module("npu_bridge.npu_init")
        npu_device = importlib.import_module("npu_device")
        if keras:
            return npu_device
        npu_device.compat.enable_v1()
        return importlib.import_module("npu_device.compat.v1.npu_init")
    except (ImportError, tf.errors.NotFoundError) as error:
        raise DataError(package, "Ascend's adapter with CANN's libraries below it", "it is installed, but: %s"
                        % str(error).split("\n")[0], "source CANN's set_env.sh, check that adapter and CANN are of one "
                        "version, or use --device=cpu") from error


def _cpu_has_bf16():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return bool({"avx512_bf16", "amx_bf16"} & set(line.split()))
    except OSError:
        pass
    return False
