# SPDX-License-Identifier: Apache-2.0
"""Pictures in class folders: DIR/<class>/* or DIR/{train,val}/<class>/*, of any size and format."""
import collections
import os

import numpy as np

from common import pictures
from common.files import DataError, walk

HELD_OUT_FRACTION = 0.1
_TRAIN, _VAL = ("train", "training"), ("val", "valid", "validation", "test")
_LAYOUT = "DIR/<class>/* or DIR/{train,val}/<class>/*"

Listing = collections.namedtuple("Listing", "classes train val")
Listing.__doc__ = """What class folders hold: classes, sorted; [(path, label)] of train and of val, None without."""


def has_class_folders(path):
    """Whether a folder has pictures in folders below it (which may be nested: train/<class>/)."""
    return bool(path) and os.path.isdir(path) and any(
        folder != path and any(map(pictures.is_picture, names)) for folder, names in walk(path))


def find(path):
    """Lists the pictures of class folders.

    Args:
      path: DIR.
    Returns:
      Listing.
    Raises:
      DataError: there are none, a class of val has none in train, or pictures lie outside of class folders.
    """
    inside = _folders(path)
    train, val = (next((inside[name] for name in names if name in inside), None) for names in (_TRAIN, _VAL))
    if val and not train and _folders(val):
        raise DataError(path, _LAYOUT, "%s without train" % os.path.basename(val), "add the other folder")
    split = bool(train and _folders(train))  # else it is a class of this name
    of_train = _pictures_by_class(train if split else path)
    if not of_train:
        raise DataError(path, "pictures in class folders, " + _LAYOUT, "none", "correct --data_path")
    classes = sorted(of_train)
    of_val = _pictures_by_class(val) if split and val else None
    unknown = sorted(set(of_val or ()) - set(classes))
    if unknown:
        raise DataError(val, "the classes of %s" % train, "class %s, which has no picture there" % unknown[0],
                        "move some of its pictures to %s" % train)

    def listed(by_class):
        return [(file, classes.index(name)) for name in classes for file in by_class.get(name, ())]

    return Listing(classes, listed(of_train), None if of_val is None else listed(of_val))


def _folders(path):
    """{name: path} of the folders in a folder, hidden ones and those that archives from a Mac bring left out."""
    return {name: os.path.join(path, name) for name in sorted(os.listdir(path))
            if os.path.isdir(os.path.join(path, name)) and not name.startswith((".", "__MACOSX"))}


def _pictures_by_class(path):
    loose = [name for name in sorted(os.listdir(path)) if pictures.is_picture(name)]
    if loose:
        raise DataError(path, "a folder for each class, " + _LAYOUT, "%s outside of one" % loose[0],
                        "move the pictures into folders named as their classes")
    by_class = {name: [os.path.join(inside, file) for inside, files in walk(folder) for file in files
                       if pictures.is_picture(file)] for name, folder in _folders(path).items()}
    return {name: files for name, files in by_class.items() if files}


def hold_out(labels, seed, fraction=HELD_OUT_FRACTION):
    """Which examples to judge by where no validation set is given: of each class a share, drawn by the seed.

    Args:
      labels: int [N].
      seed: int.
      fraction: of each class, rounded; at least one of a class that has two or more, and one always stays.
    Returns:
      bool [N].
    """
    labels, held_out = np.asarray(labels), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        count = min(max(1, int(round(fraction * len(of_class)))), len(of_class) - 1)
        held_out[np.random.RandomState([seed, int(label)]).permutation(of_class)[:count]] = True
    return held_out
