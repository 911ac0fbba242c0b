# SPDX-License-Identifier: Apache-2.0
"""CSPDarknet-53 for 32x32 images (Wang et al. 2020, CSPNet, section 3; layer table csdarknet53 of its code)."""
import collections

import tensorflow.compat.v1 as tf

from models import layers

NAME = "cspdarknet53"
IMAGE_PX = 32
CLASSES = 10  # of CIFAR-10
HEAD = tuple("%s/classifier/%s" % (NAME, name) for name in ("weights", "biases"))

# channels: out of the stage; half: of each half after the cross-stage split; blocks: residual blocks in the second
# half; narrow: channels between a block's 1x1 and 3x3 convolution.
Stage = collections.namedtuple("Stage", "channels half blocks narrow")
STEM_CHANNELS = 32
STAGES = (
    Stage(channels=64, half=64, blocks=1, narrow=32),       # 16x16
    Stage(channels=128, half=64, blocks=2, narrow=64),      # 8x8
    Stage(channels=256, half=128, blocks=8, narrow=128),    # 4x4
    Stage(channels=512, half=256, blocks=8, narrow=256),    # 2x2
    Stage(channels=1024, half=512, blocks=4, narrow=512),   # 1x1
)

# CIFAR-10's training images, per channel, of 255 (computed over its 50,000 images).
MEAN_RGB = (125.307, 122.950, 113.865)
STD_RGB = (62.993, 62.089, 66.705)


def logits(images, training, classes=CLASSES, frozen=0, compute_dtype=tf.float32, fuse=lambda function: function,
           norm_momentum=layers.BATCH_NORM_MOMENTUM):
    """Class scores of images.

    Args:
      images: [B, 32, 32, 3] uint8, RGB.
      training: Python bool; see layers.batch_norm.
      classes: int.
      frozen: how many of stem, stage 1, stage 2 ... normalise by their moving statistics in training, too.
      compute_dtype: tf.float32 or tf.bfloat16, for products and maps; variables stay float32.
      fuse: see layers.make_mish.
      norm_momentum: of the moving statistics, see layers.moving_average_momentum.
    Returns:
      [B, classes] float32.
    """
    mish = layers.make_mish(fuse)
    momentum = layers.moving_average_momentum(tf.train.get_or_create_global_step(), norm_momentum)

    def unit(x, name, channels, kernel_px, part, stride=1, gamma_initial=1.0):
        """Convolution, batch normalisation, mish."""
        with tf.variable_scope(name):
            y = layers.convolution(x, channels, kernel_px, stride)
            return mish(layers.batch_norm(y, training and part >= frozen, momentum, gamma_initial))

    with tf.variable_scope(NAME, reuse=tf.AUTO_REUSE):
        x = (tf.cast(images, tf.float32) - MEAN_RGB) / STD_RGB
        x = unit(tf.cast(x, compute_dtype), "stem", STEM_CHANNELS, 3, 0)  # [B, 32, 32, 32]
        for number, stage in enumerate(STAGES, 1):
            with tf.variable_scope("stage%d" % number):
                x = unit(x, "down", stage.channels, 3, number, stride=2)
                carried = unit(x, "carried", stage.half, 1, number)
                y = unit(x, "transformed", stage.half, 1, number)
                for block in range(1, stage.blocks + 1):
                    with tf.variable_scope("block%d" % block):
                        narrow = unit(y, "narrow", stage.narrow, 1, number)
                        y += unit(narrow, "widen", stage.half, 3, number, gamma_initial=0.0)
                y = unit(y, "transition", stage.half, 1, number)
                x = unit(tf.concat([carried, y], 3), "merge", stage.channels, 1, number)
        x = tf.cast(tf.reduce_mean(x, [1, 2]), tf.float32)  # [B, 1024]
        with tf.variable_scope("classifier"):
            weights = tf.get_variable("weights", [int(x.shape[1]), classes], tf.float32,
                                      tf.glorot_uniform_initializer(), use_resource=True)
            biases = tf.get_variable("biases", [classes], tf.float32, tf.zeros_initializer(), use_resource=True)
            return tf.matmul(x, weights) + biases  # [B, classes]


def learning_variables(frozen):
    """The variables that a step changes, of a network whose first `frozen` parts do not learn."""
    parts = ["stem"] + ["stage%d" % number for number in range(1, len(STAGES) + 1)]
    return [variable for variable in tf.trainable_variables()
            if not variable.op.name.startswith(tuple("%s/%s/" % (NAME, part) for part in parts[:frozen]))]
