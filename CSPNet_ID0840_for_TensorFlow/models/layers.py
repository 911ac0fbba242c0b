# SPDX-License-Identifier: Apache-2.0
"""Convolution, batch normalisation and mish, in forms that are fast on maps of 4x4 pixels and fewer.

Images and maps are NHWC. Variables are float32; products are computed in the type of the map that comes in.
"""
import tensorflow.compat.v1 as tf

BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99  # the last stage normalises over 64 values a channel: shorter averages are too noisy


def moving_average_momentum(step, at_most=BATCH_NORM_MOMENTUM):
    """Momentum of the moving statistics at a step: (1 + step) / (10 + step), at most `at_most`.

    A run of a hundred steps, too, then evaluates by statistics that have left their initial values.

    Args:
      step: int64 [] tensor, training steps done.
    Returns:
      float32 [].
    """
    done = tf.cast(step, tf.float32)
    return tf.minimum((1.0 + done) / (10.0 + done), at_most)


def make_mish(fuse):
    """mish(x) = x tanh(softplus(x)) (Misra 2019, arXiv:1908.08681, eq. 1) with a gradient that keeps only x.

    With e = exp(x) and n = e (e + 2), tanh(softplus(x)) = n / (n + 2): one exponential instead of three
    transcendental functions.

    Args:
      fuse: function -> function that may compile an elementwise function into one kernel.
    Returns:
      function(x) -> tensor of x's shape and type; computed in float32.
    """
    @fuse
    def value(x):
        wide = tf.cast(x, tf.float32)
        e = tf.exp(tf.minimum(wide, 20.0))  # beyond 20, n / (n + 2) is 1 in float32
        n = e * (e + 2.0)
        return tf.cast(wide * n / (n + 2.0), x.dtype)

    @fuse
    def gradient(x, upstream):
        wide = tf.cast(x, tf.float32)
        e = tf.exp(tf.minimum(wide, 20.0))
        n = e * (e + 2.0)
        r = 1.0 / (n + 2.0)
        slope = r * (n + 4.0 * wide * e * (e + 1.0) * r)
        return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)

    @tf.custom_gradient
    def mish(x):
        return value(x), lambda upstream: gradient(x, upstream)

    return mish


def convolution(x, channels, kernel_px, stride):
    """kernel_px x kernel_px convolution without bias, SAME padding.

    Kernel taps that could only ever meet padding are not made: at 1x1 pixel a 3x3 kernel is its centre, and where a
    2x2 map becomes one pixel it is 2x2. Maps and gradients are those of the full kernel, whose other taps
    would see zeros and decay.

    Args:
      x: [B, H, H, C], H static.
      channels: int, output channels.
      kernel_px: 1 or 3.
      stride: 1 or 2.
    Returns:
      [B, H / stride, H / stride, channels], x's type. Variable: "weights" [taps, taps, C, channels], float32.
    """
    height_px, channels_in = int(x.shape[1]), int(x.shape[3])
    out_px = height_px // stride
    taps = kernel_px if height_px > stride else min(kernel_px, height_px)
    weights = tf.get_variable("weights", [taps, taps, channels_in, channels], tf.float32,
                              tf.variance_scaling_initializer(2.0), use_resource=True)
    cast_weights = tf.cast(weights, x.dtype)
    if taps == 1 or out_px == 1:
        values = taps * taps * channels_in
        y = tf.matmul(tf.reshape(x, [-1, values]), tf.reshape(cast_weights, [values, channels]))
        return tf.reshape(y, [-1, out_px, out_px, channels])
    if height_px <= 4 or (out_px <= 4 and x.dtype == tf.bfloat16):
        return _small_map_convolution(x, cast_weights, stride)
    return tf.nn.conv2d(x, cast_weights, strides=[1, stride, stride, 1], padding="SAME")


def _small_map_convolution(x, weights, stride):
    """3x3 convolution whose weight gradient is one matrix product.

    On a CPU the library's own bfloat16 weight gradient of a map that is or becomes 2x2 or 4x4 takes two to five times
    as long as the product of the nine shifted maps with the upstream gradient. Forward and input gradient are the
    library's.
    """
    height_px, channels_in, channels = int(x.shape[1]), int(x.shape[3]), int(weights.shape[3])
    out_px, cells = height_px // stride, height_px // stride + 2 // stride
    before = 1 if stride == 1 else 0  # SAME padding of an even map at stride 2 is all behind

    @tf.custom_gradient
    def convolve(x, weights):
        def gradient(upstream):
            padded = tf.pad(x, [[0, 0], [before, 2 - before], [before, 2 - before], [0, 0]])
            # A slice with steps takes ten times as long as one of this shape.
            padded = tf.reshape(padded, [-1, cells, stride, cells, stride, channels_in])
            shifted = tf.concat([
                padded[:, row // stride:row // stride + out_px, row % stride,
                       column // stride:column // stride + out_px, column % stride]
                for row in range(3) for column in range(3)], 3)  # [B, h, h, 9 C]
            by_weights = tf.matmul(tf.reshape(shifted, [-1, 9 * channels_in]), tf.reshape(upstream, [-1, channels]),
                                   transpose_a=True)
            by_x = tf.nn.conv2d_backprop_input(tf.shape(x), weights, upstream, strides=[1, stride, stride, 1],
                                               padding="SAME")
            return by_x, tf.reshape(by_weights, [3, 3, channels_in, channels])
        return tf.nn.conv2d(x, weights, strides=[1, stride, stride, 1], padding="SAME"), gradient

    return convolve(x, weights)


def batch_norm(x, training, momentum, gamma_initial=1.0):
    """Batch normalisation (Ioffe and Szegedy 2015, algorithms 1 and 2) with scale, shift and moving statistics.

    Args:
      x: [B, H, W, C].
      training: Python bool. True normalises by the batch and adds the moving statistics' updates to UPDATE_OPS; False
        normalises by the moving statistics, so that an image's result does not depend on its neighbours.
      momentum: float32 [], of the moving statistics.
      gamma_initial: initial scale; 0 lets a residual block start as the identity (Goyal et al. 2017, section 5.1).
    Returns:
      [B, H, W, C], x's type. Variables: gamma, beta, moving_mean, moving_variance, each [C].
    """
    channels = int(x.shape[3])

    def vector(name, value, trainable):
        return tf.get_variable(name, [channels], tf.float32, tf.constant_initializer(value), trainable=trainable,
                               use_resource=True)

    gamma, beta = vector("gamma", gamma_initial, True), vector("beta", 0.0, True)
    moving_mean, moving_variance = vector("moving_mean", 0.0, False), vector("moving_variance", 1.0, False)
    if not training:
        y, _, _ = tf.nn.fused_batch_norm(x, gamma, beta, moving_mean, moving_variance, epsilon=BATCH_NORM_EPSILON,
                                         is_training=False)
        return y
    y, mean, variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=BATCH_NORM_EPSILON, is_training=True)
    for moving, batch in ((moving_mean, mean), (moving_variance, variance)):
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS,
                             moving.assign_sub((moving - batch) * (1.0 - momentum)))
    return y
