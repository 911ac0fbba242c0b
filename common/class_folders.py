# SPDX-License-Identifier: Apache-2.0
"""Pictures in class folders: DIR/<class>/* or DIR/{train,val}/<class>/*, of any size and format.

For networks of small images they are resized once and kept as arrays: find_images, load_images.
"""
import collections
import concurrent.futures
import importlib.util
import itertools
import json
import os

from common import cifar10, pictures, progress, ranks
from common.files import DataError, cache_folder, fingerprint, read_json, walk, whole_folder
from common.lazy import np

HELD_OUT_FRACTION = 0.1
IMAGES_FILE, SHEET = "images.npz", "pictures.png"  # of a prepared folder, with DESCRIPTION
_DESCRIPTION, _MADE_BY, _SHOWN = "classes.json", "class folders", 64
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


def judged_by_training_images(data, fraction, seed):
    """Takes a share of the training images to judge by, in place of the test images.

    Args:
      data: cifar10.Cifar10.
      fraction, seed: as for hold_out; 0 leaves data as it is.
    Returns:
      cifar10.Cifar10.
    Raises:
      DataError: no class has two images.
    """
    if not fraction:
        return data
    held_out = hold_out(data.train_labels, seed, fraction)
    split = _split("--hold_out", data.train_images, data.train_labels, held_out, data.class_names)
    if ranks.is_rank_0():
        print("judged by %d of the %d training images (--hold_out=%g, seed %d), not by the test images" % (
            held_out.sum(), len(held_out), fraction, seed), flush=True)
    return split


def _split(where, images, labels, held_out, classes):
    if not held_out.any():
        raise DataError(where, "a class with two pictures, one to train on and one to judge by", "one of each",
                        "add pictures, or a folder val beside train")
    return cifar10.Cifar10(images[~held_out], labels[~held_out], images[held_out], labels[held_out], classes)


def find_images(data_path, cache):
    """Where small images are: CIFAR-10, or class folders, which are resized on the way.

    Args:
      data_path: str or None: as for cifar10.find_cifar10, or DIR as for find().
      cache: folder below which arrays of class folders are kept, one folder for each state of DIR; where it cannot be
        written, the user's cache.
    Returns:
      str for load_images.
    Raises:
      DataError: nothing was given, it holds neither, or no class of it has two pictures that can be read.
    """
    try:
        return cifar10.find_cifar10(data_path)
    except DataError:
        if not has_class_folders(data_path):
            raise
    place = os.path.abspath(data_path)
    state = fingerprint([place])
    name = "%s-%s" % (os.path.basename(place), state[:12])
    if not os.path.isdir(os.path.join(cache, name)):
        cache = cache_folder(cache, os.path.basename(os.path.dirname(os.path.dirname(cache))))
    prepared = os.path.join(cache, name)
    with whole_folder(prepared, {"state": state, "side_px": cifar10.IMAGE_PX}, _MADE_BY) as fresh:
        if fresh:
            _prepare(find(place), fresh, prepared)
    return prepared


def _prepare(listing, folder, place):
    """Writes arrays, description and contact sheet of a Listing to `folder`, which is to become `place`."""
    train, val = (_read_all(listed) for listed in (listing.train, listing.val or []))
    passed_over = train.passed_over + val.passed_over
    for path, reason in passed_over:
        print("passed over: %s: %s" % (path, reason), flush=True)
    missing = set(range(len(listing.classes))) - set(train.labels.tolist())
    if missing:
        raise DataError("class %s" % listing.classes[min(missing)], "pictures that can be read", "none",
                        "replace them, or remove the folder")
    np.savez(os.path.join(folder, IMAGES_FILE), train_images=train.images, train_labels=train.labels,
             val_images=val.images, val_labels=val.labels)
    with open(os.path.join(folder, _DESCRIPTION), "w", encoding="utf-8") as file:
        json.dump({"classes": listing.classes, "passed_over": passed_over}, file)
    if importlib.util.find_spec("matplotlib"):
        of_class = [np.flatnonzero(train.labels == label) for label in range(len(listing.classes))]
        shown = [row for group in itertools.zip_longest(*of_class) for row in group if row is not None][:_SHOWN]
        pictures.contact_sheet(os.path.join(folder, SHEET), train.images[shown],
                               [listing.classes[label] for label in train.labels[shown]])
    print("prepared %s: %d pictures of %d classes%s; %s shows what the network sees" % (
        place, len(train.labels) + len(val.labels), len(listing.classes),
        ", %d passed over" % len(passed_over) if passed_over else "", os.path.join(place, SHEET)), flush=True)


_Read = collections.namedtuple("_Read", "images labels passed_over")


def _read_all(listed):
    """[(path, label)] -> _Read: uint8 [n, 32, 32, 3], int32 [n], [(path, reason)]."""
    def read(path):
        try:
            return pictures.square(pictures.read_file(path), cifar10.IMAGE_PX), None
        except pictures.BadImage as reason:
            return None, str(reason)

    read_ones = []
    # Pillow decodes outside of Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor, progress.bar(len(listed), "reading") as bar:
        for one in executor.map(read, [path for path, _ in listed]):
            read_ones.append(one)
            bar.update()
    good = [(image, label) for (image, _), (_, label) in zip(read_ones, listed) if image is not None]
    images = np.empty([len(good), cifar10.IMAGE_PX, cifar10.IMAGE_PX, 3], np.uint8)
    for place, (image, _) in enumerate(good):
        images[place] = image
    return _Read(images, np.array([label for _, label in good], np.int32),
                 [(path, reason) for (_, reason), (path, _) in zip(read_ones, listed) if reason is not None])


def load_images(path, seed):
    """Small images in memory; where class folders have no validation set, a share of them is held out, and said.

    Args:
      path: from find_images.
      seed: int, of what is held out.
    Returns:
      cifar10.Cifar10; test_images are those to judge by.
    Raises:
      DataError: a file is damaged, or there is nothing to judge by.
    """
    description = read_json(os.path.join(path, _DESCRIPTION)) if os.path.isdir(path) else None
    if description is None:
        return cifar10.load_cifar10(path)
    classes = tuple(description["classes"])
    with np.load(os.path.join(path, IMAGES_FILE), allow_pickle=False) as stored:
        images, labels, val_images, val_labels = (stored[name] for name in (
            "train_images", "train_labels", "val_images", "val_labels"))
    if len(val_labels):
        return cifar10.Cifar10(images, labels, val_images, val_labels, classes)
    held_out = hold_out(labels, seed)
    split = _split(path, images, labels, held_out, classes)
    if ranks.is_rank_0():
        print("held out to judge by: %d of %d pictures, a tenth of each class (seed %d); a folder val beside train "
              "would be taken instead" % (held_out.sum(), len(labels), seed), flush=True)
    return split
