# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation with ReLU: as Keras' layers, for files and evaluation, and in one layer, for training."""
import tensorflow as tf
from tensorflow import keras

EPSILON = 1e-3
MOMENTUM = 0.9  # statistics are over 2,048 values a channel and more: short averages follow the weights


def standard_normalise(x, name, shortcut=None, frozen=False):
    """Batch normalisation (Ioffe and Szegedy 2015), `+ shortcut` where one is given, ReLU; not for training frozen."""
    x = keras.layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name=name)(x)
    if shortcut is not None:
        x = keras.layers.Add(name=name + "_add")([x, shortcut])
    return keras.layers.ReLU(name=name + "_relu")(x)


class NormaliseAndRelu(keras.layers.Layer):
    """ReLU(batch normalisation(x) + shortcut) in training, by TensorFlow's fused operation.

    Its variables are those of Keras' BatchNormalization, which Keras 3 computes by a dozen elementwise operations.

    Args:
      frozen: normalise by the moving statistics, and leave them as they are.
      momentum: of the moving statistics.
    """

    def __init__(self, frozen=False, momentum=MOMENTUM, **words):
        super().__init__(**words)
        self._frozen, self._momentum = frozen, momentum

    def build(self, input_shape):
        shape = input_shape[0] if isinstance(input_shape[0], (tuple, list, tf.TensorShape)) else input_shape
        channels = [shape[-1]]

        def vector(name, initial, trainable):
            return self.add_weight(name=name, shape=channels, initializer=initial, trainable=trainable, dtype="float32")

        self.gamma, self.beta = vector("gamma", "ones", True), vector("beta", "zeros", True)
        self.moving_mean = vector("moving_mean", "zeros", False)
        self.moving_variance = vector("moving_variance", "ones", False)

    def call(self, inputs):
        x, shortcut = inputs if isinstance(inputs, (tuple, list)) else (inputs, None)
        given = (self.moving_mean, self.moving_variance) if self._frozen else (None, None)
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta),
            *(None if value is None else tf.convert_to_tensor(value) for value in given), epsilon=EPSILON,
            is_training=not self._frozen)
        for moving, batch in () if self._frozen else ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign_sub((moving - batch) * (1.0 - self._momentum))
        return tf.nn.relu(y if shortcut is None else y + shortcut)


def fused_normalise(x, name, shortcut=None, frozen=False, momentum=MOMENTUM):
    """standard_normalise as one layer, in the type of the map that comes in."""
    layer = NormaliseAndRelu(frozen, momentum, name=name, dtype="float32", autocast=False)
    return layer(x if shortcut is None else [x, shortcut])


def dtype_policy(compute_dtype):
    """Keras' policy for convolutions in tf.float32 or tf.bfloat16 with float32 variables."""
    return "float32" if compute_dtype == tf.float32 else keras.mixed_precision.Policy("mixed_bfloat16")
