# SPDX-License-Identifier: Apache-2.0
"""Reads a VOCdevkit tree, of any classes, for process_dataset.py, which calls `find`, `list_images` and `read`.

What is in doubt is reported as a Problem; what cannot be used is left out.

    VOCdevkit/VOC2007/ImageSets/Main/{train,val,trainval,test}.txt     one image id a line
    VOCdevkit/VOC2007/Annotations/<id>.xml
    VOCdevkit/VOC2007/JPEGImages/<id>.jpg                              any number of VOC<year> folders

Also pascal-voc/{trainval,test}/VOCdevkit, as the published download-data.sh unpacks, where the names of the year
folders are trainval/VOCdevkit/VOC2007 and so on; and what exporters make of it: CVAT's default.txt, VoTT's
<class>_train.txt with endings and flags, and Roboflow's train/, valid/ and test/ with the pictures and their XML side
by side.

In the files a box is 1-based and includes its last pixel: the whole of an image is 1, 1, W, H. Everywhere else here it
is 0-based and half-open, 0, 0, W, H, so that xmax - xmin is its width.
"""
import codecs
import glob
import os
import re
from collections import namedtuple
from xml.etree import ElementTree

from common.files import DataError
from common.lazy import np

# Pascal VOC's own, in the kit's order, which is also the alphabet's.
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")

ImageRef = namedtuple("ImageRef", "image_path annotation_path listed_in line")
ImageRef.__doc__ = """One image: its file and its annotation's, and where it is listed."""
Sample = namedtuple("Sample", "image_path size_px boxes_xyxy_px class_names difficult")
Sample.__doc__ = """One image: path str, (width, height), float32 [G, 4], [G] str, bool [G]."""
Label = namedtuple("Label", "name name_line box_xyxy_px said line difficult")
Label.__doc__ = """An object as a file has it: what it is called, and where; float [4], or None with what is wrong in
`said`, which otherwise is how the file puts the box, and where; bool."""
Problem = namedtuple("Problem", "path line reason action")
Problem.__doc__ = """Something wrong, where (line 0: the file as a whole), and what was done about it."""

BOX_LEFT_OUT, IMAGE_LEFT_OUT = "box left out", "image left out"
BOX_CLIPPED, IMAGE_TURNED, IMAGE_AS_STORED = "box clipped", "image turned", "image taken as stored"
FOLDER_PASSED_OVER = "folder passed over"
_SET_NAMES = ("train", "val", "trainval", "test")
_SPELLINGS = {"training": "train", "default": "train", "valid": "val", "validation": "val", "testing": "test"}
_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm")
_YEAR = re.compile(r"VOC\d{4}$")
_FLAG = re.compile(r"\s+(-1|0|1)$")  # of a class's list: whether an object of it is in the image
_MOST_XML_BYTES = 16 << 20  # parsed it may fill forty times as much
_LONGEST_NAME = 100  # characters; result files are named by class
_OVERSHOOT_PX, _ROUNDING_PX = 1, 0.02  # a box that is out by no more was meant to touch the border, or does


def find(path):
    """The folder that holds VOC<year> folders, at or below a path, or None.

    Args:
      path: the VOCdevkit folder, the one that it is in, or one VOC<year> folder; a single folder of this layout may
        have another name. Or the published pascal-voc folder, or the one that it is in.
    Returns:
      (root, [names of the year folders in it]) or None.
    Raises:
      DataError: it has this layout in part, and the user can mend that.
    """
    path = os.path.abspath(path)
    for root in (os.path.join(path, "VOCdevkit"), path):
        folders = _year_folders(root)
        years = [name for name in folders if _YEAR.match(name)]
        if years or len(folders) == 1:
            return root, years or folders
        if folders:
            raise DataError(root, "folders named VOC<year>, or a single one", ", ".join(folders),
                            "give one of them as --data_path, or rename to VOC<year> what belongs together")
    if _is_year(path):
        return os.path.dirname(path), [os.path.basename(path)]
    for root in (path, os.path.join(path, "pascal-voc")):
        years = [os.path.join(part, "VOCdevkit", name) for part in ("trainval", "test")
                 for name in _year_folders(os.path.join(root, part, "VOCdevkit")) if _YEAR.match(name)]
        if years:
            return root, years
    deeper = sorted(glob.glob(os.path.join(glob.escape(path), "*", "VOCdevkit")))
    if deeper:
        raise DataError(path, "VOCdevkit/ in it", " and ".join(deeper[:4]),
                        "give one of them as --data_path; of several, move the files of all into the first one")
    if glob.glob(os.path.join(glob.escape(path), "*.xml")):
        raise DataError(path, "train/ and valid/, or VOCdevkit/VOC<year>/", "annotations in the folder itself",
                        "move the pictures to train with and their XML files into train/, the others into valid/")
    return None


def list_images(root, years, train_sets=None, valid_sets=None):
    """Says which images are for training and which for validation.

    Without names, validation is every annotated `test` set or, where no year has one, every `val`. Training is every
    `trainval`, and of a year that is validated with what is left: `train` where `val` is held out. An image of both is
    left out of training, unless the same set is asked for twice.

    Args:
      root, years: from find.
      train_sets, valid_sets: lists of "<year folder>:<set>", e.g. ["VOC2007:trainval"], or None.
    Returns:
      {"train": [ImageRef], "valid": [ImageRef]}, names of the sets of each, [Problem].
    Raises:
      DataError: a set that was asked for, or every set, is missing.
    """
    trees = {year: _Year(root, year) for year in years}
    for tree in trees.values():
        if not (tree.sets if train_sets else set(tree.sets) & set(_SET_NAMES)):
            raise DataError(tree.lists_folder, "train.txt, val.txt, trainval.txt or test.txt",
                            ", ".join(sorted(tree.sets)[:4]) or "none of them", "unpack the archive again, write these "
                            "lists (one image id a line), or name others with --train_sets")
    tests = ["%s:test" % year for year, tree in trees.items() if "test" in tree.sets and any(
        os.path.exists(ref.annotation_path) for ref in tree.read_set("test", []))]  # VOC2012's are kept back
    validations = ["%s:val" % year for year, tree in trees.items() if {"train", "val"} <= set(tree.sets)]
    if valid_sets is None:
        valid_sets = tests or ([] if train_sets else validations)
    if train_sets is None:
        train_sets = ["%s:%s" % (year, name) for year, tree in trees.items()
                      for name in _left_to_train(year, tree.sets, valid_sets)]
    sets = {"train": train_sets, "valid": valid_sets}
    problems = [Problem(os.path.join(root, name), 0, "is not named VOC<year>", FOLDER_PASSED_OVER)
                for name in _year_folders(root) if _YEAR.match(years[0]) and not _YEAR.match(name)]
    refs = {split: _read_sets(root, trees, sets[split], problems) for split in sets}
    return leave_out_validated(refs, sets, problems), sets, problems


def leave_out_validated(refs, sets, problems):
    """{split: [ImageRef]} of {split: {path of the image: ImageRef}}: an image of both is not trained with, except
    where a set is asked for twice; adds to problems."""
    if not set(sets["train"]) & set(sets["valid"]):
        for path in [path for path in refs["train"] if path in refs["valid"]]:
            ref, held_out = refs["train"].pop(path), refs["valid"][path]
            place = held_out.listed_in + (", line %d" % held_out.line if held_out.line else "")
            problems.append(Problem(ref.listed_in, ref.line, "%s is validated with (%s)" % (
                os.path.basename(path), place), IMAGE_LEFT_OUT))
    return {split: list(of_path.values()) for split, of_path in refs.items()}


def read(ref, classes=None):
    """Reads one image's annotation and proves that its picture can be decoded.

    Args:
      ref: ImageRef.
      classes: names; objects of others are left out. None for any.
    Returns:
      (Sample, or None when the image is left out; [Problem]).
    """
    return checked(ref, _annotation, classes)


def _annotation(ref):
    """What an XML file says, for checked()."""
    try:
        with open(ref.annotation_path, "rb") as file:
            tree = _parse(file.read(_MOST_XML_BYTES))
    except FileNotFoundError:
        raise Unusable(ref.listed_in, ref.line, "no annotation %s" % ref.annotation_path) from None
    except OSError as error:
        raise Unusable(ref.annotation_path, 0, "cannot be read (%s)" % error.strerror) from error
    except _BadXml as error:
        raise Unusable(ref.annotation_path, error.line, str(error)) from error
    size = tree.find("size")
    stated = [0, 0] if size is None else [number(size.findtext(name)) for name in ("width", "height")]
    return stated, 1 if size is None else size.get("line"), map(_label, tree.iterfind("object"))


class Unusable(Exception):
    """Of an annotation: path, line, reason."""


def checked(ref, annotation, classes):
    """The Sample of an image.

    Args:
      ref: ImageRef.
      annotation: function(ref) -> what is said of the image: [width, height], 0 for what is not said, None for what
        is no number; the line of that; Labels. Raises Unusable.
      classes: as for read.
    Returns:
      as read.
    """
    try:
        size_px = _size_px(ref.image_path)
    except FileNotFoundError:
        return None, [Problem(ref.listed_in, ref.line, "no image %s" % ref.image_path, IMAGE_LEFT_OUT)]
    except (OSError, ValueError) as error:
        reason = "cannot be read (%s)" % error.strerror if isinstance(error, OSError) else str(error)
        return None, [Problem(ref.image_path, 0, reason, IMAGE_LEFT_OUT)]
    try:
        stated, line, labels = annotation(ref)
    except Unusable as error:
        return None, [Problem(*error.args, action=IMAGE_LEFT_OUT)]
    size_px, problems = _labelled_size_px(stated, line, ref, size_px)
    if size_px is None:
        return None, problems
    boxes, names, difficult = [], [], []
    for label in labels:
        line, reason, box = _fitted(label, size_px, classes)
        if reason:
            problems.append(Problem(ref.annotation_path, line, reason, BOX_LEFT_OUT if box is None else BOX_CLIPPED))
        if box is not None:
            boxes.append(box)
            names.append(label.name)
            difficult.append(label.difficult)
    return Sample(ref.image_path, size_px, np.array(boxes, np.float32).reshape(-1, 4), names,
                  np.array(difficult, bool)), problems


def _size_px(path, upright=False):
    from utils import read_image
    return read_image(path, upright).shape[1::-1]


def _labelled_size_px(stated, line, ref, stored_px):
    """((width, height) that the boxes count in, [Problem]), or (None, [Problem]) when what is stated fits in no way.

    Some programs show a photo as its EXIF turns it, and label that.
    """
    # Some programs write 0 for a size that they do not know.
    stated_px = tuple(stored if side == 0 else side for side, stored in zip(stated, stored_px))
    if stated_px == stored_px and stated != [0, 0]:
        return stored_px, []
    upright_px = _size_px(ref.image_path, upright=True)
    turned = "" if upright_px == stored_px else ", or %d x %d as its EXIF turns it" % upright_px
    labelled_px, action = None, IMAGE_LEFT_OUT
    if stated_px in (stored_px, upright_px):
        if not turned:
            return stored_px, []
        labelled_px, action = stated_px, IMAGE_AS_STORED if stated_px == stored_px else IMAGE_TURNED
    shown = tuple("?" if side is None else "%g" % side for side in stated)
    reason = "says %s x %s pixels, the image has %d x %d%s" % (shown + stored_px + (turned,))
    return labelled_px, [Problem(ref.annotation_path, line, reason, action)]


def decode_text(content):
    """str of a text file's bytes: by its byte order mark, by the encoding that an XML declaration names where that is
    known and fits, as UTF-8 or GB 18030."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
                           (codecs.BOM_UTF16_BE, "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)""", content)
    for encoding in ([declared.group(1).decode("ascii")] if declared else []) + ["utf-8", "gb18030"]:
        try:
            if "<".encode(encoding) == b"<":  # else the declaration would not have been found
                return content.decode(encoding)
        except (LookupError, UnicodeError):
            pass
    return content.decode("latin-1")


class _Year:
    """One VOC<year> folder, or one that holds train/, valid/ or test/ with pictures and XML.

    Attributes: lists_folder; sets, {name: [its lists, or its one folder]}, by the files' and by the kit's four names.
    """

    def __init__(self, root, year):
        self._folder, self._pictures = os.path.join(root, year), {}
        self.lists_folder = os.path.join(self._folder, "ImageSets", "Main")
        paths = glob.glob(os.path.join(glob.escape(self.lists_folder), "*.txt")) or _split_folders(self._folder)
        self.sets = {os.path.splitext(os.path.basename(path))[0]: [path] for path in paths}
        kit_names = {name: _SPELLINGS.get(name.lower(), name.lower()) for name in self.sets}
        if not set(kit_names.values()) & set(_SET_NAMES):  # one list a class, <class>_train.txt
            kit_names = {name: name.rpartition("_")[2] for name in self.sets}
        for kit_name in _SET_NAMES:
            spelled = sorted(name for name in kit_names if kit_names[name] == kit_name)
            if spelled:
                self.sets.setdefault(kit_name, [path for name in spelled for path in self.sets[name]])

    def read_set(self, name, problems):
        """Yields an ImageRef for each line of a set's lists; adds what is no image id to problems."""
        for path in self.sets[name]:
            images, annotations = (path, path) if os.path.isdir(path) else (
                os.path.join(self._folder, folder) for folder in ("JPEGImages", "Annotations"))
            if images not in self._pictures:
                self._pictures[images] = _pictures(images)
            pictures = self._pictures[images]
            for line, image_id in _image_ids(path, pictures):
                if os.path.normpath(image_id) != image_id or image_id.startswith(("/", "..")) or "\0" in image_id:
                    problems.append(Problem(path, line, "%.40r is not an image id" % image_id, IMAGE_LEFT_OUT))
                else:
                    yield ImageRef(pictures.get(image_id, os.path.join(images, image_id + ".jpg")),
                                   os.path.join(annotations, image_id + ".xml"), path, line)


def _year_folders(root):
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    return [name for name in names if _is_year(os.path.join(root, name))]


def _is_year(path):
    return any(os.path.isdir(os.path.join(path, name)) for name in ("Annotations", "ImageSets")) or bool(
        _split_folders(path))


def _split_folders(path):
    """train/, valid/ and so on of a folder, where they hold annotations."""
    folders = [os.path.join(path, name) for name in ("train", "val", "valid", "test")]
    return [folder for folder in folders if glob.glob(os.path.join(glob.escape(folder), "*.xml"))]


def _pictures(folder):
    """{image id: path} of the pictures in a folder and below; an id is the path within it, without the ending."""
    pictures = []
    for inside, _, names in os.walk(folder):
        for name in names:
            stem, ending = os.path.splitext(os.path.join(inside, name)[len(folder) + 1:])
            if ending.lower() in _ENDINGS and not name.startswith("."):
                pictures.append((_ENDINGS.index(ending.lower()), stem, os.path.join(inside, name)))
    return {stem: path for _, stem, path in sorted(pictures, reverse=True)}


def _image_ids(path, pictures):
    """[(number of the line, image id)] of a list: ids, or file names, and a flag after them if all lines have one. Of a
    folder all that it holds, line 0."""
    if os.path.isdir(path):
        annotated = {os.path.splitext(name)[0] for name in os.listdir(path) if name.endswith(".xml")}
        return [(0, image_id) for image_id in sorted(annotated.union(pictures))]

    def image_id(text):
        text = text.split("JPEGImages/")[-1]
        stem, ending = os.path.splitext(text)
        return stem if ending.lower() in _ENDINGS and text not in pictures else text

    with open(path, "rb") as file:
        lines = [(number, line.strip()) for number, line in enumerate(decode_text(file.read()).splitlines(), 1)]
    lines = [(number, text) for number, text in lines if text]
    if all(_FLAG.search(text) and image_id(text) not in pictures for _, text in lines):
        lines = [(number, _FLAG.sub("", text)) for number, text in lines]
    return [(number, image_id(text)) for number, text in lines]


def _read_sets(root, trees, sets, problems):
    """{path of the image: ImageRef} of sets that are named "<year folder>:<set>"."""
    refs = {}
    for set_name in sets:
        year, _, name = set_name.partition(":")
        tree = trees.get(year) or _Year(root, year)
        if name not in tree.sets:
            there = ["%s:%s" % (year, other) for year in trees for other in sorted(trees[year].sets)]
            raise DataError(os.path.join(tree.lists_folder, name + ".txt"), "a list of image ids", "no such file",
                            "name sets that exist: %s" % ", ".join(there[:9]))
        for ref in tree.read_set(name, problems):
            first = refs.setdefault(ref.image_path, ref)
            # A set of several lists, one a class, has every image in each of them.
            if first is not ref and (first.listed_in == ref.listed_in or first.listed_in not in tree.sets[name]):
                reason = "%s is listed a second time" % os.path.splitext(os.path.basename(ref.annotation_path))[0]
                problems.append(Problem(ref.listed_in, ref.line, reason, IMAGE_LEFT_OUT))
    return refs


def _left_to_train(year, names, valid_sets):
    """Names of the sets of a year that hold what is not validated with."""
    held_out = {name for name in _SET_NAMES if "%s:%s" % (year, name) in valid_sets} - {"test"}
    if "trainval" in names and not held_out:
        return ["trainval"]
    return [name for name in ("train", "val") if name in names and not held_out & {name, "trainval"}]


def _label(node):
    """Label of an <object>."""
    name_node, corners = node.find("name"), node.find("bndbox")
    name = (node.findtext("name") or "").strip()
    name_line, line = (node.get("line") if one is None else one.get("line") for one in (name_node, corners))
    mark = (node.findtext("difficult") or "").strip().lower()
    difficult = mark in ("true", "yes") or number(mark) == 1
    sides = [None] if corners is None else [number(corners.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
    if None in sides:
        return Label(name, name_line, None, "a box that is not four numbers", line, difficult)
    said = "box xmin=%g ymin=%g xmax=%g ymax=%g" % tuple(sides)
    if sides[0] >= sides[2] or sides[1] >= sides[3]:
        return Label(name, name_line, None, said + " is reversed or has no area", line, difficult)
    return Label(name, name_line, np.array(sides) - [1, 1, 0, 0], said, line, difficult)


def _fitted(label, size_px, classes):
    """(line, complaint or "", box [4] or None) of a Label."""
    name, box = label.name, label.box_xyxy_px
    if box is None:
        return label.line, label.said, None
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable() if classes is None else name in classes):
        return label.name_line, "unknown class %.40r" % name, None
    inside = np.clip(box, 0, size_px * 2)
    overshoot_px = np.abs(inside - box).max()
    if overshoot_px <= _ROUNDING_PX:
        return label.line, "", inside
    said = label.said + " is outside the image of %d x %d pixels" % size_px
    if overshoot_px > _OVERSHOOT_PX or (inside[:2] >= inside[2:]).any():
        return label.line, said, None
    return label.line, said, inside


def number(text):
    """The finite number that a text is, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if np.isfinite(value) else None


class _BadXml(Exception):
    def __init__(self, line, reason):
        super().__init__(reason)
        self.line = line


class _LineBuilder(ElementTree.TreeBuilder):
    """Gives each element its line as an attribute, which ElementTree would not tell; its name in lower case, without a
    namespace."""

    def start(self, tag, attrs):
        return super().start(tag.split("}")[-1].lower(), {"line": self.expat.CurrentLineNumber})

    def end(self, tag):
        return super().end(tag.split("}")[-1].lower())


def _parse(content):
    """The root Element of an annotation; entities, with which a small file can fill the memory, are refused."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser
    if len(content) == _MOST_XML_BYTES:
        raise _BadXml(0, "is longer than any annotation")
    builder = _LineBuilder()
    parser = DefusedXMLParser(target=builder)
    builder.expat = parser.parser
    # Decoded here, since the parser knows few encodings; the declaration goes, its line breaks stay.
    text = decode_text(content)
    declaration = re.match(r"\s*<\?xml.*?\?>|", text, re.DOTALL).group()
    try:
        parser.feed("\n" * declaration.count("\n") + text[len(declaration):])
        return parser.close()
    except UnicodeError as error:
        raise _BadXml(0, "is not text (%s)" % error.reason) from None
    except ElementTree.ParseError as error:
        raise _BadXml(error.position[0], "is not XML: %s" % error) from None
    except DefusedXmlException as error:
        raise _BadXml(builder.expat.CurrentLineNumber,
                      "declares an entity, which no annotation needs (%s)" % type(error).__name__) from None
