# SPDX-License-Identifier: Apache-2.0
"""The only file that knows NPU, GPU and CPU: device choice, session, numeric type, optimizer, fused functions.

Nothing is imported at the top that needs a device; Ascend's packages are imported here alone, and only when chosen.
"""
import importlib
import importlib.util
import os

from common import checkpoint
from common.datacheck import DataError

_MIXED = ("allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "allow_fp32_to_bf16",
          "force_fp16")


class Runtime:
    """What the model's loop needs to know of the machine.

    Attributes:
      tf: tensorflow.compat.v1 with TF2 behaviour off; with keras=True TensorFlow 2 as it is.
      device: "npu", "gpu" or "cpu"; `reason` says in a few words why.
      rank, ranks: this process and how many there are (RANK_ID, RANK_SIZE).
      compute_dtype: tf.DType that convolutions and matrix products are to use; variables stay float32.
      warnings: sentences for [warn] lines.
    """

    def __init__(self, parsed, keras=False):
        self.warnings = []
        self.rank, self.ranks = int(os.environ.get("RANK_ID", 0)), int(os.environ.get("RANK_SIZE", 1))
        self.tf = _import_tensorflow2() if keras else _import_tensorflow()
        self.device, self.reason = _choose_device(self.tf, parsed.device)
        if self.ranks > 1 and self.device != "npu":
            raise DataError("RANK_SIZE", "1 on %s" % self.device, self.ranks, "start one rank")
        self._npu_parameters = {}
        if self.device == "gpu" and keras:
            for gpu in self.tf.config.list_physical_devices("GPU"):
                self.tf.config.experimental.set_memory_growth(gpu, True)
        if self.device == "npu":
            from common import npu_options
            self._npu_parameters = npu_options.session_parameters(parsed, self.ranks)
            self._npu = _open_npu(self.tf, self._npu_parameters) if keras else _import_npu(self.tf)
            self._loss_scale = keras and parsed.precision_mode in _MIXED
        else:
            given = [flag for flag in ("over_dump", "data_dump_flag", "profiling", "use_mixlist", "fusion_off_flag",
                                       "autotune") if getattr(parsed, flag)]
            if given:
                self.warnings.append("--%s has no effect on %s" % (", --".join(given), self.device))
        self.compute_dtype = self._choose_dtype(parsed.precision_mode)

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
        if self.device == "gpu":
            config.gpu_options.allow_growth = True
        if self.device == "npu":
            from common import npu_options
            npu_options.fill_session_config(config, self._npu_parameters)
        return config

    def wrap_optimizer(self, optimizer):
        """The optimizer with what the device needs around it: averaging over ranks on Ascend."""
        if self.device == "npu" and self.ranks > 1:
            return _import_npu(self.tf).npu_distributed_optimizer_wrapper(optimizer)
        return optimizer

    def keras_optimizer(self, optimizer, variables):
        """A Keras optimizer ready for these variables, with what the device needs around it.

        On Ascend: averaging over ranks, and around it loss scaling where float16 is computed.
        """
        if self.device == "npu" and self.ranks > 1:
            optimizer = self._npu.distribute.npu_distributed_keras_optimizer_wrapper(optimizer)
        if self.device == "npu" and self._loss_scale:
            optimizer = self._npu.train.optimizer.NpuLossScaleOptimizer(optimizer)
        if hasattr(optimizer, "build"):
            optimizer.build(variables)
        else:  # Keras 2
            optimizer._create_all_weights(variables)
        return optimizer

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
        checkpoint.check_variables(stored, expected, prefix)
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

    def describe(self):
        """Fields for the [run] line."""
        return dict(device=self.device, device_reason=self.reason, ranks=self.ranks, tf=self.tf.__version__,
                    compute_dtype=self.compute_dtype.name)


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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    return tf


def _import_tensorflow2():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import logging

    import tensorflow as tf
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return tf


def _choose_device(tf, wanted):
    """('auto'|'npu'|'gpu'|'cpu') -> (device, reason); DataError when the wanted one is not there."""
    npu_package = next((name for name in ("npu_bridge", "npu_device") if importlib.util.find_spec(name)), None)
    gpus = tf.config.experimental.list_physical_devices("GPU") if wanted in ("auto", "gpu") else []
    if wanted == "npu" and not npu_package:
        raise DataError("--device=npu", "the package npu_bridge (TensorFlow 1.15) or npu_device (TensorFlow 2.6)",
                        "neither in this Python", "install CANN's TensorFlow adapter and source its set_env.sh, or use "
                        "--device=auto")
    if wanted == "gpu" and not gpus:
        raise DataError("--device=gpu", "a GPU that TensorFlow %s can use" % tf.__version__, "none",
                        "install tensorflow[and-cuda] and a driver, or use --device=auto")
    if wanted == "npu" or (wanted == "auto" and npu_package):
        return "npu", "asked" if wanted == "npu" else "%s is installed" % npu_package
    if wanted == "gpu" or gpus:
        return "gpu", "asked" if wanted == "gpu" else "%d GPU(s) found" % len(gpus)
    return "cpu", "asked" if wanted == "cpu" else "no NPU package, no GPU"


def _import_npu(tf):
    """Ascend's session-mode package; DataError tells a missing native library from a missing package."""
    name = "npu_bridge.npu_init" if tf.__version__.startswith("1.") else "npu_device.compat.v1.npu_init"
    try:
        if not tf.__version__.startswith("1."):
            importlib.import_module("npu_device").compat.enable_v1()
        return importlib.import_module(name)
    except (ImportError, tf.errors.NotFoundError) as error:
        raise DataError(name, "Ascend's adapter with its native libraries", str(error).split("\n")[0],
                        "source CANN's set_env.sh, and check that hccl and the adapter match TensorFlow %s"
                        % tf.__version__) from error


def _open_npu(tf, parameters):
    """Opens the device for eager TensorFlow 2 with these options and makes it the default one."""
    try:
        npu_device = importlib.import_module("npu_device")
    except (ImportError, tf.errors.NotFoundError) as error:
        raise DataError("npu_device", "Ascend's adapter for TensorFlow 2.6 with its native libraries",
                        str(error).split("\n")[0], "source CANN's set_env.sh, and check that the adapter matches "
                        "TensorFlow %s" % tf.__version__) from error
    from common import npu_options
    npu_options.fill_global_options(npu_device.global_options(), parameters)
    npu_device.open().as_default()
    return npu_device


def _cpu_has_bf16():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return bool({"avx512_bf16", "amx_bf16"} & set(line.split()))
    except OSError:
        pass
    return False
