# SPDX-License-Identifier: Apache-2.0
"""Reads COCO's JSON for process_dataset.py, as source_pascal_voc.py reads a VOCdevkit tree.

    annotations/instances_train2017.json     images, annotations, categories; or beside the folders of the pictures
    train2017/<file_name>                    or below images/, or without a folder of the set's name

Also what exporters make of it: CVAT's instances_default.json, and Roboflow's train/, valid/ and test/ with the pictures
and _annotations.coco.json side by side. Boxes are left, top, width, height from 0. Crowds are left out.
"""
import glob
import json
import os
from collections import namedtuple

from common.files import DataError
from common.lazy import np
from source_pascal_voc import IMAGE_LEFT_OUT, Label, Problem, checked, leave_out_validated, number

ImageRef = namedtuple("ImageRef", "image_path annotation_path listed_in line stated labels")
ImageRef.__doc__ = """source_pascal_voc.ImageRef with what the file says of the image: [width, height], [Label]."""

_PREFIX, _BESIDE = "instances_", "_annotations.coco.json"
_KEYS = {"images": {"id": (int, str), "file_name": str}, "categories": {"id": (int, str), "name": str},
         "annotations": {"image_id": (int, str), "category_id": (int, str)}}
_KINDS = {"train": ("train", "default"), "val": ("val",), "test": ("test",)}


def find(path):
    """(folder of all, [its JSON files]) at a path, or None. The path may also be the annotations/ folder."""
    path = os.path.abspath(path)
    root = os.path.dirname(path) if os.path.basename(path) == "annotations" else path
    files = [file for pattern in (os.path.join("annotations", _PREFIX + "*.json"), _PREFIX + "*.json",
                                  os.path.join("*", _BESIDE), _BESIDE)
             for file in sorted(glob.glob(os.path.join(glob.escape(root), pattern)))]
    return (root, files) if files else None


def list_images(root, files, train_sets=None, valid_sets=None):
    """Says which images are for training and which for validation: without names, the sets that begin with "train" and
    those that begin with "val" or, where there is none, "test".

    Args:
      root, files: from find.
      train_sets, valid_sets: lists of names of sets, e.g. ["train2017"], or None.
    Returns:
      as source_pascal_voc.list_images.
    Raises:
      DataError: a set that was asked for is missing, or a file is not COCO's.
    """
    path_of = {_set_name(root, file): file for file in files}

    def usual(kind):
        return [name for name in path_of if name.lower().startswith(_KINDS[kind])]

    sets = {"train": usual("train") if train_sets is None else train_sets,
            "valid": (usual("val") or usual("test")) if valid_sets is None else valid_sets}
    unknown = [name for split in sets.values() for name in split if name not in path_of]
    if unknown or not sets["train"]:
        raise DataError(root, "a set to train with" if not unknown else "the set %s" % unknown[0],
                        ", ".join(path_of), "name sets that exist with --train_sets and --valid_sets")
    problems = []
    read = {name: _read(root, name, path_of[name], problems) for name in sets["train"] + sets["valid"]}
    refs = {split: {path: ref for name in names for path, ref in read[name].items()} for split, names in sets.items()}
    return leave_out_validated(refs, sets, problems), sets, problems


def read(ref, classes=None):
    """As source_pascal_voc.read."""
    return checked(ref, lambda _: (ref.stated, 0, ref.labels), classes)


def _set_name(root, file):
    folder, name = os.path.split(file)
    if name.startswith(_PREFIX):
        return os.path.splitext(name)[0][len(_PREFIX):]
    return os.path.basename(folder) if folder != root else "train"


def _read(root, set_name, file, problems):
    """{path of the image: ImageRef} of a JSON file; adds what is no image to problems."""
    try:
        with open(file, encoding="utf-8-sig") as stream:
            content = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(file, "COCO's JSON", getattr(error, "strerror", None) or str(error), "get it again") from error
    images, categories, annotations = (_entries(file, content, key) for key in ("images", "categories", "annotations"))
    names = {one["id"]: one["name"].strip() for one in categories}
    labels = {}
    for index, one in enumerate(annotations):
        labels.setdefault(one["image_id"], []).append(_label(one, index, names))
    names_within = [_path_within(one["file_name"]) for one in images]
    folder = _folder_of(root, set_name, file, names_within)
    refs, seen = {}, set()
    for one, name in zip(images, names_within):
        path = os.path.join(folder, name)
        if not name or one["id"] in seen or path in refs:
            reason = "is there a second time" if name else "is not a path in the folder"
            problems.append(Problem(file, 0, "image %.60r %s" % (one["file_name"], reason), IMAGE_LEFT_OUT))
            continue
        seen.add(one["id"])
        stated = [number(one.get(side, 0)) for side in ("width", "height")]
        refs[path] = ImageRef(path, file, file, 0, stated, labels.get(one["id"], []))
    return refs


def _entries(file, content, key):
    """A list of COCO's JSON, whose entries have what is read of them."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(file, "COCO's JSON of instances, an object with the lists images, annotations and categories",
                        "no list %s" % key, "export it again as COCO, detection")
    for index, one in enumerate(entries):
        for name, kinds in _KEYS[key].items():
            if not isinstance(one, dict) or not isinstance(one.get(name), kinds):
                raise DataError("%s, %s[%d]" % (file, key, index), "an object with %s" % ", ".join(_KEYS[key]),
                                "%.80s" % json.dumps(one), "export it again as COCO, detection")
    return entries


def _label(annotation, index, names):
    """Label of an entry of annotations."""
    said = "annotation %s" % annotation.get("id", "number %d" % index)
    name = names.get(annotation["category_id"])
    box, sides = annotation.get("bbox"), []
    if isinstance(box, list) and len(box) == 4:
        sides = [number(side) for side in box]
    if name is None:
        said, sides = said + " has category %s, which is not in categories" % annotation["category_id"], []
    elif annotation.get("iscrowd"):
        said, sides = said + " is a crowd, not an object", []
    elif not sides or None in sides:
        said, sides = said + " has a box that is not four numbers", []
    else:
        said += ", box %g %g %g %g," % tuple(sides)
        if min(sides[2:]) <= 0:
            said, sides = said + " has no area", []
    box_xyxy_px = np.array(sides[:2] + [sides[0] + sides[2], sides[1] + sides[3]]) if sides else None
    return Label(name or "", 0, box_xyxy_px, said, 0, False)


def _path_within(name):
    """A file_name as a path below the folder of pictures, "" where it is none."""
    path = os.path.normpath(name.replace("\\", "/"))
    try:
        return "" if os.path.isabs(path) or path.startswith("..") or b"\0" in os.fsencode(path) else path
    except UnicodeEncodeError:
        return ""


def _folder_of(root, set_name, file, paths):
    """The folder that the file's pictures are in: the first one that has any of them."""
    inside = [os.path.dirname(file)] if os.path.basename(file) == _BESIDE else [
        os.path.join(root, *parts) for parts in ((set_name,), ("images", set_name), ("images",), ("JPEGImages",), ())]
    for folder in inside:
        if any(path and os.path.exists(os.path.join(folder, path)) for path in paths):
            return folder
    return inside[0]
