# SPDX-License-Identifier: Apache-2.0
"""Batches, schedule and metrics of the CSPNet folder."""
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'CSPNet_ID0840_for_TensorFlow'))
import utils  # noqa: E402

pytestmark = pytest.mark.smoke


def test_an_epoch_shows_every_rank_other_images_and_no_image_twice():
    images = np.zeros((50, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = labels = np.arange(50, dtype=np.int32)
    seen = []
    for step in range(50 // (4 * 3)):
        for rank in range(3):
            batch, batch_labels = utils.training_batch(images, labels, step, 4, 0, False, rank, 3)
            assert (batch[:, 0, 0, 0] == batch_labels).all()
            seen += batch_labels.tolist()
    assert len(seen) == len(set(seen)) == 48
    following = utils.training_batch(images, labels, 4, 4, 0, False, 0, 3)[1].tolist()
    assert following != seen[:4]  # the next epoch has another order


def test_a_batch_is_a_function_of_seed_and_step():
    images = np.random.RandomState(0).randint(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(64, dtype=np.int32)
    first = utils.training_batch(images, labels, 3, 8, 5, True)
    again = utils.training_batch(images, labels, 3, 8, 5, True)
    other = utils.training_batch(images, labels, 3, 8, 6, True)
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()


def test_crops_and_mirrors_are_those_of_the_image():
    image = np.arange(1, 6 * 9 * 3 + 1).reshape(1, 6, 9, 3).astype(np.uint8)  # not square
    padded = np.pad(image[0], [(4, 4), (4, 4), (0, 0)], mode='constant')
    legal = {np.ascontiguousarray(view[top:top + 6, left:left + 9]).tobytes()
             for view in (padded, padded[:, ::-1]) for top in range(9) for left in range(9)}
    made = utils.crop_and_flip(np.repeat(image, 400, 0), np.random.RandomState(0))
    assert made.shape == (400, 6, 9, 3) and made.dtype == np.uint8
    views = {view.tobytes() for view in made}
    assert views <= legal
    assert len(views) > 100  # of 162: places and mirrors vary


def test_crops_may_see_the_image_reflected():
    image = np.arange(1, 6 * 9 * 3 + 1).reshape(1, 6, 9, 3).astype(np.uint8)
    padded = np.pad(image[0], [(4, 4), (4, 4), (0, 0)], mode='reflect')
    legal = {padded[top:top + 6, left:left + 9].tobytes() for top in range(9) for left in range(9)}
    made = utils.crop_and_flip(np.repeat(image, 200, 0), np.random.RandomState(0), np.zeros(200, bool), 'reflect')
    assert {view.tobytes() for view in made} <= legal and made.min() > 0


def test_what_one_epoch_mirrors_the_next_does_not(monkeypatch):
    monkeypatch.setattr(utils, 'PAD_PX', 0)
    images = np.zeros((64, 2, 2, 3), np.uint8)
    images[:, :, 0] = 1
    mirrored = []
    for epoch in range(3):
        sides = {}
        for step in range(4 * epoch, 4 * epoch + 4):
            batch, labels = utils.training_batch(images, np.arange(64), step, 16, 7, True, flip='alternating')
            sides.update(zip(labels, batch[:, 0, 1, 0]))
        mirrored.append(np.array([sides[label] for label in range(64)]))
    assert 20 < mirrored[0].sum() < 44 and (mirrored[1] == 1 - mirrored[0]).all() and (mirrored[2] == mirrored[0]).all()
    assert (utils.mirrored_in_turns(64, 0, 8) != utils.mirrored_in_turns(64, 0, 7)).any()


def test_cutout_is_a_square_anywhere():
    images = utils.cut_out(np.zeros((2000, 32, 32, 3), np.uint8), 16, np.random.RandomState(0))
    grey = (images == utils.GREY_RGB).all(3)
    assert set(np.unique(images)) == {0, *utils.GREY_RGB}
    sides = np.stack([grey.any(2).sum(1), grey.any(1).sum(1)])
    assert (grey.sum((1, 2)) == sides.prod(0)).all() and sides.max() == 16 and sides.min() == 8
    assert grey.mean((1, 2)).mean() == pytest.approx((14 / 32) ** 2, rel=0.03)  # a side keeps 8 to 16, 14 on average
    assert (grey.mean(0) > 0.04).all()  # in a corner a sixteenth


def test_metrics_by_hand():
    scores = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], np.float32))
    result = utils.metrics(scores, np.array([0, 1]))
    assert result['top1'] == 0.5 and result['top5'] == 1.0
    assert result['loss'] == pytest.approx(-(np.log(0.7) + np.log(0.2)) / 2)
    assert utils.metrics(np.eye(10, dtype=np.float32)[[0]] - np.arange(10), np.array([6]))['top5'] == 0.0


def test_prediction_covers_every_image_once():
    class Session:
        def run(self, fetch, feed):
            batch, = feed.values()
            assert batch.shape == (4, 2, 2, 3)  # static
            return batch[:, 0, 0, :1].astype(np.float32)

    class Placeholder:
        shape = (4, 2, 2, 3)

    images = np.zeros((10, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(10)
    assert utils.predict(Session(), None, Placeholder(), images)[:, 0].tolist() == list(range(10))


def prefetched(make, first, last):
    with utils.prefetch(make, first, last) as made:
        return list(made)


def test_prefetch_gives_all_in_order_and_passes_errors_on():
    assert prefetched(lambda index: index * index, 3, 7) == [9, 16, 25, 36]
    assert prefetched(lambda index: index, 5, 5) == []
    with pytest.raises(ZeroDivisionError):
        prefetched(lambda index: 1 // index, 0, 2)


@pytest.mark.parametrize('end', ['pass', 'raise SystemExit(0)'])
def test_a_program_that_leaves_prefetch_in_the_middle_ends_in_silence(end):
    # TensorFlow keeps train()'s variables until after Python 3.7 has taken `threading` apart, as this module does.
    program = ('import sys, threading, types, utils\n'
               'sys.late = sys.modules["late"] = types.ModuleType("late")\n'
               'def main():\n'
               '    with utils.prefetch(lambda index: index, 0, 9) as sys.late.made:\n'
               '        assert [next(sys.late.made), next(sys.late.made)] == [0, 1] and threading.active_count() == 2\n'
               '        %s\n'
               '    assert threading.active_count() == 1\n'
               'main()\n' % end)
    ended = subprocess.run([sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           cwd=os.path.dirname(utils.__file__), env=dict(os.environ, PYTHONPATH=ROOT))
    assert (ended.returncode, ended.stdout) == (0, '')
