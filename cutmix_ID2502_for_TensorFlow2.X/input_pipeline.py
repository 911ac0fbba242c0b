# SPDX-License-Identifier: Apache-2.0
"""Training batches from tf.data: order and augmentation are functions of (seed, step)."""
import tensorflow as tf

import cutmix

ORDER, AUGMENTATION = 0, 1  # what a key of (seed, purpose) is for


def key_of(seed, purpose, number):
    """int64 [2]: the key of an epoch's order or of a step's augmentation."""
    return tf.random.experimental.stateless_fold_in(tf.constant([seed, purpose], tf.int64), number)


def epoch_order(images, epoch, seed):
    """The order in which an epoch visits `images` training images: int32 [images]."""
    return tf.argsort(tf.random.stateless_uniform([images], key_of(seed, ORDER, epoch)), stable=True)


def training_batches(images, labels, classes, parsed, first_step, rank=0, ranks=1):
    """Endless batches from `first_step` on: the same after a resume as without.

    Every rank gets other images, an epoch's remainder is dropped.

    Args:
      images, labels: uint8 [N, H, W, 3], int [N], numpy.
      classes: int.
      parsed: namespace with batch_size (of one rank), seed, augment, alpha, cutmix_probability, crop_and_flip.
      first_step: int from 0.
      rank, ranks: this process and how many there are.
    Returns:
      tf.data.Dataset of (uint8 [B, H, W, 3], float32 [B, classes]), B = batch_size.
    """
    images_of_all, labels_of_all = tf.constant(images), tf.one_hot(labels, classes)
    per_step = parsed.batch_size * ranks
    first_epoch, place = divmod(first_step, len(images) // per_step)

    def steps_of(epoch):
        order = tf.data.Dataset.from_tensor_slices(epoch_order(len(images), epoch, parsed.seed))
        return order.batch(per_step, drop_remainder=True)

    def batch(step, chosen):
        mine = chosen[rank * parsed.batch_size:(rank + 1) * parsed.batch_size]
        return augmented(tf.gather(images_of_all, mine), tf.gather(labels_of_all, mine), parsed, step, rank)

    epochs = tf.data.Dataset.range(first_epoch, 2 ** 40)
    return epochs.flat_map(steps_of).skip(place).enumerate(first_step).map(batch).prefetch(4)


def augmented(images, labels, parsed, step, rank=0):
    """A batch as a step sees it.

    Args:
      images, labels: uint8 [B, H, W, 3], float32 [B, classes].
      parsed: as for training_batches.
      step: int64.
    Returns:
      uint8 [B, H, W, 3], float32 [B, classes].
    """
    of_crop, of_cutmix = cutmix.split(tf.random.experimental.stateless_fold_in(
        key_of(parsed.seed, AUGMENTATION, step), rank), 2)
    if parsed.crop_and_flip:
        images = cutmix.crop_and_flip(images, of_crop)
    if parsed.augment == "cutmix":
        images, labels, _ = cutmix.cutmix(images, labels, parsed.alpha, parsed.cutmix_probability, of_cutmix)
    return images, labels
