# SPDX-License-Identifier: Apache-2.0
"""Reads a VOCdevkit tree for process_dataset.py.

For classes of your own: in a tree of this layout, copy this file to source_<name>.py, change CLASSES and run
`./process_dataset.py --source=<name>`. For another layout, also rewrite the three functions that process_dataset.py
calls: `find`, `list_images` and `read`. What is in doubt is reported as a Problem; what cannot be used is left out.

    VOCdevkit/VOC2007/ImageSets/Main/{train,val,trainval,test}.txt     one image id a line
    VOCdevkit/VOC2007/Annotations/<id>.xml
    VOCdevkit/VOC2007/JPEGImages/<id>.jpg                              any number of VOC<year> folders

In the files a box is 1-based and includes its last pixel: the whole of an image is 1, 1, W, H. Everywhere else here it
is 0-based and half-open, 0, 0, W, H, so that xmax - xmin is its width.
"""
import glob
import os
from collections import namedtuple
from xml.etree import ElementTree

import numpy as np

from common.files import DataError

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")

ImageRef = namedtuple("ImageRef", "image_path annotation_path listed_in line")
ImageRef.__doc__ = """One image: its file and its annotation's, and where it is listed."""
Sample = namedtuple("Sample", "image_path size_px boxes_xyxy_px class_ids difficult")
Sample.__doc__ = """One image: path str, (width, height), float32 [G, 4], int32 [G], bool [G]."""
Problem = namedtuple("Problem", "path line reason action")
Problem.__doc__ = """Something wrong, where (line 0: the file as a whole), and what was done about it: "box left out",
"image left out" or "box clipped"; only the last is harmless."""

BOX_LEFT_OUT, IMAGE_LEFT_OUT, BOX_CLIPPED = "box left out", "image left out", "box clipped"
_SET_NAMES = ("train", "val", "trainval", "test")
_EXTENSIONS = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png")
_OVERSHOOT_PX = 1  # a box that is out by no more was meant to touch the border


def find(path):
    """The folder that holds VOC<year> folders, at or below a path, or None.

    Args:
      path: the VOCdevkit folder, the one that it is in, or one VOC<year> folder.
    Returns:
      (root, [names of the year folders in it]) or None.
    """
    path = os.path.abspath(path)
    for root in (os.path.join(path, "VOCdevkit"), path):
        years = sorted(os.path.basename(year) for year in glob.glob(os.path.join(glob.escape(root), "VOC*"))
                       if _is_year(year))
        if years:
            return root, years
    return (os.path.dirname(path), [os.path.basename(path)]) if _is_year(path) else None


def list_images(root, years, train_sets=None, valid_sets=None):
    """Says which images are for training and which for validation.

    Without names, validation is every annotated `test` set or, where no year has one, every `val`. Training is every
    `trainval`, and of a year that is validated with what is left: `train` where `val` is held out.

    Args:
      root, years: from find.
      train_sets, valid_sets: lists of "<year folder>:<set>", e.g. ["VOC2007:trainval"], or None.
    Returns:
      {"train": [ImageRef], "valid": [ImageRef]}, [names of the sets of each], [Problem].
    Raises:
      DataError: a set that was asked for, or every set, is missing.
    """
    there = {year: [name for name in _SET_NAMES if os.path.isfile(_set_file(root, year, name))] for year in years}
    for year, names in there.items():
        if not names:
            raise DataError(os.path.dirname(_set_file(root, year, "")), "train.txt, val.txt, trainval.txt or test.txt",
                            "none of them", "unpack the archive again, or write these lists: one image id a line")
    problems = []
    tests = ["%s:test" % year for year in years if "test" in there[year] and _is_annotated(root, year)]
    validations = ["%s:val" % year for year in years if {"train", "val"} <= set(there[year])]
    if valid_sets is None:
        valid_sets = tests or ([] if train_sets else validations)
    if train_sets is None:
        train_sets = ["%s:%s" % (year, name) for year in years
                      for name in _left_to_train(year, there[year], valid_sets)]
    refs = {split: _read_sets(root, sets, problems) for split, sets in (("train", train_sets), ("valid", valid_sets))}
    return refs, {"train": train_sets, "valid": valid_sets}, problems


def read(ref):
    """Reads one image's annotation and proves that its picture can be decoded.

    Args:
      ref: ImageRef.
    Returns:
      (Sample, or None when the image is left out; [Problem]).
    """
    size_px, reason = image_size(ref.image_path)
    if reason:
        missing = not os.path.exists(ref.image_path)
        return None, [Problem(ref.listed_in if missing else ref.image_path, ref.line if missing else 0,
                              "no image %s" % ref.image_path if missing else reason, IMAGE_LEFT_OUT)]
    try:
        with open(ref.annotation_path, "rb") as file:
            tree = _parse(file.read())
    except FileNotFoundError:
        return None, [Problem(ref.listed_in, ref.line, "no annotation %s" % ref.annotation_path, IMAGE_LEFT_OUT)]
    except OSError as error:
        return None, [Problem(ref.annotation_path, 0, "cannot be read (%s)" % error.strerror, IMAGE_LEFT_OUT)]
    except _BadXml as error:
        return None, [Problem(ref.annotation_path, error.line, str(error), IMAGE_LEFT_OUT)]

    stated = tree.find("size")
    if stated is not None:
        stated_px = tuple(_number(stated.findtext(name)) for name in ("width", "height"))
        if stated_px != size_px:
            shown = tuple("?" if side is None else "%g" % side for side in stated_px) + size_px
            return None, [Problem(ref.annotation_path, stated.get("line"),
                                  "says %s x %s pixels, the image has %d x %d" % shown, IMAGE_LEFT_OUT)]
    boxes, class_ids, difficult, problems = [], [], [], []
    for node in tree.iterfind("object"):
        line, reason, box, class_id = _object(node, size_px)
        if reason:
            problems.append(Problem(ref.annotation_path, line, reason, BOX_LEFT_OUT if box is None else BOX_CLIPPED))
        if box is not None:
            boxes.append(box)
            class_ids.append(class_id)
            difficult.append(_number(node.findtext("difficult")) == 1)
    return Sample(ref.image_path, size_px, np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int32),
                  np.array(difficult, bool)), problems


def image_size(path):
    """((width, height), "") of an image that can be decoded to its end, or (None, reason)."""
    import cv2
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        return None, "cannot be read (%s)" % (error.strerror or error)
    if not len(content):
        return None, "is empty"
    # Decoders may fill up what is missing with grey and say nothing.
    if content[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in content[-4096:].tobytes():
        return None, "is truncated: a JPEG without its end mark"
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # e.g. more than 2^30 pixels
        image = None
    if image is None:
        return None, "is not an image that OpenCV can decode"
    return (image.shape[1], image.shape[0]), ""


def _left_to_train(year, names, valid_sets):
    """Names of the sets of a year that hold what is not validated with."""
    held_out = {name for name in _SET_NAMES if "%s:%s" % (year, name) in valid_sets} - {"test"}
    if "trainval" in names and not held_out:
        return ["trainval"]
    return [name for name in ("train", "val") if name in names and not held_out & {name, "trainval"}]


def _is_year(path):
    return any(os.path.isdir(os.path.join(path, name)) for name in ("Annotations", "ImageSets"))


def _set_file(root, year, name):
    return os.path.join(root, year, "ImageSets", "Main", name + ".txt")


def _is_annotated(root, year):
    """False for the published VOC2012 test set, whose annotations are kept back."""
    with open(_set_file(root, year, "test"), encoding="utf-8", errors="replace") as file:
        return any(os.path.exists(os.path.join(root, year, "Annotations", line.split()[0] + ".xml"))
                   for line in file if line.strip())


def _read_sets(root, sets, problems):
    refs, listed = [], set()
    for set_name in sets:
        year, _, name = set_name.partition(":")
        path = _set_file(root, year, name)
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise DataError(path, "a list of image ids", error.strerror or str(error),
                            "name sets that exist, e.g. --train_sets=VOC2007:trainval") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            image_id = line.split()[0]
            if os.path.basename(image_id) != image_id or image_id in (".", ".."):
                problems.append(Problem(path, number, "%.40r is not an image id" % image_id, IMAGE_LEFT_OUT))
            elif (year, image_id) in listed:
                problems.append(Problem(path, number, "%s is listed a second time" % image_id, IMAGE_LEFT_OUT))
            else:
                listed.add((year, image_id))
                refs.append(ImageRef(_image_file(root, year, image_id), os.path.join(
                    root, year, "Annotations", image_id + ".xml"), path, number))
    return refs


def _image_file(root, year, image_id):
    paths = [os.path.join(root, year, "JPEGImages", image_id + extension) for extension in _EXTENSIONS]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def _object(node, size_px):
    """(line, complaint or "", box [4] or None, class id or None) of an <object>."""
    name, name_node = (node.findtext("name") or "").strip(), node.find("name")
    if name not in CLASSES:
        return (node if name_node is None else name_node).get("line"), "unknown class %.40r" % name, None, None
    corners = node.find("bndbox")
    if corners is None:
        return node.get("line"), "a box that is not four numbers", None, None
    line = corners.get("line")
    values = [_number(corners.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
    if None in values:
        return line, "a box that is not four numbers", None, None
    box = np.array(values) - [1, 1, 0, 0]
    said = "box xmin=%g ymin=%g xmax=%g ymax=%g" % tuple(values)
    if values[0] >= values[2] or values[1] >= values[3]:
        return line, said + " is reversed or has no area", None, None
    inside = np.clip(box, 0, size_px * 2)
    if (inside == box).all():
        return line, "", box, CLASSES.index(name)
    said += " is outside the image of %d x %d pixels" % size_px
    if np.abs(inside - box).max() > _OVERSHOOT_PX or (inside[:2] >= inside[2:]).any():
        return line, said, None, None
    return line, said, inside, CLASSES.index(name)


def _number(text):
    """The finite number that a text is, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


class _BadXml(Exception):
    def __init__(self, line, reason):
        super().__init__(reason)
        self.line = line


class _LineBuilder(ElementTree.TreeBuilder):
    """Gives each element its line as an attribute, which ElementTree would not tell; its name without a namespace."""

    def start(self, tag, attrs):
        return super().start(tag.split("}")[-1], {"line": self.expat.CurrentLineNumber})

    def end(self, tag):
        return super().end(tag.split("}")[-1])


def _parse(content):
    """The root Element of an annotation; entities, with which a small file can fill the memory, are refused."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser
    builder = _LineBuilder()
    parser = DefusedXMLParser(target=builder)
    builder.expat = parser.parser
    try:
        parser.feed(content)
        return parser.close()
    except ElementTree.ParseError as error:
        raise _BadXml(error.position[0], "is not XML: %s" % error) from None
    except DefusedXmlException as error:
        raise _BadXml(builder.expat.CurrentLineNumber,
                      "declares an entity, which no annotation needs (%s)" % type(error).__name__) from None
