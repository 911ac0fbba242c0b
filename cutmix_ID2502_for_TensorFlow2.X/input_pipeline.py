# SPDX-License-Identifier: Apache-2.0
"""Training batches from tf.data: order and augmentation are functions of (seed, step)."""
import tensorflow as tf

import cutmix

ORDER, AUGMENTATION, MIRROR = 0, 1, 2  # what a key of (seed, purpose) is for


def key_of(seed, purpose, number):
    """int64 [2]: the key of an epoch's order, of a step's augmentation, or of which images are mirrored first."""
    return tf.random.experimental.stateless_fold_in(tf.constant([seed, purpose], tf.int64), number)


def epoch_order(images, epoch, seed):
    """The order in which an epoch visits `images` training images: int32 [images]."""
    return tf.argsort(tf.random.stateless_uniform([images], key_of(seed, ORDER, epoch)), stable=True)


def training_batches(images, labels, classes, parsed, first_step, rank=0, ranks=1, mixed_steps=None):
    """Endless batches from `first_step` on: the same after a resume as without.

    Every rank gets other images, an epoch's remainder is dropped.

    Args:
      images, labels: uint8 [N, H, W, 3], int [N], numpy.
      classes: int.
      parsed: namespace with batch_size (of one rank), seed, augment, alpha, cutmix_probability, crop_and_flip,
        flip, crop.
      first_step: int from 0.
      rank, ranks: this process and how many there are.
      mixed_steps: int, the steps from 0 on whose images CutMix mixes; None for all.
    Returns:
      tf.data.Dataset of (uint8 [B, H, W, 3], float32 [B, classes]), B = batch_size.
    """
    images_of_all, labels_of_all = tf.constant(images), tf.one_hot(labels, classes)
    per_step = parsed.batch_size * ranks
    steps_per_epoch = len(images) // per_step
    first_epoch, place = divmod(first_step, steps_per_epoch)
    mirrored_first = cutmix.uniform_integers([len(images)], 2, key_of(parsed.seed, MIRROR, 0))

    def steps_of(epoch):
        order = tf.data.Dataset.from_tensor_slices(epoch_order(len(images), epoch, parsed.seed))
        return order.batch(per_step, drop_remainder=True)

    def batch(step, chosen):
        mine = chosen[rank * parsed.batch_size:(rank + 1) * parsed.batch_size]
        in_turn = tf.gather(mirrored_first, mine) + tf.cast(step // steps_per_epoch, tf.int32)
        return augmented(tf.gather(images_of_all, mine), tf.gather(labels_of_all, mine), parsed, step, rank,
                         in_turn % 2 == 1 if parsed.flip == "alternating" else None, mixed_steps)

    epochs = tf.data.Dataset.range(first_epoch, 2 ** 40)
    return epochs.flat_map(steps_of).skip(place).enumerate(first_step).map(batch).prefetch(4)


def augmented(images, labels, parsed, step, rank=0, mirrored=None, mixed_steps=None):
    """A batch as a step sees it.

    Args:
      images, labels: uint8 [B, H, W, 3], float32 [B, classes].
      parsed: as for training_batches.
      step: int64.
      mirrored: as for cutmix.crop_and_flip.
      mixed_steps: as for training_batches.
    Returns:
      uint8 [B, H, W, 3], float32 [B, classes].
    """
    of_crop, of_cutmix = cutmix.split(tf.random.experimental.stateless_fold_in(
        key_of(parsed.seed, AUGMENTATION, step), rank), 2)
    if parsed.crop_and_flip:
        images = cutmix.crop_and_flip(images, of_crop, mirrored, parsed.crop)
    if parsed.augment == "cutmix":
        probability = parsed.cutmix_probability
        if mixed_steps is not None:
            probability = tf.where(step < mixed_steps, probability, 0.0)
        images, labels, _ = cutmix.cutmix(images, labels, parsed.alpha, probability, of_cutmix)
    return images, labels
