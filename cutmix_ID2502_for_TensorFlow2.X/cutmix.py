# SPDX-License-Identifier: Apache-2.0
"""CutMix (Yun et al. 2019, arXiv:1905.04899, section 3.1) and random crop and flip, for a whole batch at once.

Images are uint8 [B, H, W, C] and stay so: CutMix pastes whole pixels. Every function draws its random numbers from a
`key`, int64 [2], and from nothing else.
"""
from fractions import Fraction

import numpy as np
import tensorflow as tf

PAD_PX = 4  # random crops of the image padded by this much on each side (He et al. 2015, section 4.2)


def split(key, count):
    """`count` independent keys from one."""
    return tf.unstack(tf.random.experimental.stateless_split(key, count))


def uniform_integers(shape, below, key):
    """int32 in [0, below), `below` an int."""
    return tf.random.stateless_uniform(shape, key, 0, below, tf.int32)


def cutmix(images, labels, alpha, probability, key):
    """Pastes into each image a box of another image of the batch and mixes their labels by the pixels pasted.

    Args:
      images: uint8 [B, H, W, C], H and W static.
      labels: float32 [B, classes], each row a distribution, e.g. one-hot.
      alpha: float > 0; lambda ~ Beta(alpha, alpha), 1 in the paper.
      probability: float or float32 [], the share of images that get a box; 0.5 for CIFAR in the paper's code.
      key: int64 [2].
    Returns:
      images uint8 [B, H, W, C], labels float32 [B, classes], boxes_yxyx_px int32 [B, 4].
    """
    count, height_px, width_px = tf.shape(images)[0], images.shape[1], images.shape[2]
    of_lambda, of_centre, of_partner, of_choice = split(key, 4)
    boxes_yxyx_px = boxes(sample_lambda(count, alpha, of_lambda), height_px, width_px, of_centre)
    chosen = tf.random.stateless_uniform([count, 1], of_choice) < probability
    boxes_yxyx_px *= tf.cast(chosen, tf.int32)  # 0 0 0 0 is a box without pixels
    partner = tf.argsort(tf.random.stateless_uniform([count], of_partner))
    return (paste(images, tf.gather(images, partner), boxes_yxyx_px),
            mix_labels(labels, tf.gather(labels, partner), boxes_yxyx_px, height_px, width_px), boxes_yxyx_px)


def sample_lambda(count, alpha, key):
    """float32 [count] from Beta(alpha, alpha).

    A Beta variable is g / (g + h) of two Gamma(alpha) variables, and Gamma(alpha) is Gamma(alpha + 1) U^(1 / alpha). In
    logarithms, because for alpha below 0.1 g and h are often both 0 in float32.
    """
    of_gamma, of_uniform = split(key, 2)
    gamma = tf.random.stateless_gamma([2, count], of_gamma, alpha + 1.0)
    uniform = 1.0 - tf.random.stateless_uniform([2, count], of_uniform)  # (0, 1]
    log_gamma = tf.math.log(gamma) + tf.math.log(uniform) / alpha
    return tf.sigmoid(log_gamma[0] - log_gamma[1])


def boxes(lam, height_px, width_px, key):
    """One box per lambda: centre uniform over the image, sides sqrt(1 - lambda) of it, cut off at the borders.

    Source: section 3.1, r_x ~ U(0, W), r_w = W sqrt(1 - lambda), and the same for y.

    Args:
      lam: float32 [B] in [0, 1].
      height_px, width_px: ints.
    Returns:
      int32 [B, 4]: top, left, bottom, right; bottom and right are the first row and column outside.
    """
    of_y, of_x = split(key, 2)

    def side(size_px, of_centre):
        length_px = box_sides_px(lam, size_px)
        first = uniform_integers(tf.shape(lam), size_px, of_centre) - length_px // 2
        return tf.maximum(first, 0), tf.minimum(first + length_px, size_px)

    top, bottom = side(height_px, of_y)
    left, right = side(width_px, of_x)
    return tf.stack([top, left, bottom, right], 1)


def box_sides_px(lam, size_px):
    """size_px sqrt(1 - lambda) in whole pixels, rounded down: int32 [B] of float32 [B].

    Compares areas, because a device's float32 square root of 0.25 may be just below 0.5.
    """
    # The smallest float32 share of the area with which a box is 1, 2, ... size_px pixels long.
    exact = [Fraction(length, size_px) ** 2 for length in range(1, size_px + 1)]
    nearest = np.array(exact, np.float32)
    shares = np.where([float(share) < area for share, area in zip(nearest, exact)], np.nextafter(nearest, 2), nearest)
    return tf.reduce_sum(tf.cast((1.0 - lam)[:, None] >= shares, tf.int32), 1)


def paste(images, partners, boxes_yxyx_px):
    """images with the pixels inside the boxes taken from `partners` (equation 1).

    Args:
      images, partners: [B, H, W, C], H and W static.
      boxes_yxyx_px: int32 [B, 4].
    """
    top, left, bottom, right = tf.unstack(boxes_yxyx_px[:, None, None, :], axis=3)  # [B, 1, 1] each
    y = tf.range(images.shape[1])[:, None]  # [H, 1]
    x = tf.range(images.shape[2])[None, :]  # [1, W]
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)  # [B, H, W]
    return tf.where(inside[..., None], partners, images)


def mix_labels(labels, partner_labels, boxes_yxyx_px, height_px, width_px):
    """Labels mixed by the share of pixels that were really pasted: lambda after the cut at the borders (equation 1).

    Args:
      labels, partner_labels: float32 [B, classes].
      boxes_yxyx_px: int32 [B, 4], within the image.
    """
    sides_px = boxes_yxyx_px[:, 2:] - boxes_yxyx_px[:, :2]
    pasted = tf.cast(tf.reduce_prod(sides_px, 1, keepdims=True), tf.float32) / float(height_px * width_px)  # [B, 1]
    return labels * (1.0 - pasted) + partner_labels * pasted


def crop_and_flip(images, key, mirrored=None, crop="zeros"):
    """Pads by PAD_PX, crops back at a random place, mirrors.

    Args:
      images: uint8 [B, H, W, C], H and W static.
      mirrored: bool [B]; None for every second image on average.
      crop: what it is padded with, "zeros" or "reflect".
    Returns:
      uint8 [B, H, W, C].
    """
    of_offset, of_mirror = split(key, 2)
    count, height_px, width_px = tf.shape(images)[0], images.shape[1], images.shape[2]
    padded = tf.pad(images, [[0, 0], [PAD_PX, PAD_PX], [PAD_PX, PAD_PX], [0, 0]],
                    {"zeros": "CONSTANT"}.get(crop, crop))
    top, left = tf.unstack(uniform_integers([2, count, 1], 2 * PAD_PX + 1, of_offset))
    rows = top + tf.range(height_px)  # [B, H]
    columns = left + tf.range(width_px)  # [B, W]
    if mirrored is None:
        mirrored = uniform_integers([count], 2, of_mirror) == 1
    columns = tf.where(mirrored[:, None], columns[:, ::-1], columns)
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
