#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Walks an ImageNet folder and writes the tables that create_tfrecords.py reads.

    python explore_imagenet.py --data_dir=DIR --output=TABLES

DIR holds train/<class id>/*.JPEG, or the class folders themselves; val/ (or valid/, validation/) with the same class
folders, or flat with a ground-truth file; and, if there are any, bounding boxes in annotations/**/*.xml. Tiny-ImageNet,
with images/ inside these folders and val_annotations.txt, is read as it comes. TABLES gets training_metadata.csv,
validation_metadata.csv, integer_encoding.json, boxes.npy and bad_files.csv.
"""
import csv
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
from common import flags  # noqa: E402
from common.class_folders import has_class_folders, hold_out  # noqa: E402
from common.files import DataError, prepare_output_dir, read_json, walk, write_text  # noqa: E402
from common.lazy import np  # noqa: E402
from common.pictures import IMAGE_ENDINGS, BadImage, check_header, stored_size  # noqa: E402

TRAINING_FILE, VALIDATION_FILE = "training_metadata.csv", "validation_metadata.csv"
ENCODING_FILE, BOXES_FILE, BAD_FILE = "integer_encoding.json", "boxes.npy", "bad_files.csv"
_ANNOTATION_FOLDERS = ("annotations", "Annotations", "Annotation", "bbox", "bboxes")
_VALIDATION_FOLDERS = ("val", "valid", "validation")
_NESTED = "images"  # Tiny-ImageNet's folder of images
# EXIF orientations that swap the sides: a point of the stored image -> of the upright one, both in 0..1.
_TURNED = {5: lambda x, y: (y, x), 6: lambda x, y: (1 - y, x),
           7: lambda x, y: (1 - y, 1 - x), 8: lambda x, y: (y, 1 - x)}
_GROUND_TRUTH = re.compile(r"(ground.?truth|val.*(labels|solution|synset|annotation)).*\.(txt|csv)$", re.IGNORECASE)


def parse_args(argv=None):
    parser = flags.Parser(prog="explore_imagenet.py", description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", type=flags.input_path, default=os.path.join(HERE, "data"),
                        help="folder with train/ and val/")
    parser.add_argument("--output", type=flags.output_path, default=os.curdir, help="folder for the tables")
    parser.add_argument("--annotations", type=flags.existing_path, help="folder with bounding-box XMLs; default "
                        "annotations/ of --data_dir when it is there")
    parser.add_argument("--val_ground_truth", type=flags.existing_path,
                        help="classes of a flat val/: lines of class id, of file name and class id, or of numbers "
                             "from 1 (with --synsets); default a file in --data_dir or val/ named like ground_truth")
    parser.add_argument("--synsets", type=flags.existing_path,
                        help="file whose line N begins with the class id number N")
    parser.add_argument("--labels", type=flags.existing_path,
                        help="an integer_encoding.json to keep; default: class ids in sorted order are 0, 1, ...")
    return parser.parse_args(argv)


def explore(data_dir, output, annotations=None, val_ground_truth=None, synsets=None, labels=None, held_out_seed=None):
    """Writes the five files.

    Args:
      held_out_seed: int: without a validation folder, a tenth of each class is held out for validation, and said; None
        to leave the table of validation images empty.
    Returns:
      dict of counts: classes, training, validation, boxes, bad_files.
    Raises:
      DataError: there is no such layout, a class folder is empty, a ground-truth line is wrong.
    """
    bad = []
    training = class_folders(training_folder(data_dir), bad)
    validation = validation_images(data_dir, val_ground_truth, synsets, bad)
    encoding = class_labels(training, validation, labels)
    if held_out_seed is not None and not validation_folder(data_dir):
        training, validation = _hold_out(data_dir, training, held_out_seed)
    places = [annotations] if annotations else _annotation_folders(data_dir)
    boxes = find_boxes(places[0], training, bad) if places else []
    output = prepare_output_dir(output)
    for name, rows in ((TRAINING_FILE, training), (VALIDATION_FILE, validation)):
        _write_table(os.path.join(output, name), ("path", "wordnet_id", "just_name"),
                     [(path, class_id, just_name(path)) for path, class_id in rows])
    write_text(os.path.join(output, ENCODING_FILE), json.dumps(encoding, indent=0))
    np.save(os.path.join(output, BOXES_FILE), np.array(boxes, np.float64).reshape(-1, 5), allow_pickle=False)
    _write_table(os.path.join(output, BAD_FILE), ("path", "reason", "action"), bad)
    return {"classes": len(encoding), "training": len(training), "validation": len(validation), "boxes": len(boxes),
            "bad_files": len(bad)}


def sources(data_dir):
    """The files and folders that explore() reads of an image folder, there or not."""
    if training_folder(data_dir) == data_dir:
        return [data_dir]
    names = ("train",) + _VALIDATION_FOLDERS + _ANNOTATION_FOLDERS
    names += tuple(name for name in sorted(os.listdir(data_dir)) if _GROUND_TRUTH.search(name))
    return [os.path.join(data_dir, name) for name in names]


def just_name(path):
    """The file's name without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def class_folders(folder, bad):
    """Images of folder/<class id>/: list of (path, class id), sorted; what cannot be used goes to `bad`."""
    if not os.path.isdir(folder):
        raise DataError(folder, "a folder with one folder of images for each class", "no such folder",
                        "give --data_dir=DIR with DIR/train/<class id>/*.JPEG")
    classes = _subfolders(folder)
    if not classes:
        raise DataError(folder, "one folder of images for each class", "no folders", "unpack the images of the classes")
    rows = []
    for class_id in classes:
        place = os.path.join(folder, class_id)
        if _subfolders(place) == [_NESTED]:
            place = os.path.join(place, _NESTED)
        of_class = [(path, class_id) for path in _images(place, bad)]
        if not of_class:
            raise DataError(place, "at least one image of this class", "none that can be used",
                            "unpack it again, or remove the folder")
        rows += of_class
    return rows


def training_folder(data_dir):
    """DIR/train, or DIR where that holds the class folders itself."""
    inside = _subfolders(data_dir) if os.path.isdir(data_dir) else []
    if "train" in inside or validation_folder(data_dir) or not has_class_folders(data_dir):
        return os.path.join(data_dir, "train")
    return data_dir


def _hold_out(data_dir, training, seed):
    """Parts a list of (path, class id) into those to train on and those to judge by."""
    mask = hold_out(np.unique([class_id for _, class_id in training], return_inverse=True)[1], seed)
    parts = [[row for row, held_out in zip(training, mask) if held_out == wanted] for wanted in (False, True)]
    if not parts[1]:
        raise DataError(data_dir, "a class with two images, one to train on and one to judge by", "one of each",
                        "add images, or a folder val/ beside train/")
    print("held out to judge by: %d of %d images, a tenth of each class (seed %d); a folder val/ beside train/ would "
          "be taken instead" % (len(parts[1]), len(training), seed), flush=True)
    return parts


def validation_folder(data_dir):
    """The folder of validation images, or None."""
    places = [os.path.join(data_dir, name) for name in _VALIDATION_FOLDERS]
    return next((place for place in places if os.path.isdir(place)), None)


def validation_images(data_dir, val_ground_truth, synsets, bad):
    """Images of val/: list of (path, class id). Without a val/ folder: []."""
    folder = validation_folder(data_dir)
    if not folder:
        return []
    inside = _subfolders(folder)
    if inside and inside != [_NESTED]:
        return class_folders(folder, bad)
    truth = val_ground_truth or _find_ground_truth(data_dir, folder)
    if inside:
        folder = os.path.join(folder, _NESTED)
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGE_ENDINGS))
    class_of = read_ground_truth(truth, names, synsets)
    return [(path, class_of[os.path.basename(path)]) for path in _images(folder, bad)]


def _subfolders(folder):
    return sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name))
                  and not name.startswith(".") and name != "__MACOSX")


def _annotation_folders(data_dir):
    places = [os.path.join(data_dir, name) for name in _ANNOTATION_FOLDERS]
    return [place for place in places if os.path.isdir(place)]


def read_ground_truth(path, names, synsets=None):
    """A ground-truth file -> {file name: class id}.

    Args:
      path: lines "class id" or "number from 1", one for each of `names`; or lines "file name, class id ...", where
        blanks, tabs and commas separate and the ending may be missing.
      names: file names in sorted order.
      synsets: file whose line N begins with the class id number N; needed for numbers.
    """
    lines = [re.split(r"[\s,]+", line) for line in _read_lines(path)]
    if lines and lines[0][0].lower() in ("imageid", "image", "filename", "path"):
        lines = lines[1:]
    if lines and len(lines[0]) > 1:
        given = {just_name(words[0]): words[1] for words in lines if len(words) > 1}
        missing = [name for name in names if just_name(name) not in given]
        if missing:
            raise DataError(path, "a line for each image of val/", "none for %s" % missing[0],
                            "give the file that fits")
        chosen = [given[just_name(name)] for name in names]
    else:
        if len(lines) != len(names):
            raise DataError(path, "%d lines, one for each image of val/" % len(names), "%d" % len(lines),
                            "give the file that fits")
        chosen = [words[0] for words in lines]
    if all(word.isdigit() for word in chosen):
        if not synsets:
            raise DataError(path, "class ids, or --synsets=FILE that says which number is which class", "numbers alone",
                            "give --synsets=FILE, its line N beginning with the class id of number N")
        ids = [line.split()[0] for line in _read_lines(synsets)]
        out = [number for number in chosen if not 1 <= int(number) <= len(ids)]
        if out:
            raise DataError(path, "numbers in 1..%d, as %s has lines" % (len(ids), synsets), out[0],
                            "give the file that fits")
        chosen = [ids[int(number) - 1] for number in chosen]
    return dict(zip(names, chosen))


def _read_lines(path):
    """The lines of a text file that hold something, in UTF-8 or, with its mark, UTF-16."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(path, "a text file", error.strerror or str(error), "correct the path") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = [line.strip() for line in content.decode(encoding, "replace").splitlines()]
    return [line for line in lines if line]


def class_labels(training, validation, labels=None):
    """{class id: label}: of the given file, else the class ids in sorted order.

    Raises:
      DataError: a class has no label, or validation has one that training lacks: it would never be learnt, and all
        labels after it would be others than those of the training images alone.
    """
    ids = sorted({class_id for _, class_id in training})
    of_validation = sorted({class_id for _, class_id in validation})
    if labels:
        encoding = read_json(labels)
        if not isinstance(encoding, dict):
            raise DataError(labels, "a JSON object {class id: integer}",
                            "something else" if os.path.exists(labels) else "no file", "correct the path")
        missing = [class_id for class_id in ids + of_validation if class_id not in encoding]
        if missing:
            raise DataError(labels, "a label for each class of the images", "none for %s" % missing[0],
                            "give the file that fits, or leave --labels out")
        return encoding
    if len(ids) < 2:
        raise DataError("train/", "at least two classes", "%d" % len(ids), "add the folders of the other classes")
    foreign = [(path, class_id) for path, class_id in validation if class_id not in ids]
    if foreign:
        raise DataError(foreign[0][0], "an image of a class of training (%s)" % _shown(ids),
                        "one of %s" % _shown(sorted({class_id for _, class_id in foreign})),
                        "name the folders of val/ as those of train/, or give a ground-truth file for one folder")
    return {class_id: label for label, class_id in enumerate(ids)}


def _shown(names):
    return ", ".join(names[:4] + ["... (%d)" % len(names)] * (len(names) > 4))


def find_boxes(annotations, training, bad):
    """Boxes of the training images: rows (row of the training table, xmin, ymin, xmax, ymax) in 0..1."""
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ImportError:
        raise DataError(annotations, "the package defusedxml to read it", "not installed",
                        "pip install defusedxml") from None
    if not os.path.isdir(annotations):
        raise DataError(annotations, "a folder with bounding-box XMLs", "no such folder", "correct the path")
    row_of = {just_name(path): (row, class_id) for row, (path, class_id) in enumerate(training)}
    boxes = []
    for folder, names in walk(annotations):
        for name in names:
            if not name.endswith(".xml") or just_name(name) not in row_of:
                continue
            path = os.path.join(folder, name)
            row, class_id = row_of[just_name(name)]
            try:
                root = ElementTree.parse(path).getroot()
                boxes += [(row,) + box for box in read_boxes(root, class_id, *stored_size(training[row][0]))]
            except (ElementTree.ParseError, DefusedXmlException, AttributeError, TypeError, ValueError,
                    LookupError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                bad.append((path, "no annotation that can be read: %s" % reason, "left out"))
    return boxes


def read_boxes(root, class_id, stored_size_px, orientation):
    """The boxes of one class in an annotation.

    Args:
      root: element of its XML.
      class_id: str.
      stored_size_px, orientation: (width, height) of the image as it is stored, and its EXIF orientation.
    Returns:
      list of (xmin, ymin, xmax, ymax) in 0..1, min < max, of the upright image.
    Raises:
      ValueError, AttributeError, TypeError: a part is missing, or is no number.
    """
    width_px, height_px = (float(root.find("size").find(side).text) for side in ("width", "height"))
    drawn_as_stored = (width_px, height_px) == stored_size_px  # otherwise on the upright image
    turn = _TURNED.get(orientation) if drawn_as_stored and width_px != height_px else None
    if not (width_px > 0 and height_px > 0):  # some tools write 0 x 0
        width_px, height_px = stored_size_px[::-1] if orientation in _TURNED else stored_size_px
    boxes = []
    for item in root.iter("object"):
        if item.find("name").text != class_id:
            continue
        x = sorted(float(item.find("bndbox").find(side).text) / width_px for side in ("xmin", "xmax"))
        y = sorted(float(item.find("bndbox").find(side).text) / height_px for side in ("ymin", "ymax"))
        xmin, xmax, ymin, ymax = (min(max(value, 0.0), 1.0) for value in x + y)
        if turn:
            (xmin, xmax), (ymin, ymax) = map(sorted, zip(turn(xmin, ymin), turn(xmax, ymax)))
        if xmin < xmax and ymin < ymax:
            boxes.append((xmin, ymin, xmax, ymax))
    return boxes


def _images(folder, bad):
    """Paths of a folder's usable images, sorted."""
    usable = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or not os.path.isfile(path):
            continue
        if not name.lower().endswith(IMAGE_ENDINGS):
            if not _GROUND_TRUTH.search(name):
                bad.append((path, "not named like an image", "left out"))
            continue
        try:
            repairs = check_header(path)
        except BadImage as error:
            bad.append((path, str(error), "left out"))
            continue
        if repairs:
            bad.append((path, " ".join(repairs), "will be converted"))
        usable.append(os.path.abspath(path))
    return usable


def _find_ground_truth(data_dir, folder):
    for place in (folder, data_dir):
        for name in sorted(os.listdir(place)):
            if _GROUND_TRUTH.search(name):
                return os.path.join(place, name)
    raise DataError(folder, "class folders, or images and a ground-truth file", "images without one",
                    "give --val_ground_truth=FILE")


def _write_table(path, heading, rows):
    with open(path + ".tmp", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([heading] + list(rows))
    os.replace(path + ".tmp", path)


def main(argv=None):
    parsed = parse_args(argv)
    try:
        counts = explore(**vars(parsed))
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("%(classes)d classes, %(training)d training and %(validation)d validation images, %(boxes)d boxes, "
          "%(bad_files)d files in bad_files.csv" % counts)
    print("tables: %s" % os.path.abspath(parsed.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
