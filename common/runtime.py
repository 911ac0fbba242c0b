# SPDX-License-Identifier: Apache-2.0
"""Which device? Chooses a backend of common/backends; the model's loop knows no more of the machine than that gives.

Nothing is imported at the top that needs a device.
"""
import gc
import os
from typing import Any

from common import flags, progress, ranks
from common.backends import npu
from common.backends.local import Local
from common.files import DataError, check_installed

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_ONEDNN_CALLER = "TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD"
_GPUS = "/proc/driver/nvidia/gpus"


def open_runtime(parsed, keras=False, steps_per_run=1, large_kernels=False, bfloat16_on_cpu=True):
    """Imports TensorFlow and opens the device that the flags mean.

    Args:
      parsed: namespace with the flags of flags.add_device_group.
      keras: the model is eager TensorFlow 2 instead of a graph in a session.
      steps_per_run: training steps that one run of the session is to do where the device has such a loop (Ascend).
      large_kernels: see backends.local.Local.
      bfloat16_on_cpu: False for a network that is slower in bfloat16 on a CPU.
    Returns:
      backends.local.Local, collective.Collective, npu.Npu or npu.NpuEager; its `tf` is tensorflow.compat.v1 with TF2
      behaviour off, with keras=True TensorFlow 2 as it is.
    Raises:
      DataError: the device, or what it needs, is not there.
    """
    check_installed("tensorflow")
    rank, count = ranks.read()
    warnings = _keep_adapter_log(parsed.device)
    os.environ.setdefault(_ONEDNN_CALLER, "1")  # else the thread of an operation sleeps while others compute it
    gc.disable()  # which would look again and again through what stays
    try:
        with progress.Phase("starting TensorFlow"):
            tf = _import_tensorflow2() if keras else _import_tensorflow()
    finally:
        gc.enable()
    device, reason = _choose_device(tf, parsed.device)
    words = dict(rank=rank, ranks=count, large_kernels=large_kernels)
    backend: Any = npu.NpuEager if keras else npu.Npu
    if device == "npu":
        runtime = backend(parsed, steps_per_run, tf, device, reason, **words)
    else:
        if device == "gpu" and (keras or count > 1):
            for gpu in tf.config.experimental.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
        if count > 1:
            _check_own_gpu(tf, device, parsed.device)
            from common.backends.collective import Collective
            backend = Collective
        else:
            backend = Local
        runtime = backend(tf, device, reason, eager=keras, **words)
        dtype_name, why_not = _choose_dtype(tf, device, parsed.precision_mode, bfloat16_on_cpu)
        runtime.compute_dtype = getattr(tf, dtype_name)
        runtime.warnings += _without_effect(parsed, device) + why_not
    runtime.warnings[:0] = warnings
    return runtime


def _keep_adapter_log(wanted):
    """Lets TensorFlow log INFO where an NPU may be used: one such line proves that the device was."""
    if wanted not in ("auto", "npu") or not any(map(npu.is_installed, npu.ADAPTERS.values())):
        os.environ.setdefault(_LOG_LEVEL, "2")
    elif os.environ.get(_LOG_LEVEL, "0") != "0":
        level, os.environ[_LOG_LEVEL] = os.environ[_LOG_LEVEL], "0"
        return ["%s=%s is set to 0: the line that proves the use of the NPU is of level INFO" % (_LOG_LEVEL, level)]
    return []


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


def _without_effect(parsed, device):
    """Sentences about NPU diagnostics that were asked for on another device."""
    given = [flag for flag in flags.NPU_SWITCHES if getattr(parsed, flag)]
    return ["--%s has no effect on %s" % (", --".join(given), device)] if given else []


def _choose_dtype(tf, device, precision_mode, bfloat16_on_cpu):
    """("bfloat16" or "float32", reasons for a [warn] line why the mode is not what it says)."""
    if not flags.PRECISION_MODES[precision_mode].bfloat16:
        return "float32", []
    if device == "gpu":
        gpu = tf.config.experimental.list_physical_devices("GPU")[0]
        ask = getattr(tf.config.experimental, "get_device_details", None)
        capability = ask(gpu).get("compute_capability", (0, 0)) if ask else (0, 0)
        why_not = capability < (8, 0) and "this GPU has no bfloat16 units"
    elif not bfloat16_on_cpu:
        why_not = "this network is slower in bfloat16 on a CPU"
    elif not _cpu_has_bf16():
        why_not = "this CPU has no AVX512_BF16 or AMX_BF16"
    else:  # before oneDNN was the default
        old = tuple(int(part) for part in tf.__version__.split(".")[:2]) < (2, 9)
        why_not = old and "TensorFlow %s has no bfloat16 kernels for this CPU" % tf.__version__
    if why_not:
        return "float32", ["precision_mode=%s: %s, computing in float32" % (precision_mode, why_not)]
    return "bfloat16", []


def _check_own_gpu(tf, device, wanted):
    """DataError when this rank was given a GPU that is not there: it would wait on a CPU for the others' GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = os.listdir(_GPUS) if os.path.isdir(_GPUS) else []
    if device == "cpu" and wanted == "auto" and gpus and given not in ("", "-1") and tf.test.is_built_with_cuda():
        raise DataError("CUDA_VISIBLE_DEVICES=%s" % given, "a GPU for this rank", "%d in this machine" % len(gpus),
                        "start as many ranks as there are GPUs (RANK_SIZE), or give --device=cpu")


def _choose_device(tf, wanted):
    """('auto'|'npu'|'gpu'|'cpu') -> (device, reason); DataError when the wanted one is not there."""
    release = ".".join(tf.__version__.split(".")[:2])
    package = npu.ADAPTERS.get(release)
    found = [name for name in npu.ADAPTERS.values() if npu.is_installed(name)]
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
    if found and wanted == "auto":  # somebody has an NPU, and would wait days for a CPU
        raise DataError("--device=auto", " or ".join("TensorFlow %s with %s" % one for one in npu.ADAPTERS.items()),
                        "%s with TensorFlow %s" % (" and ".join(found), tf.__version__),
                        "install the one that fits (docs/ascend.md), or give --device=cpu")
    return "cpu", "asked" if wanted == "cpu" else "no NPU package, no GPU"


def _cpu_has_bf16():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return bool({"avx512_bf16", "amx_bf16"} & set(line.split()))
    except OSError:
        pass
    return False
