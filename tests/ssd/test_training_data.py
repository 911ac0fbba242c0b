# SPDX-License-Identifier: Apache-2.0
"""Samples are functions of seed, step and position; an evaluation sees every image once."""
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'SSD-VGG_ID1619_for_TensorFlow'))
pytest.importorskip('cv2')
pytest.importorskip('defusedxml')

from voc_trees import Tree  # noqa: E402

import process_dataset  # noqa: E402
import ssdutils  # noqa: E402
import transforms  # noqa: E402
from training_data import EvaluationImages, TrainingData, TrainingSamples  # noqa: E402

pytestmark = pytest.mark.smoke
PRESET = ssdutils.PRESETS['vgg300']


def test_an_epoch_is_a_permutation_dealt_to_the_ranks(processed_voc):
    data = TrainingData(processed_voc)
    ranks = [TrainingSamples(data, PRESET, seed=3, batch_size=2, rank=rank, ranks=2) for rank in range(2)]
    places = [samples.place(step, position) for step in range(10) for samples in ranks for position in range(2)]
    assert sorted(number for number, _ in places) == list(range(40))
    epochs = np.array([index for _, index in sorted(places)]).reshape(4, 10)
    assert (np.sort(epochs, 1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert ranks[0].steps_per_epoch() == 3
    other = TrainingSamples(data, PRESET, seed=4, batch_size=2)
    assert [other.place(0, one)[1] for one in range(2)] + [other.place(1, one)[1] for one in range(2)] != (
        epochs[0, :4].tolist())


def test_a_sample_depends_on_seed_step_and_position_alone(processed_voc):
    data = TrainingData(processed_voc)
    samples = TrainingSamples(data, PRESET, seed=3, batch_size=4)
    first = [samples(step, position) for step in range(2) for position in range(4)]
    again = TrainingSamples(TrainingData(processed_voc), PRESET, seed=3, batch_size=4)
    for number in (5, 2, 7):
        for one, other in zip(first[number], again(number // 4, number % 4)):
            assert (one == other).all()
    # The same image in another epoch, or with another seed, is distorted in another way.
    by_image = {}
    for number in range(40):
        _, index = samples.place(number // 4, number % 4)
        by_image.setdefault(index, []).append(samples(number // 4, number % 4)[0].tobytes())
    assert all(len(set(pixels)) == 4 for pixels in by_image.values())
    only = TrainingSamples(data, PRESET, seed=9, batch_size=4, images=1)
    assert (only(0, 0)[0] != TrainingSamples(data, PRESET, seed=3, batch_size=4, images=1)(0, 0)[0]).any()


def test_objects_that_stay_in_view_keep_their_class(tmp_path, monkeypatch):
    tree = Tree(tmp_path / 'in')
    tree.add('a', ('cat', 1, 1, 10, 10), ('dog', 20, 15, 35, 28), ('cow', 30, 1, 40, 8))
    tree.sets(trainval=['a'])
    data = TrainingData(process_dataset.process(str(tmp_path / 'in'), str(tmp_path / 'out')))
    monkeypatch.setattr(transforms, 'sample_view', lambda *_: np.array([15, 10, 40, 30]))
    _, class_ids, _ = TrainingSamples(data, PRESET, seed=0, batch_size=1)(0, 0)
    assert set(class_ids.tolist()) == {3, data.classes.index('dog')}


def test_without_augmentation_training_sees_what_evaluation_sees(processed_voc):
    data = TrainingData(processed_voc)
    samples = TrainingSamples(data, PRESET, seed=3, batch_size=4, augment=False, images=3)
    assert {samples.place(step, position)[1] for step in range(3) for position in range(4)} == {0, 1, 2}
    for position in range(3):
        index = samples.place(0, position)[1]
        image, truth = data.validation_sample(index, 300, 'train')
        pixels, class_ids, offsets = samples(0, position)
        assert (pixels == image).all()
        expected = ssdutils.targets(ssdutils.xyxy_to_cxcywh(truth.boxes_xyxy), truth.class_ids,
                                    ssdutils.default_boxes(PRESET), data.num_classes)
        assert (class_ids == expected[0]).all()
        np.testing.assert_allclose(offsets, expected[1], atol=1e-3)


def test_evaluation_sees_every_image_once_and_then_black(processed_voc):
    data = TrainingData(processed_voc)
    images = EvaluationImages(data, 64, batch_size=4)
    seen = [images(step, position)[0] for step in range(2) for position in range(4)]
    for index in range(6):
        assert (seen[index] == data.validation_sample(index, 64)[0]).all()
    assert not np.any(seen[6:])
