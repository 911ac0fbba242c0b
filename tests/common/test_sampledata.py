# SPDX-License-Identifier: Apache-2.0
"""Drawn data has CIFAR-10's layout, follows its seed, can be learnt, and never replaces what others made."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from common import cifar10
from common.files import DataError
from tools import sampledata

pytestmark = pytest.mark.smoke
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(sampledata.__file__)))


def files_of(folder):
    found = {}
    for where, _, names in os.walk(str(folder)):
        for name in names:
            with open(os.path.join(where, name), 'rb') as stream:
                found[name] = stream.read()
    return found


def test_layout_counts_and_balance(tmp_path):
    sampledata.draw_cifar10(str(tmp_path / 's'), train=203, test=50)
    data = cifar10.load_cifar10(str(tmp_path / 's'))
    assert data.train_images.shape == (203, 32, 32, 3) and data.test_images.shape == (50, 32, 32, 3)
    assert data.class_names == sampledata.SHAPES
    assert np.bincount(data.test_labels).tolist() == [5] * 10
    assert sorted(os.listdir(str(tmp_path / 's'))) == ['.whole.json', 'cifar-10-batches-py']
    assert len(os.listdir(str(tmp_path / 's' / 'cifar-10-batches-py'))) == 7


def test_seed_decides(tmp_path):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        sampledata.draw_cifar10(str(tmp_path / name), train=50, test=10, seed=seed)
    assert files_of(tmp_path / 'a') == files_of(tmp_path / 'b')
    assert files_of(tmp_path / 'a')['data_batch_1'] != files_of(tmp_path / 'c')['data_batch_1']


def test_no_image_twice(sample_cifar10):
    data = cifar10.load_cifar10(sample_cifar10)
    rows = {image.tobytes() for images in (data.train_images, data.test_images) for image in images}
    assert len(rows) == 600


def test_every_shape_shows_on_its_background():
    v, u = np.mgrid[-1.2:1.2:32j, -1.2:1.2:32j]
    covers = np.stack([sampledata._signed_distance(shape, u, v) < 0 for shape in sampledata.SHAPES])
    share = covers.mean((1, 2))
    assert share.min() > 0.1 and share.max() < 0.6
    # Training flips images: a shape may become no other one in a mirror.
    np.testing.assert_allclose(covers[:, :, ::-1].mean((1, 2)), share)
    for index, cover in enumerate(covers):
        if sampledata.SHAPES[index] not in ('columns', 'checks'):
            assert (cover != cover[:, ::-1]).mean() < 0.02
        difference = (covers != cover).mean((1, 2))
        assert np.delete(difference, index).min() > 0.05


def test_learnable_but_not_by_colour_alone(tmp_path):
    sampledata.draw_cifar10(str(tmp_path / 's'), train=2000, test=500)
    data = cifar10.load_cifar10(str(tmp_path / 's'))

    def accuracy(train, test):
        """Ridge regression on one-hot labels."""
        train, test = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (train, test))
        weights = np.linalg.solve(train.T.dot(train) + 1e-2 * np.eye(train.shape[1]),
                                  train.T.dot(np.eye(10)[data.train_labels]))
        return (test.dot(weights).argmax(1) == data.test_labels).mean()

    def colour(images):
        images = images.reshape(len(images), -1, 3) / 255.0
        return np.concatenate([images.mean(1), images.std(1), images.max(1), images.min(1)], 1)

    by_colour = accuracy(colour(data.train_images), colour(data.test_images))
    assert 0.3 < by_colour < 0.6


def test_same_settings_are_reused_and_others_drawn_anew(tmp_path):
    output = str(tmp_path / 's')
    assert sampledata.draw_cifar10(output, train=50, test=10) is True
    before = os.stat(os.path.join(output, '.whole.json')).st_mtime_ns
    assert sampledata.draw_cifar10(output, train=50, test=10) is False
    assert os.stat(os.path.join(output, '.whole.json')).st_mtime_ns == before
    assert sampledata.draw_cifar10(output, train=60, test=10) is True
    assert len(cifar10.load_cifar10(output).train_labels) == 60
    assert os.listdir(str(tmp_path)) == ['s']


def test_damaged_drawing_is_drawn_anew(tmp_path):
    output = str(tmp_path / 's')
    sampledata.draw_cifar10(output, train=50, test=10)
    with open(os.path.join(output, 'cifar-10-batches-py', 'test_batch'), 'r+b') as stream:
        stream.truncate(100)
    assert sampledata.draw_cifar10(output, train=50, test=10) is True
    assert len(cifar10.load_cifar10(output).test_labels) == 10


def test_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(DataError, match='a new folder, or one that tools.sampledata made'):
        sampledata.draw_cifar10(str(tmp_path / 'mine'), train=50, test=10)
    drawn = tmp_path / 'drawn'
    sampledata.draw_cifar10(str(drawn), train=50, test=10)
    (drawn / 'notes.txt').write_text('x')
    with pytest.raises(DataError, match='a new folder, or one that tools.sampledata made'):
        sampledata.draw_cifar10(str(drawn), train=60, test=10)
    assert (tmp_path / 'mine' / 'thesis.tex').exists() and (drawn / 'notes.txt').exists()
    assert sorted(os.listdir(str(tmp_path))) == ['drawn', 'mine']


def test_nothing_is_left_when_drawing_fails(tmp_path, monkeypatch):
    def full_disk(content, path):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(sampledata, '_write_pickle', full_disk)
    with pytest.raises(DataError, match='No space left'):
        sampledata.draw_cifar10(str(tmp_path / 's'), train=50, test=10)
    assert os.listdir(str(tmp_path)) == []


def run(*args):
    return subprocess.run([sys.executable, '-m', 'tools.sampledata'] + list(args), cwd=ROOT,
                          capture_output=True, text=True)


def test_command_line(tmp_path):
    command = ['cifar10', '--output', str(tmp_path / 's'), '--train', '50', '--test', '10', '--seed', '1']
    first, second = run(*command), run(*command)
    assert (first.returncode, first.stderr) == (0, '') and 'Drew 50' in first.stdout
    assert (second.returncode, second.stderr, second.stdout) == (0, '', '')
    with open(str(tmp_path / 's' / '.whole.json')) as stream:
        assert json.load(stream)['settings']['seed'] == 1


def test_command_line_refuses(tmp_path):
    (tmp_path / 'file').write_text('x')
    for args, code in ((['cifar10', '--output', str(tmp_path / 'file')], 1),
                       (['cifar10', '--output', str(tmp_path / 's'), '--train', '0'], 1),
                       (['cifar10', '--output', str(tmp_path / 's'), '--train', 'many'], 2),
                       (['cifar10'], 2), (['cifar9'], 2), ([], 2)):
        refused = run(*args)
        assert refused.returncode == code
        assert 'Traceback' not in refused.stderr and refused.stderr
        assert code == 2 or refused.stderr.count('\n') == 1
    assert run('--help').returncode == 0


def test_imagenet_layout_has_every_class_in_both_splits(tmp_path):
    Image = pytest.importorskip('PIL.Image')
    output = tmp_path / 'images'
    assert sampledata.main(['imagenet', '--output', str(output), '--train', '20', '--test', '10']) == 0
    for split, count in (('train', 2), ('val', 1)):
        assert sorted(os.listdir(str(output / split))) == sorted(sampledata.IMAGENET_CLASSES)
        for class_id in sampledata.IMAGENET_CLASSES:
            names = os.listdir(str(output / split / class_id))
            assert len(names) == count
            image = Image.open(str(output / split / class_id / names[0]))
            assert (image.format, image.mode) == ('JPEG', 'RGB') and 96 <= min(image.size) <= max(image.size) <= 160
    assert not sampledata.draw_imagenet(str(output), train=20, test=10)


def test_voc_layout_and_boxes_on_the_shapes(tmp_path):
    Image = pytest.importorskip('PIL.Image')
    from xml.etree import ElementTree
    output = tmp_path / 'drawn'
    assert sampledata.main(['voc', '--output', str(output), '--train', '11', '--test', '5']) == 0
    year = output / 'VOCdevkit' / 'VOC2007'
    sets = {name: (year / 'ImageSets' / 'Main' / (name + '.txt')).read_text().split()
            for name in ('train', 'val', 'trainval', 'test')}
    assert [len(sets[name]) for name in ('train', 'val', 'trainval', 'test')] == [5, 6, 11, 5]
    assert sets['trainval'] == sets['train'] + sets['val'] and not set(sets['trainval']) & set(sets['test'])
    names = [one + '.jpg' for one in sets['trainval'] + sets['test']]
    assert sorted(os.listdir(str(year / 'JPEGImages'))) == sorted(names)
    off_px, seen = [], set()
    for image_id in sets['trainval'] + sets['test']:
        pixels = np.asarray(Image.open(str(year / 'JPEGImages' / (image_id + '.jpg')))).astype(int)
        tree = ElementTree.parse(str(year / 'Annotations' / (image_id + '.xml')))
        assert pixels.shape == tuple(int(tree.find('size/' + side).text) for side in ('height', 'width', 'depth'))
        objects = tree.findall('object')
        assert 1 <= len(objects) <= 3
        vivid = np.ptp(pixels, 2) > 90  # more than any background, less than any object
        for one in objects:
            seen.add(one.find('name').text)
            xmin, ymin, xmax, ymax = (int(one.find('bndbox/' + side).text) for side in ('xmin', 'ymin', 'xmax', 'ymax'))
            assert 1 < xmin < xmax < pixels.shape[1] and 1 < ymin < ymax < pixels.shape[0]
            assert 0.2 < max(ymax - ymin, xmax - xmin) / min(pixels.shape[:2]) < 0.55
            patch = np.s_[ymin - 4:ymax + 3, xmin - 4:xmax + 3]
            rows, columns = (np.flatnonzero(vivid[patch].sum(axis) >= 2)[[0, -1]] for axis in (1, 0))
            off_px.append(np.abs(np.stack([rows, columns]) - 3 - [[0, ymax - ymin], [0, xmax - xmin]]).max())
            vivid[patch] = False
        assert vivid.sum() == 0
    assert seen == set(sampledata.VOC_CLASSES) and max(off_px) <= 2
    assert not sampledata.draw_voc(str(output), train=11, test=5)
    assert sampledata.draw_voc(str(output), train=11, test=5, seed=1)
