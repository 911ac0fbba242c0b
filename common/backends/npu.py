# SPDX-License-Identifier: Apache-2.0
"""Ascend, in sessions and eager: the only file that names its packages, which are imported when chosen.

In the modes that compute float16 the loss is scaled, dynamically (Micikevicius et al. 2018, arXiv:1710.03740, section
3.2). Ascend's adapter scales it and finds overflows, but for graphs on TensorFlow 2.6 on devices that compute INF and
NaN; how the scale moves, and what counts as a step, is here.
"""
import importlib
import importlib.util
import os
from typing import Any, Dict, List

from common import flags, npu_options, ranks
from common.backends.local import Local
from common.files import DataError

ADAPTERS = {"1.15": "npu_bridge", "2.6": "npu_device"}  # TensorFlow -> Ascend's package for it
INITIAL_SCALE = 2.0 ** 12  # a loss of 16 times this is float16's end; 12 skipped steps would bring it down to 1
GROWTH_STEPS = 2000  # finite steps in a row before the scale is doubled
LARGEST_SCALE = 2.0 ** 24
# Of these the adapter takes an empty text for a value and stumbles over it; here it is one that is not set.
_VARIABLES = ("ASCEND_DEVICE_ID", "RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE", "JOB_ID", "CM_CHIEF_IP", "CM_WORKER_SIZE",
              "NPU_LOOP_SIZE")


class Npu(Local):
    """One rank on an Ascend card, with a graph in sessions.

    Args:
      parsed: namespace with the flags of flags.add_device_group.
      steps_per_run: training steps that the device is to do in one run of the session.
    Raises:
      DataError: an option, or the environment, is not what the adapter takes.
    """

    def __init__(self, parsed, steps_per_run, *args, **kwargs):
        super().__init__(*args, **kwargs)
        os.environ.pop("TF_CONFIG", None)  # the rank table says who takes part
        self.steps_per_run = steps_per_run
        self._options = npu_options.session_parameters(parsed, self.ranks, steps_per_run)
        self._scales_loss = flags.PRECISION_MODES[parsed.precision_mode].float16
        _check_environment(self.ranks, self.eager)
        if self.ranks == 1 and os.environ.pop("RANK_TABLE_FILE", ""):
            self.warnings.append("RANK_TABLE_FILE is not used by one rank: with it, Ascend would wait for others")
        self._adapter = _import_adapter(self.tf, self.eager)
        self._facts: Dict[str, str] = {}  # about the optimizer, for the [run] line

    def session_config(self):
        config = super().session_config()
        npu_options.fill_session_config(config, self._options)
        return config

    def wrap_optimizer(self, optimizer):
        """Averaging over ranks, and around it loss scaling in the modes that compute float16."""
        adapter, distributed = self._adapter, self.ranks > 1
        self._facts = {"loss_scale": "dynamic" if self._scales_loss else "off"}
        if not self._scales_loss:
            return self._averaging(optimizer)
        before = {variable.op.name for variable in self.tf.global_variables()}
        if hasattr(adapter, "NPULossScaleOptimizer"):  # it knows both kinds of device
            manager = adapter.ExponentialUpdateLossScaleManager(
                init_loss_scale=INITIAL_SCALE, incr_every_n_steps=GROWTH_STEPS, decr_every_n_nan_or_inf=1,
                decr_ratio=0.5)
            optimizer = adapter.NPULossScaleOptimizer(self._averaging(optimizer), manager, is_distributed=distributed)
        elif importlib.import_module("npu_device").is_inf_nan_enabled():
            optimizer = FiniteGradients(self.tf, self._averaging(optimizer), DynamicLossScale(self.tf))
        else:  # it averages as well, and knows an overflow by the status alone that a device sets when it saturates
            optimizer = adapter.NPUOptimizer(optimizer, DynamicLossScale(self.tf), is_distributed=distributed,
                                             is_loss_scale=True)
        # of a run that did not scale the loss a checkpoint has none of these
        self.may_be_missing = {variable.op.name for variable in self.tf.global_variables()} - before
        return EveryStepCounts(self.tf, optimizer)

    def _averaging(self, optimizer):
        return self._adapter.npu_distributed_optimizer_wrapper(optimizer) if self.ranks > 1 else optimizer

    def looped(self, session, update):
        return self._adapter.util.set_iteration_per_loop(session, update, self.steps_per_run) if (
            self.steps_per_run > 1) else update

    def of_rank_0(self, variables):
        values: List[Any] = []
        for variable in variables:
            with self.tf.control_dependencies(values[-1:]):  # all ranks in the same order, so none is fused
                values += self._adapter.hccl_ops.broadcast([variable], 0, fusion=0)
        return values

    def sum_tensors(self, tensors):
        sums: List[Any] = []
        for tensor in tensors if self.ranks > 1 else ():
            with self.tf.control_dependencies(sums[-1:]):
                sums.append(self._adapter.hccl_ops.allreduce(tensor, "sum", fusion=0))
        return sums if self.ranks > 1 else tensors

    def describe(self, peak_rate=None):
        return dict(super().describe(peak_rate), **self._facts, steps_per_run=self.steps_per_run)


class NpuEager(Npu):
    """One rank on an Ascend card, with eager Keras."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, eager=True, **kwargs)
        npu_options.fill_global_options(self._adapter.global_options(), self._options)
        try:
            self._adapter.open().as_default()
        except RuntimeError as error:
            raise DataError("ASCEND_DEVICE_ID=%s" % os.environ.get("ASCEND_DEVICE_ID", ""), "an NPU that opens",
                            str(error), "look at it with npu-smi info, and at ~/ascend/log") from error

    def keras_optimizer(self, optimizer, variables):
        """Loss scaling in the modes that compute float16. It does not average: mean_gradients() has done so before."""
        if self._scales_loss:
            optimizer = self._adapter.train.optimizer.NpuLossScaleOptimizer(
                optimizer, initial_scale=INITIAL_SCALE, dynamic_growth_steps=GROWTH_STEPS)
        self._facts = {"loss_scale": "dynamic" if self._scales_loss else "off",
                       "variables_on": ":".join(variables[0].device.split(":")[-2:])}
        return super().keras_optimizer(optimizer, variables)

    def scale_loss(self, loss, optimizer):
        return optimizer.get_scaled_loss(loss) if self._scales_loss else loss

    def unscale(self, gradients, optimizer):
        return optimizer.get_unscaled_gradients(gradients) if self._scales_loss else gradients

    def mean_gradients(self, gradients):
        # Before the optimizer looks for an overflow, which on a device that computes INF and NaN it does in what it is
        # given: were that this rank's alone, the others would wait for a rank that skips its step.
        return self._adapter.distribute.all_reduce(list(gradients), "mean")

    def broadcast(self, variables):
        if self.ranks > 1:
            self._adapter.distribute.broadcast(list(variables))

    def sum_tensors(self, tensors):
        if self.ranks == 1:
            return tensors
        return [self._adapter.distribute.all_reduce(tensor, "sum", fusion=0) for tensor in tensors]


class DynamicLossScale:
    """A loss-scale manager as the adapter's optimizers take it: halves on overflow, doubles after GROWTH_STEPS.

    Its variables have the names that TensorFlow 1.15's ExponentialUpdateLossScaleManager gives its own.
    """

    def __init__(self, tf):
        self._tf = tf
        self._scale = tf.get_variable("loss_scale", [], tf.float32, tf.constant_initializer(INITIAL_SCALE),
                                      trainable=False, use_resource=True)
        self._good_steps = tf.get_variable("good_steps", [], tf.int32, tf.zeros_initializer(), trainable=False,
                                           use_resource=True)

    def get_loss_scale(self):
        """float32 [], the scale of this step."""
        return self._scale.read_value()

    def update_loss_scale(self, finite_grads):
        """The operation that moves the scale after a step.

        Args:
          finite_grads: bool [], False where this step overflowed.
        """
        tf = self._tf
        scale, good_steps = self._scale.read_value(), self._good_steps.read_value() + 1
        grows = good_steps >= GROWTH_STEPS
        after_finite = tf.where(grows, tf.minimum(2.0 * scale, LARGEST_SCALE), scale)
        return tf.group(
            self._scale.assign(tf.where(finite_grads, after_finite, tf.maximum(0.5 * scale, 1.0))),
            self._good_steps.assign(tf.where(tf.logical_and(finite_grads, tf.logical_not(grows)), good_steps,
                                             tf.zeros_like(good_steps))))


class FiniteGradients:
    """Loss scaling around an optimizer that averages: a step whose mean gradients hold INF or NaN is skipped by all.

    Args:
      manager: DynamicLossScale.
    """

    def __init__(self, tf, optimizer, manager):
        self._tf, self._optimizer, self._manager = tf, optimizer, manager

    def compute_gradients(self, loss, **kwargs):
        """[(gradient, variable)] of the loss as it is."""
        scale = self._manager.get_loss_scale()
        return [(None if gradient is None else gradient / scale, variable)
                for gradient, variable in self._optimizer.compute_gradients(loss * scale, **kwargs)]

    def apply_gradients(self, gradients):
        """The operation of one step, and of the scale."""
        tf = self._tf
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(gradient)) for gradient, _ in gradients
                                if gradient is not None])
        applied = tf.cond(finite, lambda: self._optimizer.apply_gradients(gradients), tf.no_op)
        return tf.group(applied, self._manager.update_loss_scale(finite))


class EveryStepCounts:
    """Around an optimizer that skips a step on overflow: the global step counts that one too, as the loop does.

    A checkpoint's step and its graph's then agree.
    """

    def __init__(self, tf, optimizer):
        self._tf, self._optimizer = tf, optimizer

    def compute_gradients(self, loss, **kwargs):
        """[(gradient, variable)] of the loss as it is: scaled and scaled back inside."""
        return self._optimizer.compute_gradients(loss, **kwargs)

    def apply_gradients(self, gradients, global_step=None):
        """The operation of one step; applies nothing when it overflowed."""
        applied = self._optimizer.apply_gradients(gradients)
        if global_step is None:
            return applied
        with self._tf.control_dependencies([applied]):
            return self._tf.group(global_step.assign_add(1))


def is_installed(package):
    """Whether this Python has a package; it is not imported."""
    return importlib.util.find_spec(package) is not None


def _check_environment(count, eager):
    """Sets what the adapter needs before it is imported; DataError for what it would refuse later, or wait for."""
    for name in _VARIABLES:
        if not os.environ.get(name):
            os.environ.pop(name, None)
    device_id = os.environ.get("ASCEND_DEVICE_ID", "0")
    if not device_id.isdecimal():
        raise DataError("ASCEND_DEVICE_ID", "a device's number", repr(device_id), "correct it or unset it")
    for name in ("CM_CHIEF_IP", "CM_WORKER_SIZE"):
        if name in os.environ:
            raise DataError(name, "no cluster without a rank table, since RANK_SIZE and RANK_TABLE_FILE say who takes "
                            "part", repr(os.environ[name]), "unset it")
    if count > 1:
        os.environ.setdefault("JOB_ID", "10087")  # any text; without one the first reduction fails
        table = ranks.table_file() or ""
        if not os.path.isfile(table):
            raise DataError("RANK_TABLE_FILE", "the rank table of the %d ranks" % count, repr(table),
                            "export the path of a file like test/8p.json")
    # One call runs one step here; with another loop size another number of steps would be trained in silence.
    if eager and os.environ.setdefault("NPU_LOOP_SIZE", "1") != "1":
        raise DataError("NPU_LOOP_SIZE", "1, the steps that a call runs here", repr(os.environ["NPU_LOOP_SIZE"]),
                        "unset it")


def _import_adapter(tf, eager):
    """Ascend's package for sessions, or for eager Keras; DataError when a library below it is missing."""
    package = ADAPTERS[".".join(tf.__version__.split(".")[:2])]
    try:
        if package == "npu_bridge":
            return importlib.import_module("npu_bridge.npu_init")
        npu_device = importlib.import_module("npu_device")
        if eager:
            return npu_device
        npu_device.compat.enable_v1()
        return importlib.import_module("npu_device.compat.v1.npu_init")
    except (ImportError, tf.errors.NotFoundError) as error:
        raise DataError(package, "Ascend's adapter with CANN's libraries below it", "it is installed, but: %s"
                        % str(error).split("\n")[0], "source CANN's set_env.sh, check that adapter and CANN are of one "
                        "version, or use --device=cpu") from error
