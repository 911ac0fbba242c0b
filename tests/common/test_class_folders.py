# SPDX-License-Identifier: Apache-2.0
"""Class folders are found in both layouts, and a share of every class is held out."""
import os

import numpy as np
import pytest

from common import class_folders
from common.files import DataError

Image = pytest.importorskip('PIL.Image')


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return str(root)


def names(listed):
    return [(os.path.basename(path), label) for path, label in listed]


def test_classes_are_folders(tmp_path):
    root = touch(tmp_path, 'b/1.jpg', 'b/deep/2.PNG', 'b/notes.txt', 'a/3.webp', '.git/4.png', '__MACOSX/a/3.png')
    assert class_folders.has_class_folders(root)
    found = class_folders.find(root)
    assert found.classes == ['a', 'b'] and found.val is None
    assert names(found.train) == [('3.webp', 0), ('1.jpg', 1), ('2.PNG', 1)]


def test_a_validation_set_is_its_own(tmp_path):
    root = touch(tmp_path, 'train/a/1.jpg', 'train/b/2.jpg', 'val/b/3.jpg')
    found = class_folders.find(root)
    assert names(found.train) == [('1.jpg', 0), ('2.jpg', 1)] and names(found.val) == [('3.jpg', 1)]
    touch(tmp_path, 'val/c/4.jpg')
    with pytest.raises(DataError, match='class c, which has no picture there'):
        class_folders.find(root)


def test_train_may_be_a_class(tmp_path):
    assert class_folders.find(touch(tmp_path, 'train/1.jpg', 'tram/2.jpg')).classes == ['train', 'tram']


@pytest.mark.parametrize('there, found', [(['a/x.txt'], 'found none'), (['a/1.jpg', '2.jpg'], '2.jpg outside of one'),
                                          (['val/a/1.jpg'], 'val without train')])
def test_what_is_missing_is_said(tmp_path, there, found):
    with pytest.raises(DataError, match=found):
        class_folders.find(touch(tmp_path, *there))


def test_a_share_of_every_class_is_held_out():
    labels = np.array([0] * 100 + [1] * 15 + [2] * 2 + [3])
    held_out = class_folders.hold_out(labels, seed=5)
    assert [int(held_out[labels == label].sum()) for label in range(4)] == [10, 2, 1, 0]
    assert (held_out == class_folders.hold_out(labels, seed=5)).all()
    assert (held_out != class_folders.hold_out(labels, seed=6)).any()


def draw(root, **colours):
    """A folder of ten pictures of each class, of one colour each and of various sizes."""
    for name, colour in colours.items():
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.new('RGB', (30 + 5 * number, 90), colour).save(str(root / name / ('%d.png' % number)))
    return str(root)


def test_pictures_are_resized_once_and_a_tenth_is_held_out(tmp_path, capsys):
    data, cache = draw(tmp_path / 'mine', red=(200, 0, 0), blue=(0, 0, 200)), str(tmp_path / 'data' / 'prepared')
    (tmp_path / 'mine' / 'red' / 'bad.jpg').write_bytes(b'text')
    place = class_folders.find_images(data, cache)
    assert place.startswith(cache + '/mine-') and os.path.exists(os.path.join(place, 'pictures.png'))
    said = capsys.readouterr().out
    assert 'bad.jpg: not an image' in said and '20 pictures of 2 classes, 1 passed over' in said
    assert class_folders.find_images(data, cache) == place and capsys.readouterr().out == ''
    images, labels, test_images, test_labels, classes = class_folders.load_images(place, seed=0)
    assert classes == ('blue', 'red') and labels.tolist() == [0] * 9 + [1] * 9 and test_labels.tolist() == [0, 1]
    assert (images[:9] == (0, 0, 200)).all() and (test_images[1] == (200, 0, 0)).all()
    assert images.shape == (18, 32, 32, 3) and '2 of 20 pictures' in capsys.readouterr().out
    (tmp_path / 'mine' / 'red' / 'more.png').write_bytes((tmp_path / 'mine' / 'red' / '0.png').read_bytes())
    assert class_folders.find_images(data, cache) != place


def test_a_validation_folder_is_taken_instead(tmp_path, capsys):
    draw(tmp_path / 'mine' / 'train', red=(200, 0, 0))
    data = draw(tmp_path / 'mine' / 'val', red=(100, 0, 0))[:-4]
    images = class_folders.load_images(class_folders.find_images(data, str(tmp_path / 'cache')), seed=0)
    assert len(images.train_labels) == len(images.test_labels) == 10 and (images.test_images == (100, 0, 0)).all()
    assert 'held out' not in capsys.readouterr().out


def test_few_pictures_work_or_say_what_is_missing(tmp_path):
    data = tmp_path / 'mine'
    draw(data, red=(200, 0, 0))
    for number in range(1, 10):
        (data / 'red' / ('%d.png' % number)).unlink()
    with pytest.raises(DataError, match='expected a class with two pictures'):
        class_folders.load_images(class_folders.find_images(str(data), str(tmp_path / 'cache')), seed=0)
    (data / 'red' / '0.png').write_bytes(b'')
    with pytest.raises(DataError, match='class red: expected pictures that can be read'):
        class_folders.find_images(str(data), str(tmp_path / 'cache'))


def test_cifar10_stays_cifar10(few_cifar10, tmp_path):
    assert class_folders.find_images(few_cifar10, str(tmp_path)) == os.path.join(few_cifar10, 'cifar-10-batches-py')
    assert len(class_folders.load_images(few_cifar10, seed=0).train_labels) == 40
    with pytest.raises(DataError, match='a folder of pictures for each class'):
        class_folders.find_images(None, str(tmp_path))
