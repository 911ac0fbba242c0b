# SPDX-License-Identifier: Apache-2.0
"""Augmentation: boxes stay on their objects, views and colours follow the paper."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow'))
pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

import process_dataset  # noqa: E402
import ssdutils  # noqa: E402
import transforms  # noqa: E402
from training_data import TrainingData, TrainingSamples  # noqa: E402

pytestmark = pytest.mark.smoke
PRESET = ssdutils.PRESETS['vgg300']


def scene():
    """An image of noise with one plain box, and that box."""
    image = np.random.RandomState(0).randint(0, 100, (375, 500, 3)).astype(np.uint8)
    box = np.array([[170, 120, 330, 260]], np.float32)
    image[120:260, 170:330] = (40, 220, 250)
    return image, box


def test_boxes_stay_on_their_objects(monkeypatch):
    monkeypatch.setattr(transforms, 'distort', lambda image, random: image)
    image, box = scene()
    for seed in range(300):
        result, boxes, kept = transforms.augment(image, box, 300, np.random.RandomState(seed))
        assert result.shape == (300, 300, 3) and result.dtype == np.uint8 and boxes.dtype == np.float32
        assert kept.tolist() == [0] and (boxes >= 0).all() and (boxes <= 1).all()
        object_rows, object_columns = np.nonzero(result[..., 1] > 170)
        seen = np.array([object_columns.min(), object_rows.min(), object_columns.max() + 1, object_rows.max() + 1])
        # A pixel of the original may be several of the result: allow what one and a half of them are.
        source_px = (boxes[0, 2:] - boxes[0, :2]) * 300 / [160, 140]
        assert np.abs(seen - boxes[0] * 300).max() <= 1 + 1.5 * max(1, source_px.max()), seed


def test_mirrors_swap_left_and_right(monkeypatch):
    monkeypatch.setattr(transforms, 'distort', lambda image, random: image)
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([0, 0, 500, 375]))
    image, box = scene()
    box[:, [0, 2]] = [20, 180]
    found = []
    for seed in range(40):
        _, boxes, _ = transforms.augment(image, box, 300, np.random.RandomState(seed))
        found.append(boxes[0].tolist())
    sides = {tuple(np.round(box, 3)) for box in found}
    assert sides == {(0.04, 0.32, 0.36, 0.693), (0.64, 0.32, 0.96, 0.693)}


def test_views_follow_the_paper():
    boxes = np.array([[170, 120, 330, 260], [0, 0, 60, 60]], np.float32)
    random = np.random.RandomState(0)
    views = np.array([transforms.sample_view(500, 375, boxes, random) for _ in range(2000)])
    sides = views[:, 2:] - views[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > views[:, None, :2]) & (centres < views[:, None, 2:])).all(-1)
    assert inside.any(1).all()
    whole = (views == [0, 0, 500, 375]).all(1)
    assert 0.06 < whole.mean() < 0.12  # 1/2 unexpanded x 1/7 of the rules, and what other rules do not find
    beyond = (views[:, :2] < 0).any(1) | (views[:, 2] > 500) | (views[:, 3] > 375)
    assert 0.25 < beyond.mean() < 0.5
    # Sides of at least 0.3 sqrt(1/2) of the image, ratios of at most 2 to the plane's; never above the fourfold plane.
    assert sides[:, 0].min() >= 0.3 * 0.707 * 500 - 1 and sides[:, 1].min() >= 0.3 * 0.707 * 375 - 1
    assert sides[:, 0].max() <= 2001 and sides[:, 1].max() <= 1501 and (sides[:, 0] > 1500).any()
    ratio = sides[:, 0] / sides[:, 1] / (500 / 375)
    assert ratio.min() > 0.48 and ratio.max() < 2.08 and ratio.min() < 0.6 and ratio.max() > 1.7
    best = ssdutils.iou(views.astype(float), boxes).max(1)
    assert (best >= 0.5).mean() > 0.08 and (best < 0.1).mean() > 0.2


def test_images_without_objects_are_cropped_too():
    views = np.array([transforms.sample_view(500, 375, np.zeros((0, 4), np.float32), np.random.RandomState(seed))
                      for seed in range(200)])
    patches = (views[:, 2] - views[:, 0] < 490) & (views[:, 3] - views[:, 1] < 365)
    assert 0.05 < patches.mean() < 0.6


def test_the_rule_of_a_patch_is_kept(monkeypatch):
    boxes = np.array([[170, 120, 330, 260]], np.float32)
    for least in (0.1, 0.3, 0.5, 0.7):
        monkeypatch.setattr(transforms, 'CROPS', (least, least, least))
        views = [transforms.sample_view(500, 375, boxes, np.random.RandomState(seed)) for seed in range(150)]
        views = np.array([view for view in views if view is not None])
        assert len(views) > 5 and (ssdutils.iou(views.astype(float), boxes) >= least).all()


def test_around_an_expanded_image_is_the_mean():
    image, box = scene()
    filled = 0
    for seed in range(60):
        result, _, _ = transforms.augment(image, box, 300, np.random.RandomState(seed))
        filled += (result == transforms.FILL_BGR).all(-1).mean() > 0.3
    assert 10 < filled < 45


@pytest.mark.parametrize('view, part', [
    ([-999, 0, 1, 1000], [0, 0, 1, 1000]), ([999, 0, 1999, 1000], [999, 0, 1000, 1000]), ([0, -999, 1000, 1], None)])
def test_a_sliver_of_an_image_leaves_boxes_an_area(monkeypatch, view, part):
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array(view))
    box = np.array([part or [0, 0, 1000, 1]], np.float32)
    result, boxes, kept = transforms.augment(np.zeros((1000, 1000, 3), np.uint8), box, 300, np.random.RandomState(0))
    assert len(kept) == 1 and (boxes[:, 2:] > boxes[:, :2]).all() and result.shape == (300, 300, 3)
    _, offsets = ssdutils.targets(ssdutils.xyxy_to_cxcywh(boxes), [0], ssdutils.default_boxes(PRESET), 20)
    assert np.isfinite(offsets).all()


def test_objects_whose_centre_is_out_of_view_are_dropped(monkeypatch):
    image, _ = scene()
    objects = np.array([[0, 0, 100, 100], [90, 90, 110, 110], [0, 40, 220, 60], [300, 200, 500, 375]], np.float32)
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([50, 50, 250, 150]))
    _, boxes, kept = transforms.augment(image, objects, 300, np.random.RandomState(3))
    # Centres: 50, 50 is on the border; 100, 100 and 110, 50 likewise; 400, 287 is outside.
    assert kept.tolist() == [1]
    assert np.sort(boxes[0, [1, 3]]).tolist() == pytest.approx([0.4, 0.6])
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([20, 30, 260, 150]))
    _, boxes, kept = transforms.augment(image, objects, 300, np.random.RandomState(3))
    assert kept.tolist() == [0, 1, 2] and boxes[0, 1] == 0  # cut off at the border


class Script:
    """Stands for a RandomState whose draws are written down."""

    def __init__(self, on=(), uniform=(), hue=0, order=(0, 1, 2)):
        names = ('brightness', 'contrast', 'saturation', 'hue', 'swap', 'contrast_last')
        self.on, self.uniforms = [0.0 if one in on else 0.9 for one in names], list(uniform)
        self.hue, self.order = hue, order

    def rand(self, count):
        return np.array(self.on[:count])

    def uniform(self, low, high):
        return self.uniforms.pop(0)

    def randint(self, low, high):
        return self.hue

    def permutation(self, count):
        return np.array(self.order)


@pytest.mark.parametrize('script, before, after', [
    (Script(), (10, 100, 250), (10, 100, 250)),
    (Script(['brightness'], [20.0]), (10, 100, 250), (30, 120, 255)),
    (Script(['brightness'], [-20.0]), (10, 100, 250), (0, 80, 230)),
    (Script(['contrast'], [1.5]), (10, 100, 250), (15, 150, 255)),
    (Script(['brightness', 'contrast'], [20.0, 0.5]), (10, 100, 250), (15, 60, 128)),  # brightness comes first
    (Script(['hue'], hue=60), (0, 0, 200), (0, 200, 0)),  # 120 degrees: red becomes green
    (Script(['hue'], hue=-60), (0, 0, 200), (200, 0, 0)),
    (Script(['saturation'], [0.5]), (0, 0, 200), (100, 100, 200)),
    (Script(['saturation'], [1.5]), (90, 90, 90), (90, 90, 90)),  # grey has no colour to strengthen
    (Script(['contrast', 'saturation'], [1.5, 0.5]), (0, 0, 200), (127, 127, 255)),  # 300 is cut off, then paled
    (Script(['contrast', 'saturation', 'contrast_last'], [1.5, 0.5]), (0, 0, 200), (150, 150, 255)),
    (Script(['swap'], order=(2, 0, 1)), (10, 100, 250), (250, 10, 100))])
def test_distortions_by_hand(script, before, after):
    image = np.tile(np.array(before, np.uint8), (4, 5, 1))
    result = transforms.distort(image, script)
    assert result.shape == image.shape and result.dtype == np.uint8
    assert np.abs(result.astype(int) - after).max() <= 2


def test_distortions_are_random_and_leave_their_input_alone():
    image, _ = scene()
    before = image.copy()
    means = [transforms.distort(image, np.random.RandomState(seed)).mean() for seed in range(60)]
    assert np.std(means) > 5 and (image == before).all()


def test_augmented_pictures_of_the_real_sample(real_voc, tmp_path):
    data = TrainingData(process_dataset.process(real_voc, str(tmp_path / 'out'), train_sets=['VOC2007:val'],
                                                valid_sets=[], workers=1))
    samples = TrainingSamples(data, PRESET, seed=5, batch_size=8)
    defaults = ssdutils.default_boxes(PRESET)
    for position in range(40):
        image, class_ids, offsets = samples(0, position)
        found = class_ids < 20
        assert image.dtype == np.uint8 and found.any() and np.isfinite(offsets).all()
        boxes = ssdutils.cxcywh_to_xyxy(ssdutils.decode(offsets[found], defaults[found]))
        assert boxes.min() > -1e-4 and boxes.max() < 1 + 1e-4
        assert set(class_ids[found]) <= set(data.objects_px(samples.place(0, position)[1], 'train')[1])
