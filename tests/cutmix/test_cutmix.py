# SPDX-License-Identifier: Apache-2.0
"""CutMix: the label is the share of pixels, boxes follow the paper's distribution, all of it from a key."""
import os
import sys
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT

tf = pytest.importorskip('tensorflow', '2.6')
sys.path.insert(0, os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X'))
import cutmix  # noqa: E402

pytestmark = pytest.mark.smoke


def key(*numbers):
    return tf.constant(numbers, tf.int64)


@pytest.mark.parametrize('height_px, width_px, alpha', [(32, 32, 1.0), (12, 40, 1.0), (40, 12, 0.25)])
def test_the_label_is_the_share_of_pixels(height_px, width_px, alpha):
    count = 1000
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None], (count, height_px, width_px, 1)).astype(np.int32)
    labels = np.eye(count, dtype=np.float32)
    mixed, mixed_labels, boxes = (tensor.numpy() for tensor in cutmix.cutmix(
        tf.constant(images), tf.constant(labels), alpha, 1.0, key(7, height_px)))
    for number in range(count):
        shares = np.bincount(mixed[number].ravel(), minlength=count) / (height_px * width_px)
        np.testing.assert_allclose(mixed_labels[number], shares, atol=1e-6)
        top, left, bottom, right = boxes[number]
        inside = mixed[number, top:bottom, left:right]
        assert inside.size == 0 or (inside == inside.flat[0]).all()
        outside = mixed[number, ..., 0].copy()
        outside[top:bottom, left:right] = number
        assert (outside == number).all()
    top, left, bottom, right = boxes.T
    assert top.min() == left.min() == 0 and bottom.max() == height_px and right.max() == width_px
    cut_off = (top == 0) | (left == 0) | (bottom == height_px) | (right == width_px)
    assert 100 < cut_off.sum() < 1000


def test_sides_and_centres_follow_section_3_1():
    lam = np.full(20000, 0.75, np.float32)  # sides of one half
    top, left, bottom, right = cutmix.boxes(tf.constant(lam), 20, 60, key(1, 2)).numpy().T
    whole_y, whole_x = (top > 0) & (bottom < 20), (left > 0) & (right < 60)
    assert set((bottom - top)[whole_y]) == {10} and set((right - left)[whole_x]) == {30}
    # The centre is uniform over all rows, so one row in twenty: 0..5 and 15..19 make a box that touches a border.
    assert abs((top == 0).mean() - 6 / 20) < 0.02 and abs((bottom == 20).mean() - 5 / 20) < 0.02
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.03
    full = cutmix.boxes(tf.constant([0.0, 1.0]), 20, 60, key(1, 2)).numpy()
    assert (full[1, 2:] == full[1, :2]).all()  # lambda 1 pastes nothing


def longest_side(lam, size_px):
    """The largest n with n <= size_px sqrt(1 - lam), in whole numbers; 1 - lam as float32 has it."""
    area = Fraction(float(np.float32(1) - lam)) * size_px ** 2
    return max(n for n in range(size_px + 1) if n * n <= area)


@pytest.mark.parametrize('ulps', [-1, 0, 1])
def test_sides_are_those_of_exact_arithmetic_however_a_device_rounds_square_roots(monkeypatch, ulps):
    def rounded(x, sqrt=tf.sqrt):
        return tf.constant(np.nextafter(sqrt(x).numpy(), np.float32(1 + ulps))) if ulps else sqrt(x)
    monkeypatch.setattr(tf, 'sqrt', rounded)
    for size_px in (1, 20, 32, 60, 224):
        edges = np.float32(1) - np.array([(n / size_px) ** 2 for n in range(size_px + 1)], np.float32)
        lam = np.concatenate([edges, np.nextafter(edges, np.float32(-1)), np.nextafter(edges, np.float32(2)),
                              np.linspace(0, 1, 500, dtype=np.float32), np.float32(2) ** -np.arange(1, 40)])
        lam = lam.clip(0, 1).astype(np.float32)
        sides_px = cutmix.box_sides_px(tf.constant(lam), size_px)
        assert sides_px.dtype == tf.int32
        assert sides_px.numpy().tolist() == [longest_side(value, size_px) for value in lam]


@pytest.mark.parametrize('alpha', [0.02, 0.25, 1.0, 5.0])
def test_lambda_has_the_moments_of_a_beta_variable(alpha):
    lam = cutmix.sample_lambda(100000, alpha, key(3, 4)).numpy()
    assert np.isfinite(lam).all() and lam.min() >= 0 and lam.max() <= 1
    variance = 0.25 / (2 * alpha + 1)
    assert lam.mean() == pytest.approx(0.5, abs=0.01) and lam.var() == pytest.approx(variance, rel=0.03)


def test_probability_is_the_share_of_images_that_get_a_box():
    images, labels = np.zeros((4000, 8, 8, 3), np.uint8), np.eye(4000, dtype=np.float32)
    for probability in (0.0, 0.5, 1.0):
        _, mixed, boxes = cutmix.cutmix(tf.constant(images), tf.constant(labels), 1.0, probability, key(1, 1))
        boxed = (boxes.numpy()[:, 2:] > 0).all(1).mean()  # a box of lambda near 1 can have no pixels
        assert probability * 0.85 - 0.02 <= boxed <= probability + 0.02
        np.testing.assert_allclose(mixed.numpy().sum(1), 1, atol=1e-5)
        assert probability or np.array_equal(mixed.numpy(), labels)


def test_the_key_decides():
    images = np.random.RandomState(0).randint(0, 256, (64, 16, 16, 3)).astype(np.uint8)
    labels = np.eye(64, dtype=np.float32)
    first, same, other = (cutmix.cutmix(cutmix.crop_and_flip(tf.constant(images), k), tf.constant(labels), 1.0, 1.0, k)
                          for k in (key(1, 5), key(1, 5), key(1, 6)))
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[2], other[2])


def test_crop_and_flip_is_a_window_of_the_padded_image():
    height_px, width_px, pad_px = 10, 14, cutmix.PAD_PX
    image = np.arange(1, height_px * width_px + 1).reshape(1, height_px, width_px, 1).astype(np.uint8)
    padded = np.pad(image[0, ..., 0], pad_px, mode='constant')
    made = cutmix.crop_and_flip(tf.constant(np.repeat(image, 2000, 0)), key(0, 0)).numpy()[..., 0]
    windows = {}
    for top in range(2 * pad_px + 1):
        for left in range(2 * pad_px + 1):
            window = padded[top:top + height_px, left:left + width_px]
            windows[window.tobytes()] = windows[window[:, ::-1].tobytes()] = (top, left)
    assert {windows[crop.tobytes()] for crop in made} == set(windows.values())  # all 81, and nothing else
    mirrored = np.array([(np.diff(crop.astype(int), axis=1).sum() < 0) for crop in made[:, :, pad_px:-pad_px]])
    assert 0.45 < mirrored.mean() < 0.55


def test_a_crop_may_see_the_image_reflected():
    image = np.arange(1, 10 * 14 + 1).reshape(1, 10, 14, 1).astype(np.uint8)
    padded = np.pad(image[0, ..., 0], cutmix.PAD_PX, mode='reflect')
    windows = {padded[top:top + 10, left:left + 14].tobytes() for top in range(9) for left in range(9)}
    made = cutmix.crop_and_flip(tf.constant(np.repeat(image, 300, 0)), key(0, 0), tf.zeros([300], tf.bool), 'reflect')
    assert {crop.tobytes() for crop in made.numpy()[..., 0]} <= windows and made.numpy().min() > 0
