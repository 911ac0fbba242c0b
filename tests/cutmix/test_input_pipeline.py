# SPDX-License-Identifier: Apache-2.0
"""Order and augmentation are functions of (seed, step); every image once an epoch; ranks see other images."""
import argparse
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

tf = pytest.importorskip('tensorflow', '2.6')
sys.path.insert(0, os.path.join(ROOT, 'cutmix_ID2502_for_TensorFlow2.X'))
import input_pipeline  # noqa: E402

pytestmark = pytest.mark.smoke

COUNT = 50
IMAGES = np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, 32, 32, 3))
LABELS = np.arange(COUNT) % 10


def flags(**changes):
    values = dict(batch_size=8, seed=0, augment='none', alpha=1.0, cutmix_probability=1.0, crop_and_flip=False,
                  flip='random', crop='zeros')
    values.update(changes)
    return argparse.Namespace(**values)


def batches(first_step, steps, rank=0, ranks=1, **changes):
    dataset = input_pipeline.training_batches(IMAGES, LABELS, 10, flags(**changes), first_step, rank, ranks)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(steps)]


def numbers(made):
    return np.concatenate([images[:, 0, 0, 0] for images, _ in made])


def test_an_epoch_visits_every_image_at_most_once_and_drops_the_remainder():
    made = batches(0, 12)
    first, second = numbers(made[:6]), numbers(made[6:])
    assert len(set(first)) == len(set(second)) == 48
    assert list(first) != list(second) and list(first) != sorted(first)
    for images, labels in made:
        assert images.shape == (8, 32, 32, 3) and images.dtype == np.uint8
        assert np.array_equal(labels.argmax(1), images[:, 0, 0, 0] % 10) and (labels.sum(1) == 1).all()


@pytest.mark.parametrize('augment, crop_and_flip', [('none', False), ('cutmix', True)])
@pytest.mark.parametrize('first_step', [1, 6, 9])
def test_a_step_is_the_same_after_a_resume(augment, crop_and_flip, first_step):
    whole = batches(0, 14, augment=augment, crop_and_flip=crop_and_flip)
    resumed = batches(first_step, 3, augment=augment, crop_and_flip=crop_and_flip)
    for (images, labels), (images_again, labels_again) in zip(whole[first_step:], resumed):
        assert np.array_equal(images, images_again) and np.array_equal(labels, labels_again)


def test_seed_step_and_rank_change_the_augmentation():
    images = tf.constant(np.random.RandomState(0).randint(0, 256, (8, 32, 32, 3)).astype(np.uint8))
    labels = tf.one_hot(np.arange(8), 8)

    def augmented(seed=0, step=5, rank=0, **changes):
        made = input_pipeline.augmented(images, labels, flags(seed=seed, **changes), tf.constant(step, tf.int64), rank)
        return made[0].numpy().tobytes()
    for kind in (dict(augment='cutmix'), dict(crop_and_flip=True)):
        assert augmented(**kind) == augmented(**kind)
        others = [augmented(seed=1, **kind), augmented(step=6, **kind), augmented(rank=1, **kind), augmented()]
        assert len({augmented(**kind), *others}) == 5
    assert augmented() == images.numpy().tobytes()
    assert not np.array_equal(numbers(batches(0, 6)), numbers(batches(0, 6, seed=1)))


def test_the_last_steps_see_images_as_they_are():
    made = [input_pipeline.training_batches(IMAGES, LABELS, 10, flags(augment=augment), first_step, mixed_steps=8)
            for augment, first_step in (('cutmix', 0), ('none', 0), ('cutmix', 7))]
    mixed, plain, resumed = ([images.numpy() for images, _ in dataset.take(10)] for dataset in made)
    assert [np.array_equal(*pair) for pair in zip(mixed, plain)] == [False] * 8 + [True] * 2
    assert [np.array_equal(*pair) for pair in zip(mixed[7:], resumed)] == [True] * 3


def test_what_one_epoch_mirrors_the_next_does_not(monkeypatch):
    monkeypatch.setattr(input_pipeline.cutmix, 'PAD_PX', 0)
    images = np.array(IMAGES)
    images[:, :, 16:] += 100
    dataset = input_pipeline.training_batches(images, LABELS, 10, flags(crop_and_flip=True, flip='alternating'), 0)
    epochs = [{}, {}, {}]
    for step, (made, _) in enumerate(dataset.take(18)):
        for image in made.numpy():
            epochs[step // 6][image[0, :, 0].min()] = image[0, 0, 0] > image[0, -1, 0]
    assert 10 < sum(epochs[0].values()) < 40 and [len(sides) for sides in epochs] == [48] * 3
    for number, mirrored in epochs[0].items():
        assert epochs[1].get(number, not mirrored) != mirrored == epochs[2].get(number, mirrored)


def test_ranks_share_an_epoch_without_overlap():
    made = [batches(0, 3, rank=rank, ranks=2) for rank in range(2)]
    seen = [set(numbers(part)) for part in made]
    assert [len(part) for part in seen] == [24, 24] and not seen[0] & seen[1]
