# SPDX-License-Identifier: Apache-2.0
"""Loss scaling of eager TensorFlow."""
import tensorflow as tf
from ascend_contract import is_inf_nan, record, status_is_clear

from npu_device import distribute


class NpuLossScaleOptimizer(tf.keras.mixed_precision.LossScaleOptimizer):
    """Keras', which looks at the gradients that it is given; on a device that saturates at the float status instead."""

    def __init__(self, inner_optimizer, dynamic=True, initial_scale=None, dynamic_growth_steps=None):
        super().__init__(inner_optimizer, dynamic, initial_scale, dynamic_growth_steps)
        record('loss_scale', kind='NpuLossScaleOptimizer', dynamic=dynamic, initial=initial_scale,
               around=getattr(inner_optimizer, '_of_ascend', None))

    def apply_gradients(self, grads_and_vars, name=None):
        """One step."""
        if is_inf_nan():
            return super().apply_gradients(grads_and_vars, name)
        grads_and_vars = list(grads_and_vars)
        clear = status_is_clear(not distribute.is_alone())
        scale = self._loss_scale  # Keras' rule; it is told by a gradient whether there was an overflow
        moved, _ = scale.update([tf.where(clear, 0.0, float('nan'))])
        applied = tf.cond(clear, lambda: self._optimizer.apply_gradients(grads_and_vars, name),
                          lambda: self._optimizer.iterations.assign_add(1, read_value=False))
        return tf.group(applied, moved)
