#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns a VOCdevkit tree, or COCO's JSON, into the plain arrays that training reads.

    ./process_dataset.py                                          data/VOCdevkit, as download-data.sh leaves it
    ./process_dataset.py --data_path=DIR --output_path=OUT --annotate=20

The classes are those that the annotations name, by the alphabet, or those of --classes=FILE, in its order.
Every picture is decoded and every box checked once. OUT gets arrays and JSON (training_data.py says which), the
pictures stay where they are. bad.csv names what was wrong, by file and line. Without --output_path the result goes
below data/prepared of this folder, where train.py finds it when it is given the same --data_path.
"""
import collections
import concurrent.futures.process
import csv
import functools
import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import source_coco  # noqa: E402
import source_pascal_voc  # noqa: E402
from common import flags, progress  # noqa: E402
from common.files import WHOLE_FILE, DataError, cache_folder, fingerprint, whole_folder, write_text  # noqa: E402
from common.lazy import np  # noqa: E402
from common.runlog import say  # noqa: E402
from training_data import (  # noqa: E402
    ARRAYS_FILE,
    BAD_FILE,
    DATASET_FILE,
    FORMAT,
    MADE_BY,
    SPLITS,
    TrainingData,
    read_description,
)

DEFAULT_DATA = os.path.join(HERE, "data")
ANNOTATED_FOLDER = "annotated"
_IN_PROCESS_IMAGES = 200  # fewer than these are not worth starting processes
_SHOWN_PROBLEMS = 5

_Plan = collections.namedtuple("_Plan", "source root refs sets problems settings")
_Plan.__doc__ = """What is to be read: the source_*.py module, the folder of all images, images by split, names of the
sets by split, problems so far; what the result depends on, as JSON."""


def parse_args(argv=None):
    parser = flags.Parser(prog="process_dataset.py", description=__doc__.split("\n")[0])
    parser.add_argument("--data_path", type=flags.input_path, default=DEFAULT_DATA,
                        help="the VOCdevkit folder, or the one that it is in; or one with COCO's annotations/ in it")
    parser.add_argument("--output_path", type=flags.output_path,
                        help="folder to make; default below data/prepared of this folder")
    parser.add_argument("--classes", type=flags.input_path, metavar="FILE",
                        help="names of the classes, one a line; boxes of others are left out; default all that occur")
    parser.add_argument("--train_sets", type=_names, metavar="YEAR:SET,...",
                        help="e.g. VOC2007:trainval,VOC2012:trainval; default every trainval, or train where val is "
                             "kept for validation")
    parser.add_argument("--valid_sets", type=_names, metavar="YEAR:SET,...",
                        help="default every test set, else val, else a drawn tenth of the images")
    parser.add_argument("--on_bad", choices=("skip", "stop"), default="skip",
                        help="a bad box or image is left out and listed, or ends the command")
    parser.add_argument("--annotate", type=flags.integer(0), default=0, metavar="N",
                        help="draw the boxes onto N training pictures, in annotated/ of the result")
    parser.add_argument("--workers", type=flags.integer(1), default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(argv)


def _names(text):
    return [name for name in text.split(",") if name]


def prepare(data_path=None, cache_root=None, annotate=0, workers=None, **choices):
    """Finds or makes the processed data set that a path means.

    Args:
      data_path: a folder that process_dataset.py wrote, or one with a VOCdevkit tree; None for data/ of this folder.
      cache_root: where a processed tree goes, as <name>-<hash of its state>; None for data/prepared of this folder. One
        that cannot be written is read; what is not in it goes into the user's cache.
      annotate, workers, choices: as for process.
    Returns:
      the processed folder.
    Raises:
      DataError: it is neither, or nothing in it is usable.
    """
    data_path = os.path.abspath(data_path or DEFAULT_DATA)
    if read_description(data_path):
        return data_path
    plan = _plan(data_path, **choices)
    state = hashlib.sha256(json.dumps(plan.settings).encode()).hexdigest()
    wanted = cache_root = cache_root or os.path.join(DEFAULT_DATA, "prepared")
    name = "%s-%s" % (os.path.basename(data_path), state[:12])
    if not read_description(os.path.join(wanted, name)):
        cache_root = cache_folder(wanted, os.path.basename(HERE))
    if cache_root != wanted:
        say("%s cannot be written; prepared data goes to %s" % (wanted, cache_root))
    return _make(plan, os.path.join(cache_root, name), annotate, workers)


def process(data_path, output_path, annotate=0, workers=None, **choices):
    """Writes a processed data set, whole or not at all; one that is there, of the same state, is left as it is.

    Args:
      data_path, output_path: folders.
      annotate: number of training pictures to draw.
      workers: processes; None for one a core.
      choices: train_sets=None, valid_sets=None, as for the source's list_images; classes=None, path of a list of
        names; on_bad="skip", or "stop" at the first bad box or image.
    Returns:
      output_path.
    Raises:
      DataError: also for the first bad box or image with on_bad="stop".
    """
    output_path = os.path.abspath(output_path)
    plan = _plan(data_path, **choices)
    _adopt(output_path)
    return _make(plan, output_path, annotate, workers)


def _plan(data_path, train_sets=None, valid_sets=None, classes=None, on_bad="skip"):
    """_Plan of what a path and the flags mean; reads the lists of images and of classes alone."""
    source, root, parts = _find(data_path)
    refs, sets, problems = source.list_images(root, parts, train_sets, valid_sets)
    if train_sets is None and valid_sets is None and not sets["valid"]:
        refs, sets = _hold_out(refs, sets)
    read = {source.__file__}
    for ref in refs["train"] + refs["valid"]:
        read.update((ref.listed_in, ref.image_path, ref.annotation_path))
    settings = {"format": FORMAT, "root": root, "sets": sets, "classes": classes and _read_names(classes),
                "on_bad": on_bad, "state": fingerprint(sorted(read))}
    return _Plan(source, root, refs, sets, problems, settings)


def _hold_out(refs, sets):
    """`refs` and `sets` with a drawn tenth of the training images to validate with."""
    order = np.random.RandomState(0).permutation(len(refs["train"]))
    held_out = set(order[:len(order) // 10].tolist())
    if not held_out:
        return refs, sets
    return {split: [ref for index, ref in enumerate(refs["train"]) if (index in held_out) == (split == "valid")]
            for split in SPLITS}, dict(sets, valid=["a tenth, held out"])


def _read_names(path):
    """The names in a list of classes, one a line."""
    try:
        with open(path, "rb") as file:
            names = [line.strip() for line in source_pascal_voc.decode_text(file.read()).splitlines()]
    except OSError as error:
        raise DataError(path, "a list of classes", error.strerror, "correct --classes") from error
    for number, name in enumerate(names, 1):
        if not name or name in names[:number - 1]:
            raise DataError("%s, line %d" % (path, number), "the name of a class",
                            "'%s' a second time" % name if name else "a blank line", "write each name once, one a line")
    if not names:
        raise DataError(path, "a list of classes, one a line", "an empty file", "write their names into it")
    return names


def _make(plan, folder, annotate, workers):
    with whole_folder(folder, plan.settings, MADE_BY, besides=(ANNOTATED_FOLDER,)) as fresh:
        if fresh:
            counts = ["%d images to %s (%s)" % (len(plan.refs[split]), verb, ", ".join(plan.sets[split]) or "none")
                      for split, verb in zip(SPLITS, ("train", "validate"))]
            say("processing %s into %s" % (" and ".join(counts), folder))
            for problem in plan.problems[:_SHOWN_PROBLEMS]:
                say(_said(*problem))
            _write(fresh, plan, workers or os.cpu_count() or 1)
    if annotate:
        _annotate(folder, annotate)
    return folder


def _adopt(folder):
    """Marks a folder that an earlier version of this program wrote: whole_folder replaces what it knows alone."""
    if read_description(folder) and not os.path.exists(os.path.join(folder, WHOLE_FILE)):
        names = [DATASET_FILE, BAD_FILE] + [ARRAYS_FILE % split for split in SPLITS]
        write_text(os.path.join(folder, WHOLE_FILE), json.dumps({"made_by": MADE_BY, "files": names}))


def _find(data_path):
    """(source_*.py module, what its find() says)."""
    for source in (source_pascal_voc, source_coco):
        tree = source.find(data_path)
        if tree is not None:
            return (source,) + tree
    inside = sorted(os.listdir(data_path)) if os.path.isdir(data_path) else None
    raise DataError(data_path, "VOCdevkit/VOC<year>/ with Annotations, ImageSets and JPEGImages, COCO's annotations/"
                    "instances_*.json, or %s of a processed data set" % DATASET_FILE,
                    "no such folder" if inside is None else "in it: " + (
                        ", ".join(inside[:4] + ["..."] * (len(inside) > 4)) or "nothing"),
                    "fetch Pascal VOC with bash download-data.sh, or correct --data_path")


def _write(folder, plan, workers):
    problems, samples = list(plan.problems), {split: [] for split in SPLITS}
    read = functools.partial(plan.source.read, classes=plan.settings["classes"])
    for split in SPLITS:
        for sample, complaints in _read(read, plan.refs[split], workers, split):
            problems += complaints
            if plan.settings["on_bad"] == "stop":
                _stop_at(problems)
            if sample:
                samples[split].append(sample)
    classes = plan.settings["classes"] or sorted({name for split in SPLITS for sample in samples[split]
                                                  for name in sample.class_names})
    description = {"made_by": MADE_BY, "format": FORMAT, "root": plan.root, "classes": classes, "sets": plan.sets,
                   "splits": {split: _write_split(folder, split, samples[split], plan.root, classes)
                              for split in SPLITS}}
    if not description["splits"]["train"]["objects"]:
        raise DataError(plan.root, "at least one object to train on", "none in %d images%s" % (
            len(plan.refs["train"]), "; the first problem: " + _said(*problems[0]) if problems else ""),
            "check the lists of images" + " and in --classes" * bool(plan.settings["classes"]))
    description["problems"] = collections.Counter(problem.action for problem in problems)
    with open(os.path.join(folder, BAD_FILE), "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([("path", "line", "reason", "action")] + problems)
    write_text(os.path.join(folder, DATASET_FILE), json.dumps(description, indent=1))


def _write_split(folder, split, samples, root, classes):
    """Writes a split's arrays; returns its entry in dataset.json: counts and checksum."""
    arrays, content = _arrays(samples, root, classes), io.BytesIO()
    np.savez(content, **arrays)
    with open(os.path.join(folder, ARRAYS_FILE % split), "wb") as file:
        file.write(content.getvalue())
    class_ids, count = arrays["class_ids"], max(1, len(classes))
    of_image = np.repeat(np.arange(len(samples)), np.diff(arrays["box_starts"]))
    counted = {"objects": class_ids, "difficult": class_ids[arrays["difficult"]],
               "images": np.unique(of_image * count + class_ids) % count}
    return {"images": len(samples), "objects": len(class_ids),
            "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
            "per_class": {name: np.bincount(ids, minlength=len(classes)).tolist() for name, ids in counted.items()}}


def _stop_at(problems):
    left_out = (source_pascal_voc.BOX_LEFT_OUT, source_pascal_voc.IMAGE_LEFT_OUT)
    bad = next((problem for problem in problems if problem.action in left_out), None)
    if bad:
        raise DataError("%s, line %d" % (bad.path, bad.line) if bad.line else bad.path, "usable data", bad.reason,
                        "correct it, or leave it out with --on_bad=skip")


def _read(read, refs, workers, title):
    """Yields read(ref) for all refs, in order."""
    with progress.bar(len(refs), title) as bar:
        if workers == 1 or len(refs) < _IN_PROCESS_IMAGES:
            for ref in refs:
                yield read(ref)
                bar.update()
            return
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, spawn, _start_worker) as executor:
            try:
                for result in executor.map(read, refs, chunksize=16):
                    yield result
                    bar.update()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise DataError("--workers", "%d processes" % workers, "that one was killed",
                                "if memory ran out, lower it") from error


def _start_worker():
    import cv2
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C


def _arrays(samples, root, classes):
    id_of = {name: number for number, name in enumerate(classes)}

    def joined(name, empty):
        return np.concatenate([empty] + [getattr(sample, name) for sample in samples])

    return {
        "image_paths": np.array([os.path.relpath(sample.image_path, root) for sample in samples], str),
        "sizes_px": np.array([sample.size_px for sample in samples], np.int32).reshape(-1, 2),  # width, height
        "box_starts": np.cumsum([0] + [len(sample.class_names) for sample in samples]),
        "boxes_xyxy_px": joined("boxes_xyxy_px", np.zeros((0, 4), np.float32)),  # 0-based, half-open
        "class_ids": np.array([id_of[name] for sample in samples for name in sample.class_names], np.int32),
        "difficult": joined("difficult", np.zeros(0, bool)),
    }


def _annotate(folder, count):
    """Draws the boxes onto `count` training pictures, spread over the list; difficult ones are marked."""
    import cv2

    from utils import annotated, class_colours
    data = TrainingData(folder)
    os.makedirs(os.path.join(folder, ANNOTATED_FOLDER), exist_ok=True)
    colours = class_colours(data.num_classes)
    for index in np.unique(np.linspace(0, data.num_train - 1, min(count, data.num_train)).astype(int)).tolist():
        boxes_px, class_ids, difficult = data.objects_px(index, "train")
        captions = [data.classes[class_id] + " (difficult)" * hard
                    for class_id, hard in zip(class_ids.tolist(), difficult.tolist())]
        image = annotated(data.image(index, "train"), boxes_px, captions, [colours[one] for one in class_ids])
        name = os.path.relpath(data.image_path(index, "train"), data.root).replace(os.sep, "_")
        cv2.imwrite(os.path.join(folder, ANNOTATED_FOLDER, os.path.splitext(name)[0] + ".jpg"), image)


def _said(path, line, reason, action):
    return "%s%s: %s; %s" % (path, ":%s" % line if int(line) else "", reason, action)


def report(folder):
    """What a processed data set holds, as text: a histogram of the classes and what was wrong."""
    description = read_description(folder)
    splits = [description["splits"][split] for split in SPLITS]
    columns = ("images", "objects", "difficult")
    widest = max(map(len, description["classes"] + ["class"]))
    row = "%%-%ds" % widest + (" %8s" * 3 + " ") * 2
    lines = ["%*s %26s %27s" % (widest, "", "training", "validation"), row % (("class",) + columns * 2)]
    for number, name in enumerate(description["classes"]):
        counts = [split["per_class"][column][number] for split in splits for column in columns]
        lines.append(row % ((name,) + tuple(counts)))
    totals = [(split["images"], split["objects"], sum(split["per_class"]["difficult"])) for split in splits]
    lines.append(row % (("all",) + totals[0] + totals[1]))
    if description["problems"]:
        with open(os.path.join(folder, BAD_FILE), encoding="utf-8", errors="surrogateescape", newline="") as file:
            bad = list(csv.reader(file))[1:]
        lines += [_said(*row) for row in bad[:_SHOWN_PROBLEMS]]
        lines.append("%s; all of them: %s" % (", ".join("%d x %s" % (count, action) for action, count in sorted(
            description["problems"].items())), os.path.join(folder, BAD_FILE)))
    if not description["splits"]["valid"]["images"]:
        lines.append("no validation images: training will report no mAP; name a set with --valid_sets")
    return "\n".join(line.rstrip() for line in lines)


def main(argv=None):
    options = vars(parse_args(argv))
    data_path, output_path = options.pop("data_path"), options.pop("output_path")
    try:
        if output_path:
            folder = process(data_path, output_path, **options)
        else:
            folder = prepare(data_path, **options)
        say(report(folder))
        say("train with --data_path=%s" % folder)
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
