# SPDX-License-Identifier: Apache-2.0
"""ResNet-20 v1 for CIFAR-10 (He et al. 2015, arXiv:1512.03385, section 4.2, n = 3, shortcuts of option A)."""
from tensorflow import keras

import layers

NAME = "resnet20"
IMAGE_PX = 32
CLASSES = 10  # of CIFAR-10
HEAD = ("scores/kernel", "scores/bias")

STAGES = (16, 32, 64)  # channels; maps of 32x32, 16x16, 8x8
BLOCKS = 3  # residual blocks a stage

# CIFAR-10's training images, per channel, of 255 (computed over its 50,000 images).
MEAN_RGB = (125.307, 122.950, 113.865)
STD_RGB = (62.993, 62.089, 66.705)


def resnet20(seed=0, normalise=layers.standard_normalise, dtype="float32", classes=CLASSES, frozen=0):
    """The network.

    Args:
      seed: int; initial weights are a function of it.
      normalise: (map, name, shortcut or None, frozen) -> ReLU(batch normalisation(map) + shortcut); see layers.
      dtype: Keras dtype or policy of convolutions and maps; variables and scores are float32.
      classes: int.
      frozen: how many of stem, stage 1, stage 2, stage 3 do not learn: their variables are not trainable.
    Returns:
      keras.Model, uint8 [B, 32, 32, 3] RGB -> scores float32 [B, classes], before the softmax. Layers and variables
      have the same names in all forms.
    """
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def convolution(x, name, channels, stride=1):
        return keras.layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, dtype=dtype, name=name,
                                   kernel_initializer=keras.initializers.HeNormal(next(seeds)))(x)

    images = keras.Input([IMAGE_PX, IMAGE_PX, 3], dtype="uint8", name="images")
    x = keras.layers.Rescaling([1 / std for std in STD_RGB], [-mean / std for mean, std in zip(MEAN_RGB, STD_RGB)],
                               name="standardise")(images)
    x = normalise(convolution(x, "stem", STAGES[0]), "stem_norm", None, frozen > 0)  # [B, 32, 32, 16]
    for stage, channels in enumerate(STAGES, 1):
        for block in range(1, BLOCKS + 1):
            name = "stage%d_block%d_" % (stage, block)
            shrinks = stage > 1 and block == 1
            y = convolution(x, name + "conv1", channels, 2 if shrinks else 1)
            y = normalise(y, name + "norm1", None, stage < frozen)
            y = convolution(y, name + "conv2", channels)
            x = normalise(y, name + "norm2", half_size(x, name, dtype) if shrinks else x, stage < frozen)
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(x)  # [B, 64]
    scores = keras.layers.Dense(classes, name="scores", kernel_initializer=keras.initializers.HeNormal(next(seeds)))(x)
    network = keras.Model(images, scores, name=NAME)
    parts = ("stem",) + tuple("stage%d_" % stage for stage in range(1, len(STAGES) + 1))
    for layer in network.layers:
        layer.trainable = not layer.name.startswith(parts[:frozen])
    return network


def half_size(x, name, dtype):
    """Shortcut of option A (He et al. 2015, section 4.1): every second pixel, and as many zero channels as it has."""
    x = keras.layers.AveragePooling2D(1, 2, dtype=dtype, name=name + "subsample")(x)
    zeros = keras.layers.Rescaling(0.0, dtype=dtype, name=name + "zeros")(x)
    return keras.layers.Concatenate(dtype=dtype, name=name + "shortcut")([x, zeros])
