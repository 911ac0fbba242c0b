# SPDX-License-Identifier: Apache-2.0
"""Class folders are found in both layouts, and a share of every class is held out."""
import os

import numpy as np
import pytest

from common import class_folders
from common.files import DataError


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
