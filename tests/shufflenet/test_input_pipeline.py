# SPDX-License-Identifier: Apache-2.0
"""From shards to batches: functions of seed and step; what is damaged is named."""
import gzip
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'ShufflenetV2_ID0371_For_Tensorflow'))
tf = pytest.importorskip('tensorflow.compat.v1')
tf.disable_v2_behavior()
pytest.importorskip('PIL.Image')

from small_imagenet import jpeg, write  # noqa: E402

import input_pipeline  # noqa: E402
import records  # noqa: E402
from common.files import DataError  # noqa: E402

smoke = pytest.mark.smoke


def damage(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_without_augmentation_training_sees_the_centres(shards_folder):
    shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
    batch = input_pipeline.training_batch(shards, 0, 4, 0, 0.1, 0.5, augment=False)
    items = [shards.read_next_good(int(record)) for record in input_pipeline.epoch_order(len(shards), 0, 0)[:4]]
    assert batch.windows.tolist() == [list(input_pipeline.centre_window(*item.size_px)) for item in items]
    assert not batch.mirrored.any() and (batch.colours == np.eye(3, 4)).all()


@smoke
def test_an_epoch_shows_every_rank_other_records_and_none_twice(shards_folder):
    shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
    images = {shards.read(record).image: record for record in range(12)}
    seen = [[images[image] for rank in range(2)
             for image in input_pipeline.training_batch(shards, step, 3, 5, 0.1, 0.0, rank, 2).images]
            for step in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(12))
    assert seen[0] != seen[2]  # another epoch, another order


@smoke
def test_a_batch_is_a_function_of_seed_and_step(shards_folder):
    def batch(step, seed, rank=0):
        shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
        return input_pipeline.training_batch(shards, step, 4, seed, 0.1, 0.3, rank, 2)
    for one, other in zip(batch(5, 1), batch(5, 1)):
        assert np.array_equal(one, other)
    assert not np.array_equal(batch(5, 1).windows, batch(5, 2).windows)
    assert not np.array_equal(batch(5, 1).windows, batch(5, 1, rank=1).windows)


@smoke
def test_crops_lie_in_the_image_and_cover_a_box():
    boxes = np.array([[0.7, 0.7, 0.95, 0.95]], np.float32)
    items = [input_pipeline.Item(b'', 0, boxes if number % 2 else boxes[:0], (300, 200)) for number in range(400)]
    windows = input_pipeline.random_windows(items, np.random.RandomState(0), 0.1)
    y, x, height_px, width_px = windows.T
    assert (y >= 0).all() and (x >= 0).all() and (y + height_px <= 300).all() and (x + width_px <= 200).all()
    area = height_px * width_px / 60000
    ratio = width_px / height_px
    assert 0.09 < area.min() < 0.2 and area.max() > 0.75 and (0.72 < ratio).all() and (ratio < 1.37).all()
    assert len(set(map(tuple, windows.tolist()))) > 300
    right, bottom = np.minimum(x + width_px, 190), np.minimum(y + height_px, 285)
    covered = (right - np.maximum(x, 140)).clip(0) * (bottom - np.maximum(y, 210)).clip(0) / (50 * 75)
    fallback = (height_px == 200) & (width_px == 200)
    assert (covered[1::2][~fallback[1::2]] > 0.49).all() and covered[::2].min() == 0
    thin = [input_pipeline.Item(b'', 0, boxes[:0], (4000, 10))] * 50
    assert (input_pipeline.random_windows(thin, np.random.RandomState(0), 0.5) == [1995, 0, 10, 10]).all()


@smoke
def test_decoding_crops_resizes_mirrors_and_recolours():
    content = jpeg(shade=255, size=(400, 300), quality=95)
    window, mirrored = tf.placeholder(tf.int32, [4]), tf.placeholder(tf.bool, [])
    decoded = input_pipeline.decode(tf, tf.constant(content), window, mirrored)
    dimmed = input_pipeline.decode(tf, tf.constant(content), window, mirrored,
                                   tf.constant([[0.5, 0, 0, 10], [0, 1, 0, 0], [0, 0, 0, 300]], tf.float32))
    assert decoded.shape.as_list() == [224, 224, 3]
    with tf.Session() as session:
        one, dim = session.run([decoded, dimmed], {window: [10, 100, 200, 200], mirrored: False})
        turned = session.run(decoded, {window: [10, 100, 200, 200], mirrored: True})
    columns = np.interp(100 + (np.arange(224) + 0.5) * 200 / 224 - 0.5, np.arange(400), np.linspace(0, 255, 400))
    np.testing.assert_allclose(one[100, :, 0], columns, atol=4)
    assert np.array_equal(turned, one[:, ::-1])
    assert abs(dim[..., 0].astype(int) - (one[..., 0] * 0.5 + 10)).max() <= 1
    assert np.array_equal(dim[..., 1], one[..., 1]) and (dim[..., 2] == 255).all()


@smoke
def test_colours_change_brightness_contrast_and_saturation_only():
    matrices = input_pipeline.random_colours(50, np.random.RandomState(0), 0.4)
    assert matrices.shape == (50, 3, 4) and matrices[:, :, :3].sum(2).std() > 0.1
    grey_stays = matrices[:, :1, :3].sum(2).repeat(3, 1)
    np.testing.assert_allclose(matrices[:, :, :3].sum(2), grey_stays, rtol=1e-5)
    identity = input_pipeline.random_colours(2, None, 0.0)
    np.testing.assert_allclose(identity[0], np.eye(3, 4), atol=1e-6)


def batches(session, tensors, start):
    session.run(start)
    found = []
    while True:
        try:
            found.append(session.run(tensors))
        except tf.errors.OutOfRangeError:
            return found


@smoke
@pytest.mark.parametrize('shorter_px', [None, 256])
def test_smaller_training_images_show_the_same(shards_folder, shorter_px):
    seen = []
    for side_px in (224, 112):
        shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
        tensors, start = input_pipeline.training_data(tf, shards, 0, 1, 5, 2, False, shorter_px=shorter_px, seed=3,
                                                      side_px=side_px, min_crop_area=0.2, colour_jitter=0.0)
        with tf.Session() as session:
            (images, labels), = batches(session, tensors, start)
        assert images.shape == (5, side_px, side_px, 3)
        seen.append(images.reshape(5, 14, side_px // 14, 14, side_px // 14, 3).mean((2, 4)))
    assert np.abs(seen[0] - seen[1]).mean() < 4 < np.abs(seen[0] - seen[1][::-1]).mean()


@smoke
def test_a_pipeline_that_starts_later_goes_on_the_same(shards_folder):
    chosen = dict(seed=3, min_crop_area=0.2, colour_jitter=0.2, rank=0, ranks=1)

    def read(first):
        shards = input_pipeline.Shards(str(shards_folder / 'train_shards'), 3)
        tensors, start = input_pipeline.training_data(tf, shards, first, 7, 5, 2, True, **chosen)
        assert [tensor.shape.as_list() for tensor in tensors] == [[5, 224, 224, 3], [5]]
        with tf.Session() as session:
            return batches(session, tensors, start)
    whole, later = read(0), read(5)
    assert len(whole) == 7 and len(later) == 2
    for one, other in zip(whole[5:], later):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert not np.array_equal(whole[0][0], whole[2][0])


@smoke
def test_an_evaluation_covers_every_image_once(shards_folder):
    shards = input_pipeline.Shards(str(shards_folder / 'eval_shards'), 3)
    tensors, start = input_pipeline.eval_data(tf, shards, 4, 2)
    with tf.Session() as session:
        first, second = batches(session, tensors, start)
        assert len(batches(session, tensors, start)) == 2  # and again
    assert first[2].tolist() == [1, 1, 1, 1] and second[2].tolist() == [1, 1, 0, 0]
    assert sorted(first[1].tolist() + second[1].tolist()[:2]) == [0, 0, 1, 1, 2, 2]


@smoke
def test_damaged_records_are_passed_over_up_to_a_limit(shards_folder):
    folder = shards_folder / 'train_shards'
    damage(folder / 'shard-0001.tfrecords', 200)
    shards = input_pipeline.Shards(str(folder), 3, max_bad_records=1)
    whole = [record for record in range(12) if shards.read(record)]
    assert len(whole) == 11 and len(shards.bad) == 1
    problem, = shards.new_problems()
    assert 'shard-0001.tfrecords, record 0: a wrong checksum' in problem and shards.new_problems() == []
    for step in range(4):
        batch = input_pipeline.training_batch(shards, step, 6, 0, 0.1, 0.0)
        assert len(batch.images) == 6 and all(batch.images)
    assert len(shards.bad) == 1  # counted once
    damage(folder / 'shard-0002.tfrecords', 300)
    again = input_pipeline.Shards(str(folder), 3, max_bad_records=1)
    tensors, start = input_pipeline.training_data(tf, again, 0, 8, 6, 1, False, seed=0, min_crop_area=0.1,
                                                  colour_jitter=0.0, rank=0, ranks=1)
    with tf.Session() as session, pytest.raises(tf.errors.OpError):
        batches(session, tensors, start)
    assert 'expected at most 1 damaged records (--max_bad_records); found 2' in str(again.error)


def test_a_damaged_image_is_not_counted_in_an_evaluation(shards_folder):
    damage(shards_folder / 'eval_shards' / 'shard-0000.tfrecords', 100)
    shards = input_pipeline.Shards(str(shards_folder / 'eval_shards'), 3, max_bad_records=5)
    counted = [input_pipeline.eval_batch(shards, number, 4)[1].tolist() for number in range(2)]
    assert counted == [[0, 1, 1, 1], [1, 1, 0, 0]]


@smoke
def test_wrong_shards_are_named(shards_folder, tmp_path):
    folder = shards_folder / 'train_shards'
    with pytest.raises(DataError, match='--num_classes: expected 3, as in .*found 1000; give --num_classes=3'):
        input_pipeline.Shards(str(folder), 1000)
    content = (folder / 'shard-0002.tfrecords').read_bytes()
    (folder / 'shard-0002.tfrecords').write_bytes(content[:-1])
    with pytest.raises(DataError, match='shard-0002.tfrecords: expected a shard of'):
        input_pipeline.Shards(str(folder), 3)
    (folder / 'shard-0002.tfrecords').unlink()
    with pytest.raises(DataError, match='shard-0002.tfrecords: expected a shard of .* found none'):
        input_pipeline.Shards(str(folder), 3)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='expected \\*.tfrecords; found none'):
        input_pipeline.Shards(str(tmp_path / 'empty'), 3)


@smoke
def test_shards_of_the_published_program_are_read(shards_folder, tmp_path):
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    shutil.copy(str(shards_folder / 'train_shards' / 'shard-0000.tfrecords'), str(foreign / 'shard-0000.tfrecords'))
    shards = input_pipeline.Shards(str(foreign), 3)
    assert len(shards) == 4 and shards.classes is None and all(shards.read(record) for record in range(4))
    highest = max(shards.read(record).label for record in range(4))
    with pytest.raises(DataError, match='record [0-3]: expected a label in 0..%d; found %d' % (highest - 1, highest)):
        narrow = input_pipeline.Shards(str(foreign), highest)
        for record in range(4):
            narrow.read(record)
    content = (foreign / 'shard-0000.tfrecords').read_bytes()
    (foreign / 'shard-0000.tfrecords').write_bytes(content[:-10])
    with pytest.raises(DataError, match='at most 0 damaged records'):
        input_pipeline.Shards(str(foreign), 3)
    cut = input_pipeline.Shards(str(foreign), 3, max_bad_records=1)
    assert len(cut) == 3 and 'a record cut short at byte' in cut.new_problems()[0]


def foreign(folder, *payloads, name='a.tfrecords', wrap=bytes):
    write(folder / name, wrap(b''.join(map(records.frame, payloads))))
    return str(folder)


def example(**features):
    built = tf.train.Example()
    for key, value in features.items():
        kind = {bytes: 'bytes_list', int: 'int64_list', float: 'float_list'}[type(value)]
        getattr(built.features.feature[key.replace('__', '/')], kind).value.append(value)
    return built.SerializeToString()


def test_shards_of_another_kind_are_said_for_what_they_are(tmp_path):
    good = records.encode_example(jpeg(), 1)
    for name in ('a.tfrecord', 'a.tfrec', 'train-00000-of-00001'):
        assert len(input_pipeline.Shards(foreign(tmp_path / name, good, good, name=name), 3)) == 2
    for number, (payload, said) in enumerate((
            (example(image__encoded=jpeg(), image__class__label=1), r'image/class/label \(int\), image/encoded \(b'),
            (example(image=jpeg(), label=1.5), r'label \(float\)'), (example(), 'found none'),
            (example(image=jpeg(kind='PNG'), label=1), r"a JPEG file.*PNG"),
            (example(image=bytes(99), label=1), r'99 bytes that begin with'))):
        with pytest.raises(DataError, match=said):
            input_pipeline.Shards(foreign(tmp_path / str(number), payload), 3)
    with pytest.raises(DataError, match='found a gzip file; gunzip it'):
        input_pipeline.Shards(foreign(tmp_path / 'gzip', good, wrap=gzip.compress), 3)
    later = input_pipeline.Shards(foreign(tmp_path / 'later', good, example(image=jpeg(), label=b'x')), 3, 1)
    assert later.read(0) and later.read(1) is None and 'no feature image or label' in later.new_problems()[0]


def test_a_damaged_index_or_manifest_is_named(shards_folder):
    folder = shards_folder / 'train_shards'
    index, manifest = (folder / 'records.npy').read_bytes(), (folder / 'manifest.json').read_text()
    for content in (b'', index[:-8], index[:40], b'x' * 99):
        (folder / 'records.npy').write_bytes(content)
        with pytest.raises(DataError, match='records.npy: expected the index'):
            input_pipeline.Shards(str(folder), 3)
    (folder / 'records.npy').write_bytes(index)
    (folder / 'manifest.json').write_text(manifest.replace('"shards"', '"parts"'))
    with pytest.raises(DataError, match='manifest.json: expected what create_tfrecords.py writes'):
        input_pipeline.Shards(str(folder), 3)
