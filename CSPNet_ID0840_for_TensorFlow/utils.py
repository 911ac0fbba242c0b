# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 batches and metrics, in numpy."""
import concurrent.futures
import contextlib

import numpy as np

from common import progress

GREY_RGB = (125, 123, 114)  # the mean of CIFAR-10's training images
PAD_PX = 4  # random crops of the image padded by this much on each side (He et al. 2015, section 4.2)


def epoch_order(images, epoch, seed):
    """The order in which an epoch visits the training images: int64 [images], a function of (seed, epoch)."""
    return np.random.RandomState([seed, 0, epoch]).permutation(images)


def training_batch(images, labels, step, batch_size, seed, augment, rank=0, ranks=1, flip="random",
                   crop="zeros", cutout_px=0):
    """One rank's batch of a step, a function of (seed, step): the same after a resume as without.

    Every rank gets other images, all ranks take the same number of steps, an epoch's remainder is dropped.

    Args:
      images, labels: uint8 [N, 32, 32, 3], int32 [N].
      step: int from 0.
      batch_size: images of this rank.
      augment: crop and flip at random.
      flip, crop: as the flags of these names (common/recipe.py); cutout_px: as for cut_out.
    Returns:
      uint8 [batch_size, 32, 32, 3], int32 [batch_size].
    """
    steps_per_epoch = len(images) // (batch_size * ranks)
    epoch, place = divmod(step, steps_per_epoch)
    first = (place * ranks + rank) * batch_size
    chosen = epoch_order(len(images), epoch, seed)[first:first + batch_size]
    batch = images[chosen]
    if augment:
        mirrored = None if flip == "random" else mirrored_in_turns(len(images), epoch, seed)[chosen]
        random = np.random.RandomState([seed, 1, step, rank])
        batch = cut_out(crop_and_flip(batch, random, mirrored, crop), cutout_px, random)
    return batch, labels[chosen]


def mirrored_in_turns(images, epoch, seed):
    """Which training images an epoch mirrors, of `images`, if each is mirrored in every second one: bool [images]."""
    return (np.random.RandomState([seed, 2]).randint(0, 2, images) + epoch) % 2 == 1


def crop_and_flip(images, random, mirrored=None, crop="zeros"):
    """Pads by PAD_PX, crops back at a random place, mirrors.

    Args:
      images: uint8 [B, H, W, C].
      random: numpy RandomState.
      mirrored: bool [B]; None for every second image on average.
      crop: what it is padded with, "zeros" or "reflect".
    Returns:
      uint8 [B, H, W, C].
    """
    count, height_px, width_px, _ = images.shape
    padded = np.pad(images, [(0, 0), (PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0)],
                    mode={"zeros": "constant"}.get(crop, crop))
    top, left = random.randint(0, 2 * PAD_PX + 1, (2, count, 1))
    rows = top + np.arange(height_px)  # [B, H]
    columns = left + np.arange(width_px)  # [B, W]
    if mirrored is None:
        mirrored = random.randint(0, 2, count).astype(bool)
    columns[mirrored] = columns[mirrored, ::-1]
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_out(images, side_px, random):
    """Makes a square of each image grey, its centre anywhere, so that part of it may lie outside.

    Args:
      images: uint8 [B, H, W, 3], changed in place; side_px: 0 for none.
    Returns:
      images.
    """
    if side_px:
        inside = []
        for axis in (1, 2):
            first = random.randint(0, images.shape[axis], (len(images), 1)) - side_px // 2
            place = np.arange(images.shape[axis])
            inside.append((place >= first) & (place < first + side_px))  # [B, H], [B, W]
        images[inside[0][:, :, None] & inside[1][:, None, :]] = GREY_RGB
    return images


@contextlib.contextmanager
def prefetch(make, first, last):
    """Gives an iterator over make(first) ... make(last - 1), each made in a thread while the one before is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        def batches():
            following = executor.submit(make, first) if first < last else None
            for index in range(first, last):
                current = following
                following = executor.submit(make, index + 1) if index + 1 < last else None
                yield current.result()
        yield batches()


def predict(session, scores, placeholder, images):
    """Scores of all images at one static batch size: the last batch is padded, the padding's scores are dropped.

    Args:
      session: tf.Session.
      scores: float32 [B, classes] tensor computed from `placeholder`.
      placeholder: uint8 [B, H, W, 3] placeholder, B static.
      images: uint8 [N, H, W, 3].
    Returns:
      float32 [N, classes].
    """
    batch_size = int(placeholder.shape[0])
    parts = []
    for first in progress.over(range(0, len(images), batch_size), "evaluating"):
        batch = images[first:first + batch_size]
        padding = batch_size - len(batch)
        padded = np.concatenate([batch, np.zeros((padding,) + batch.shape[1:], batch.dtype)]) if padding else batch
        parts.append(session.run(scores, {placeholder: padded})[:len(batch)])
    return np.concatenate(parts)


def metrics(scores, labels):
    """Cross-entropy and accuracy as means over examples.

    An example's guesses are its classes by score, of equal ones the lower index first; with a NaN there is no guess.

    Args:
      scores: float32 [N, classes], before the softmax.
      labels: int [N].
    Returns:
      dict of float: loss, top1, top5.
    """
    rows, classes = np.arange(len(labels)), np.arange(scores.shape[1])
    of_label = scores[rows, labels][:, None]
    earlier = ((scores > of_label) | (scores == of_label) & (classes < labels[:, None])).sum(1)  # guesses before it
    place = np.where(np.isnan(scores).any(1), np.inf, earlier)
    wide = scores.astype(np.float64)
    shifted = wide - wide.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[rows, labels]
    return {"loss": float(loss.mean()), "top1": float((place < 1).mean()), "top5": float((place < 5).mean())}
