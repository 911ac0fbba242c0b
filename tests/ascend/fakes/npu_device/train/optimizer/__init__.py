# SPDX-License-Identifier: Apache-2.0
"""Loss scaling of eager TensorFlow."""
import tensorflow as tf
from ascend_contract import record


class NpuLossScaleOptimizer(tf.keras.mixed_precision.LossScaleOptimizer):
    """Keras' with the contract's signature."""

    def __init__(self, inner_optimizer, dynamic=True, initial_scale=None, dynamic_growth_steps=None):
        super().__init__(inner_optimizer, dynamic, initial_scale, dynamic_growth_steps)
        record('loss_scale', kind='NpuLossScaleOptimizer', dynamic=dynamic, initial=initial_scale,
               around=getattr(inner_optimizer, '_of_ascend', None))
