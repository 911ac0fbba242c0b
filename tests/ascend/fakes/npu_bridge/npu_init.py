# SPDX-License-Identifier: Apache-2.0
"""The names that the folders use, and the import's effect on every session of the process."""
import ascend_contract
import hccl.manage.api  # noqa: F401
import tensorflow as tf
from ascend_contract import npu_distributed_optimizer_wrapper  # noqa: F401
from tensorflow.contrib.mixed_precision.python import loss_scale_manager as managers
from tensorflow.contrib.mixed_precision.python import loss_scale_optimizer

from npu_bridge import hccl_ops, util  # noqa: F401

if not tf.__version__.startswith('1.15'):
    raise ImportError('undefined symbol: TensorFlow %s' % tf.__version__)
ascend_contract.record('import', package='npu_bridge')
ascend_contract.patch_sessions()
ascend_contract.patch_gradients()
NPUOptimizer = ascend_contract.make_npu_optimizer()


class ExponentialUpdateLossScaleManager(managers.ExponentialUpdateLossScaleManager):
    """As the contract's, which checks nothing."""

    def __init__(self, init_loss_scale, incr_every_n_steps, decr_every_n_nan_or_inf=2, incr_ratio=2, decr_ratio=0.8):
        super().__init__(init_loss_scale, incr_every_n_steps, decr_every_n_nan_or_inf, incr_ratio, decr_ratio)
        ascend_contract.record('manager', initial=init_loss_scale, patience=decr_every_n_nan_or_inf, down=decr_ratio)


class NPULossScaleOptimizer(loss_scale_optimizer.LossScaleOptimizer):
    """Skips a step on overflow and moves the scale."""

    def __init__(self, opt, loss_scale_manager, is_distributed=False):
        if not isinstance(loss_scale_manager, managers.LossScaleManager):
            raise TypeError('loss_scale_manager')
        self._of_ascend, self._distributed = 'NPULossScaleOptimizer', is_distributed
        ascend_contract.record('loss_scale', kind='NPULossScaleOptimizer', is_distributed=is_distributed,
                               around=getattr(opt, '_of_ascend', None))
        super().__init__(opt, loss_scale_manager)

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """One step: by the gradients on a device with INF and NaN, which tf.contrib's class checks, else by status."""
        if ascend_contract.is_inf_nan():
            return super().apply_gradients(grads_and_vars, global_step, name)
        return ascend_contract.apply_if(
            ascend_contract.status_is_clear(self._distributed),
            lambda: self._opt.apply_gradients(grads_and_vars, global_step, name), self._loss_scale_manager)
