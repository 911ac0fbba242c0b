# SPDX-License-Identifier: Apache-2.0
"""Dynamic loss scaling in a session's graph (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

Ascend's adapter scales the loss and finds overflows; how the scale moves, and what counts as a step, is here.
"""

INITIAL_SCALE = 2.0 ** 12  # a loss of 16 times this is float16's end; 12 skipped steps would bring it down to 1
GROWTH_STEPS = 2000  # finite steps in a row before the scale is doubled
LARGEST_SCALE = 2.0 ** 24


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


class EveryStepCounts:
    """Around an optimizer that skips a step on overflow: the global step counts that one too, as the loop does.

    A checkpoint's step and its graph's then agree. It also holds where the adapter does not hand the global step on
    (its branch for devices that compute INF and NaN).
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
