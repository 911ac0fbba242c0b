# SPDX-License-Identifier: Apache-2.0
"""ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164), as the published TensorFlow reference has it and as torchvision.

Names, shapes and channel order are those of github.com/TropComplique/shufflenet-v2-tensorflow, so its checkpoints load.
torchvision's network of this name differs in small things, see _TorchvisionNetwork; its variables have the same names.
Maps are NHWC, variables are float32.
"""
import collections
import math

import tensorflow.compat.v1 as tf

NAME = "shufflenet_v2"
IMAGE_PX = 224
BATCH_NORM_MOMENTUM = 0.997

# stage2: channels out of Stage2, doubled by each later stage; last: channels of Conv5 (the paper's table 5).
Width = collections.namedtuple("Width", "stage2 last")
WIDTHS = {
    "0.5": Width(48, 1024),
    "1.0": Width(116, 1024),
    "1.5": Width(176, 1024),
    "2.0": Width(244, 2048),
    "2.0_224": Width(224, 2048),  # what the published TensorFlow code calls 2.0
}
CONV1_CHANNELS = 24
STAGES = (("Stage2", 4), ("Stage3", 8), ("Stage4", 4))  # name, units


def logits(images, training, classes, width="0.5", variant="published", version="he_uniform", compute_dtype=tf.float32,
           fuse=lambda function: function, freeze=0):
    """Class scores of images.

    Args:
      images: [B, 224, 224, 3] RGB, uint8 in 0..255 or float32 in 0..1.
      training: Python bool; see batch_norm.
      classes: int.
      width: a key of WIDTHS; variant: a key of VARIANTS.
      version: how weights start, a key of INITIALIZERS.
      compute_dtype: tf.float32 or tf.bfloat16, of products and maps.
      fuse: function -> function that may compile a function of tensors into one kernel.
      freeze: int, of Conv1, the stages and Conv5 so many from the first on are made as constants of the training:
        their variables are not trainable, their moving statistics serve and stay.
    Returns:
      [B, classes] float32.
    """
    network = VARIANTS[variant](training, INITIALIZERS[version], fuse)
    if images.dtype == tf.uint8:
        images = tf.cast(images, tf.float32) / 255.0
    x = tf.cast((images - network.mean) / network.std, compute_dtype)
    channels = WIDTHS[width].stage2
    with tf.variable_scope("ShuffleNetV2"):
        network.frozen = freeze > 0
        x = network.first_convolution(x, CONV1_CHANNELS, "Conv1")  # [B, 56, 56, 24]
        for number, (stage, units) in enumerate(STAGES, 1):
            network.frozen = freeze > number
            with tf.variable_scope(stage):
                x = network.stage(x, units, channels)  # [B, 28, 28, stage2], [B, 14, 14, 2 stage2], [B, 7, 7, 4 stage2]
            channels *= 2
        network.frozen = freeze > len(STAGES) + 1
        x = network.pointwise(x, WIDTHS[width].last, "Conv5")  # [B, 7, 7, last]
    x = tf.cast(tf.reduce_mean(x, [1, 2]), tf.float32)  # [B, last]
    with tf.variable_scope("classifier"):
        weights = variable("weights", [int(x.shape[1]), classes], tf.glorot_uniform_initializer())
        biases = variable("biases", [classes], tf.zeros_initializer())
        return tf.matmul(x, weights) + biases


class _Network:
    """The published reference's layers, with what all share: training, frozen, how weights start, fused functions."""

    mean, std, epsilon = 0.5, 0.5, 1e-3

    def __init__(self, training, initializer, fuse):
        self.training, self.initializer, self.frozen = training, initializer, False
        self.momentum = moving_average_momentum(tf.train.get_or_create_global_step()) if training else None
        self._interleave, self._separate = fuse(_interleave_and_split), fuse(_concat_and_separate)

    def stage(self, x, units, channels):
        """Units of which the first halves the map. [B, H, H, C] -> [B, H / 2, H / 2, channels]."""
        with tf.variable_scope("unit_1"):
            x, y = self.downsampling_unit(x, channels // 2, int(x.shape[3]))
        for unit in range(2, units + 1):
            with tf.variable_scope("unit_%d" % unit):
                x, y = self.shuffle(x, y)
                x = self.unit(x)
        return tf.concat([x, y], 3)

    def unit(self, x):
        """Section 3.3, figure 3 (c), right branch. [B, H, H, C] -> the same shape."""
        channels = int(x.shape[3])
        x = self.pointwise(x, channels, "conv1x1_before")
        x = self.depthwise(x, 1)
        return self.pointwise(x, channels, "conv1x1_after")

    def downsampling_unit(self, x, channels, inside):
        """Figure 3 (d): both branches see all channels. [B, H, H, C] -> two maps of [B, H / 2, H / 2, channels]."""
        y = self.pointwise(x, inside, "conv1x1_before")
        y = self.depthwise(y, 2)
        y = self.pointwise(y, channels, "conv1x1_after")
        with tf.variable_scope("second_branch"):
            x = self.depthwise(x, 2)
            x = self.pointwise(x, channels, "conv1x1_after")
        return x, y

    def shuffle(self, x, y):
        """Interleaves two maps channel by channel and splits the result in half: two maps of the same shape."""
        @tf.custom_gradient
        def shuffled(x, y):
            return self._interleave(x, y), lambda by_x, by_y: self._separate(by_x, by_y)
        with tf.name_scope("concat_shuffle_split"):
            return shuffled(x, y)

    def first_convolution(self, x, channels, name):
        """3x3 convolution of stride 2, batch normalisation, 3x3 maximum of stride 2, ReLU: H becomes H / 4.

        The reference has ReLU before the maximum; both are monotonous, so the result is the same, and behind it there
        is a quarter of the work. Nor does it matter then that the maximum may see zeros around the map.
        """
        with tf.variable_scope(name):
            weights = self.weights("weights", [3, 3, int(x.shape[3]), channels])
            x, padding = self.padded(x, 2)
            x = tf.nn.conv2d(x, tf.cast(weights, x.dtype), strides=[1, 2, 2, 1], padding=padding)
            x = self.batch_norm(x)
        x, padding = self.padded(x, 2)
        x = tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], padding, name="MaxPool")
        return tf.nn.relu(x)

    def pointwise(self, x, channels, name):
        """1x1 convolution, batch normalisation, ReLU. As a matrix product: its gradients are faster on a CPU."""
        with tf.variable_scope(name):
            height_px, channels_in = int(x.shape[1]), int(x.shape[3])
            weights = self.weights("weights", [1, 1, channels_in, channels])
            x = tf.matmul(tf.reshape(x, [-1, channels_in]),
                          tf.cast(tf.reshape(weights, [channels_in, channels]), x.dtype))
            return tf.nn.relu(self.batch_norm(tf.reshape(x, [-1, height_px, height_px, channels])))

    def depthwise(self, x, stride):
        """3x3 convolution of each channel by itself, batch normalisation, no ReLU."""
        with tf.variable_scope("depthwise"):
            weights = self.weights("depthwise_weights", [3, 3, int(x.shape[3]), 1])
            x, padding = self.padded(x, stride)
            x = tf.nn.depthwise_conv2d(x, tf.cast(weights, x.dtype), [1, stride, stride, 1], padding)
            return self.batch_norm(x)

    def padded(self, x, _stride):
        """A map as a 3x3 window of this stride is to see it, and TensorFlow's padding for the rest."""
        return x, "SAME"

    def weights(self, name, shape):
        """A kernel, with its initial values."""
        return variable(name, shape, self.initializer(shape), trainable=not self.frozen)

    def batch_norm(self, x):
        """Batch normalisation (Ioffe and Szegedy 2015, algorithms 1 and 2) with scale, shift and moving statistics.

        In training by the batch, and the moving statistics' updates go to UPDATE_OPS; else, and where it is frozen, by
        the moving statistics, so that an image's scores do not depend on its neighbours.
        """
        with tf.variable_scope("batch_norm"):
            shape = [int(x.shape[3])]
            gamma = variable("gamma", shape, tf.ones_initializer(), trainable=not self.frozen)
            beta = variable("beta", shape, tf.zeros_initializer(), trainable=not self.frozen)
            moving_mean = variable("moving_mean", shape, tf.zeros_initializer(), trainable=False)
            moving_variance = variable("moving_variance", shape, tf.ones_initializer(), trainable=False)
        if self.frozen or not self.training:
            return tf.nn.fused_batch_norm(x, gamma, beta, moving_mean, moving_variance, epsilon=self.epsilon,
                                          is_training=False)[0]
        y, mean, variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=self.epsilon, is_training=True)
        for moving, batch in ((moving_mean, mean), (moving_variance, variance)):
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, moving.assign_sub((moving - batch) * (1.0 - self.momentum)))
        return y


class _TorchvisionNetwork(_Network):
    """torchvision.models.shufflenetv2, where it differs. Its branch1 is our second_branch, its branch2 the unit.

    It works on the second half of the channels and leaves the first, ends a stage by a shuffle, has as many channels
    inside the first unit of Stage2 as that branch gives out (the paper's), and pads by one on every side.
    """

    mean, std, epsilon = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1e-5

    def stage(self, x, units, channels):
        with tf.variable_scope("unit_1"):
            x, y = self.downsampling_unit(x, channels // 2, channels // 2)
        for unit in range(2, units + 1):
            with tf.variable_scope("unit_%d" % unit):
                x, y = self.shuffle(x, y)
                y = self.unit(y)
        return tf.concat(self.shuffle(x, y), 3)

    def padded(self, x, stride):
        if stride == 1:
            return x, "SAME"
        return tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), "VALID"


VARIANTS = {"published": _Network, "torchvision": _TorchvisionNetwork}


def variable(name, shape, initializer, trainable=True):
    """A float32 variable of the current scope."""
    return tf.get_variable(name, shape, tf.float32, initializer, trainable=trainable, use_resource=True)


def moving_average_momentum(step):
    """Momentum of the moving statistics: (1 + step) / (10 + step), at most the published 0.997 (from step 2,990 on).

    A run of some hundred steps, too, then evaluates by statistics that have left their initial values.

    Args:
      step: int64 [] tensor, training steps done.
    Returns:
      float32 [].
    """
    done = tf.cast(step, tf.float32)
    return tf.minimum((1.0 + done) / (10.0 + done), BATCH_NORM_MOMENTUM)


def _he_uniform(shape):
    """He et al. 2015, arXiv:1502.01852, eq. 10. A depthwise kernel's fan-in is its 9 taps, whatever the channels."""
    fan_in = shape[0] * shape[1] * (1 if shape[3] == 1 else shape[2])
    limit = math.sqrt(6.0 / fan_in)
    return tf.random_uniform_initializer(-limit, limit)


INITIALIZERS = {
    "he_uniform": _he_uniform,
    "xavier_uniform": lambda shape: tf.glorot_uniform_initializer(),  # the published reference's
}


def _interleave_and_split(x, y):
    """x, y [B, H, H, C] -> z = x0 y0 x1 y1 ..., as its two halves [B, H, H, C] each."""
    half = int(x.shape[3]) // 2
    height_px, width_px, channels = int(x.shape[1]), int(x.shape[2]), int(x.shape[3])

    def interleave(a, b):
        return tf.reshape(tf.stack([a, b], 4), [-1, height_px, width_px, channels])
    return interleave(x[..., :half], y[..., :half]), interleave(x[..., half:], y[..., half:])


def _concat_and_separate(first, second):
    """The inverse: the two halves of z -> its even channels and its odd channels."""
    height_px, width_px, channels = int(first.shape[1]), int(first.shape[2]), int(first.shape[3])
    pairs = [tf.reshape(half, [-1, height_px, width_px, channels // 2, 2]) for half in (first, second)]
    return tuple(tf.concat([pair[..., which] for pair in pairs], 3) for which in (0, 1))
