#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the shards that training reads, from the tables of explore_imagenet.py.

    python create_tfrecords.py --metadata_file=training_metadata.csv --output=DIR --labels=integer_encoding.json \\
        --boxes=boxes.npy --num_shards=1000                                           fills DIR/train_shards
    python create_tfrecords.py --metadata_file=validation_metadata.csv --output=DIR --labels=integer_encoding.json \\
        --num_shards=100                                                              fills DIR/eval_shards

Every image is decoded once. What training could not read is converted to an RGB JPEG (grayscale, CMYK, PNG, turned by
EXIF) or left out (empty, truncated, no image); bad_files.csv names each of them.
"""
import collections
import csv
import hashlib
import json
import multiprocessing
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
from common import flags, progress  # noqa: E402
from common.cifar10 import File, load_restricted_pickle  # noqa: E402
from common.files import DataError, check_free_space, fingerprint, read_json, whole_folder, write_text  # noqa: E402
from common.lazy import np  # noqa: E402
from common.pictures import BadImage, usable_jpeg  # noqa: E402

MANIFEST_FILE, INDEX_FILE, BAD_FILE = "manifest.json", "records.npy", "bad_files.csv"
TRAIN_SHARDS, EVAL_SHARDS = "train_shards", "eval_shards"
MADE_BY = "ShufflenetV2 create_tfrecords.py"
_MANIFEST_KINDS = {"images": int, "num_classes": int, "classes": list, "shards": list}
_IN_PROCESS_IMAGES = 200  # fewer than these are not worth starting processes

_EXPLORE = "write it with explore_imagenet.py"

_counter = None  # of images done, shared with the worker processes


def parse_args(argv=None):
    """The documented flags, and the published short ones."""
    parser = flags.Parser(prog="create_tfrecords.py", description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--metadata_file", type=flags.existing_path, required=True,
                        help="training_metadata.csv or validation_metadata.csv")
    parser.add_argument("-o", "--output", type=flags.output_path, required=True,
                        help="gets train_shards/ or eval_shards/, unless that already is its last part")
    parser.add_argument("-l", "--labels", type=flags.existing_path, required=True, help="integer_encoding.json")
    parser.add_argument("-b", "--boxes", type=flags.existing_path, help="boxes.npy of the training images")
    parser.add_argument("-s", "--num_shards", type=flags.integer(1), default=1)
    parser.add_argument("--split", choices=("auto", "train", "eval"), default="auto",
                        help="which of the two folders; auto goes by the name of --metadata_file")
    parser.add_argument("--workers", type=flags.integer(1), default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=flags.integer(0), default=0, help="of the order of images")
    return parser.parse_args(argv)


def write_shard(task):
    """Writes one shard; runs in a worker process.

    Args:
      task: (path of the shard, rows), a row being (path of the image, label, boxes float [n, 4] or None).
    Returns:
      dict: images, bytes, sha256, index int64 [N, 3] of payload offset, length, label, and bad, a list of
      (path, reason, what was done).
    """
    import records  # not for --help
    path, rows = task
    digest, place, index, bad = hashlib.sha256(), 0, [], []
    with open(path, "wb") as file:
        for image_path, label, boxes in rows:
            try:
                with open(image_path, "rb") as image_file:
                    data = image_file.read()
                image, repairs = usable_jpeg(data)
                if repairs:
                    bad.append((image_path, " ".join(repairs), "converted"))
                payload = records.encode_example(image, label, boxes)
                record = records.frame(payload)
                file.write(record)
                digest.update(record)
                index.append((place + records.HEADER_BYTES, len(payload), label))
                place += len(record)
            except BadImage as error:
                bad.append((image_path, str(error), "left out"))
            except OSError as error:
                bad.append((image_path, (error.strerror or str(error)).lower(), "left out"))
            if _counter is not None:
                with _counter.get_lock():
                    _counter.value += 1
        file.flush()
        os.fsync(file.fileno())
    return {"images": len(index), "bytes": place, "sha256": digest.hexdigest(),
            "index": np.array(index, np.int64).reshape(-1, 3), "bad": bad}


def create(metadata_file, output, labels, boxes="", num_shards=1, split="auto", workers=1, seed=0):
    """Writes one folder of shards, whole or not at all; one that was made of the same files is left as it is.

    Returns:
      (folder, its manifest, whether it was made now).
    Raises:
      DataError: a table is not what explore_imagenet.py writes, or the folder holds something else.
    """
    folder = shard_folder(metadata_file, output, split)
    classes = read_labels(labels)
    rows = read_metadata(metadata_file, classes, read_boxes(boxes) if boxes else None)
    sources = [metadata_file, labels] + ([boxes] if boxes else []) + [row[0] for row in rows]
    settings = {"sources": fingerprint(sources), "num_shards": num_shards, "seed": seed}
    with whole_folder(folder, settings, MADE_BY) as fresh:
        if fresh:
            check_free_space(folder, sum(os.path.getsize(row[0]) for row in rows if os.path.isfile(row[0])))
            _write_shards(fresh, os.path.basename(folder), rows, classes, metadata_file, num_shards, workers, seed)
    return folder, read_manifest(folder), fresh is not None


def _write_shards(folder, split, rows, classes, metadata_file, num_shards, workers, seed):
    random.Random(seed).shuffle(rows)
    num_shards = min(num_shards, len(rows))
    names = ["shard-%04d.tfrecords" % number for number in range(num_shards)]
    tasks = [(os.path.join(folder, name), rows[number::num_shards]) for number, name in enumerate(names)]
    with progress.bar(len(rows), split) as bar:
        written = _run(tasks, min(workers, num_shards) if len(rows) >= _IN_PROCESS_IMAGES else 1, bar)
    _finish(folder, names, written, classes, metadata_file, seed)


def shard_folder(metadata_file, output, split):
    """Where the shards go: the documented commands give both splits the same --output."""
    output = os.path.abspath(output)
    if os.path.basename(output) in (TRAIN_SHARDS, EVAL_SHARDS, "val_shards"):
        return output
    name = os.path.basename(metadata_file).lower()
    if split == "auto":
        split = "train" if name.startswith("train") else "eval" if name.startswith(("val", "eval")) else None
    if split is None:
        raise DataError("--metadata_file", "a name that begins with training or validation",
                        os.path.basename(metadata_file), "add --split=train or --split=eval")
    return os.path.join(output, TRAIN_SHARDS if split == "train" else EVAL_SHARDS)


def read_labels(path):
    """integer_encoding.json -> class ids in the order of their labels."""
    encoding = read_json(path)
    if not isinstance(encoding, dict) or not all(type(label) is int for label in encoding.values()):
        raise DataError(path, "a JSON object {class id: integer}",
                        "something else" if os.path.exists(path) else "no file", _EXPLORE)
    if len(encoding) < 2 or sorted(encoding.values()) != list(range(len(encoding))):
        raise DataError(path, "at least two classes with the labels 0 to their number - 1, each once",
                        "%d classes, labels %s" % (len(encoding), sorted(encoding.values())[:5]),
                        _EXPLORE)
    return sorted(encoding, key=encoding.get)


def read_boxes(path):
    """boxes.npy -> {row of the metadata file, or an image's name: float [n, 4] of xmin, ymin, xmax, ymax}.

    Names are without folder and ending. explore_imagenet.py counts rows; the published file is a pickled dict of names.
    """
    try:
        with open(path, "rb") as file:
            named = _is_pickled(file)
            position = file.tell()
        array = _read_named_boxes(path, position) if named else np.load(path, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # numpy reads the header as Python, so also SyntaxError; MemoryError for a large number
        raise DataError(path, "a float array [n, 5] of row, xmin, ymin, xmax, ymax",
                        getattr(error, "strerror", None) or str(error).split(".")[0], _EXPLORE) from error
    if named:
        return array
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != 5 or array.dtype.kind != "f":
        raise DataError(path, "a float array [n, 5] of row, xmin, ymin, xmax, ymax", "%s %s" % (
            getattr(array, "dtype", "?"), list(getattr(array, "shape", []))), _EXPLORE)
    number = array[:, 0]
    if not ((number >= 0) & (number < 2**31) & (number == np.floor(number))).all():
        raise DataError(path, "rows of the metadata file in the first column", "other numbers", _EXPLORE)
    _check_corners(path, array[:, 1:], array[:, 0])
    boxes = collections.defaultdict(list)
    for row in array:
        boxes[int(row[0])].append(row[1:])
    return boxes


def _is_pickled(file):
    """Whether an .npy file, which is left behind its header, holds objects."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
    return read_header(file)[2].hasobject


def _read_named_boxes(path, position):
    def open_pickle():
        file = open(path, "rb")
        file.seek(position)
        return file

    content = load_restricted_pickle(File(path, os.path.getsize(path), open_pickle), _EXPLORE)
    content = content.item() if isinstance(content, np.ndarray) and content.shape == () else content
    if not isinstance(content, dict):
        raise DataError(path, "a dict of names and boxes", type(content).__name__, _EXPLORE)
    boxes = {}
    for name, of_image in content.items():
        name = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        try:
            boxes[name] = np.array(of_image, np.float64).reshape(-1, 4)
        except (TypeError, ValueError) as error:
            raise DataError(path, "boxes [n, 4] of %.40s" % name, str(error), _EXPLORE) from error
        _check_corners(path, boxes[name], [name] * len(boxes[name]))
    return boxes


def _check_corners(path, boxes, places):
    xmin, ymin, xmax, ymax = boxes.T
    wrong = ~((0 <= xmin) & (xmin < xmax) & (xmax <= 1) & (0 <= ymin) & (ymin < ymax) & (ymax <= 1))
    if wrong.any():
        place = places[wrong.argmax()]
        raise DataError(path, "0 <= min < max <= 1", "%s of %s" % (
            boxes[wrong][0].tolist(), "%.40s" % place if isinstance(place, str) else "row %d" % place), _EXPLORE)


def read_metadata(path, classes, boxes=None):
    """A metadata table -> list of (path of the image, label, boxes or None)."""
    label_of = {name: label for label, name in enumerate(classes)}
    rows, unused = [], set(boxes or ())
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if not {"path", "wordnet_id"} <= set(table.fieldnames or []):
                raise DataError(path, "a table with the columns path and wordnet_id", str(table.fieldnames),
                                _EXPLORE)
            for number, row in enumerate(table):
                if not row["path"] or "\0" in row["path"] or row["wordnet_id"] not in label_of:
                    raise DataError("%s, line %d" % (path, number + 2),
                                    "a path and one of the %d classes of --labels" % len(classes),
                                    "%r, %r" % (row["path"], row["wordnet_id"]),
                                    "use the integer_encoding.json of the same exploration")
                name = os.path.splitext(os.path.basename(row["path"]))[0]
                of_row = None if boxes is None else np.array(
                    boxes.get(number, boxes.get(name, [])), np.float32).reshape(-1, 4)
                unused -= {number, name}
                rows.append((row["path"], label_of[row["wordnet_id"]], of_row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, "a table of images", getattr(error, "strerror", None) or str(error),
                        _EXPLORE) from error
    if not rows:
        raise DataError(path, "at least one image", "none", "see in bad_files.csv what explore_imagenet.py left out")
    beyond = [key for key in unused if isinstance(key, int)]
    if beyond or (unused and len(unused) == len(boxes)):
        raise DataError("--boxes", "boxes of the %d images of %s" % (len(rows), path),
                        "row %d" % max(beyond) if beyond else "%.40s and other names" % min(unused),
                        "give --boxes only with training_metadata.csv of the same exploration")
    return rows


def read_manifest(folder):
    """manifest.json of a folder of shards; None when this program did not write one."""
    manifest = read_json(os.path.join(folder, MANIFEST_FILE))
    if not isinstance(manifest, dict) or manifest.get("made_by") != MADE_BY:
        return None
    whole = all(isinstance(manifest.get(key), kind) for key, kind in _MANIFEST_KINDS.items()) and all(
        isinstance(shard, dict) and isinstance(shard.get("name"), str) and isinstance(shard.get("bytes"), int)
        for shard in manifest["shards"])
    if not whole:
        raise DataError(os.path.join(folder, MANIFEST_FILE), "what create_tfrecords.py writes", "something else",
                        "copy the folder again, or write it anew")
    return manifest


def _run(tasks, workers, bar):
    """Writes all shards; the result is the same for every number of workers."""
    if workers == 1:
        written = []
        for task in tasks:
            written.append(write_shard(task))
            bar.update(len(task[1]))
        return written
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with context.Pool(workers, _start_worker, (counter,)) as pool:
        waiting = pool.map_async(write_shard, tasks, chunksize=1)
        while not waiting.ready():
            waiting.wait(0.2)
            bar.update(counter.value - bar.n)
        bar.update(counter.value - bar.n)
        return waiting.get()


def _start_worker(counter):
    global _counter
    _counter = counter


def _finish(folder, names, written, classes, metadata_file, seed):
    bad = sorted(row for shard in written for row in shard["bad"])
    images = sum(shard["images"] for shard in written)
    if not images:
        raise DataError(metadata_file, "at least one image that can be decoded", "%d that cannot, the first: %s (%s)"
                        % (len(bad), bad[0][0], bad[0][1]), "look at the files")
    index = np.concatenate([np.insert(shard["index"], 0, number, axis=1) for number, shard in enumerate(written)])
    np.save(os.path.join(folder, INDEX_FILE), index, allow_pickle=False)
    with open(os.path.join(folder, BAD_FILE), "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "reason", "action")] + bad)
    per_class = np.bincount(index[:, 3], minlength=len(classes))
    manifest = {
        "made_by": MADE_BY, "format": 1, "images": images, "num_classes": len(classes), "classes": classes,
        "images_per_class": per_class.tolist(), "seed": seed, "metadata_file": os.path.abspath(metadata_file),
        "converted": collections.Counter(row[1] for row in bad if row[2] == "converted"),
        "left_out": collections.Counter(row[1] for row in bad if row[2] == "left out"),
        "shards": [{"name": name, "images": shard["images"], "bytes": shard["bytes"], "sha256": shard["sha256"]}
                   for name, shard in zip(names, written)],
    }
    write_text(os.path.join(folder, MANIFEST_FILE), json.dumps(manifest, indent=1))


def main(argv=None):
    parsed = parse_args(argv)
    started = time.time()
    try:
        folder, manifest, made = create(**vars(parsed))
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for action in ("converted", "left_out"):
        for reason, count in sorted(manifest[action].items()):
            print("%s: %d %s" % (action.replace("_", " "), count, reason))
    seconds = time.time() - started
    speed = "%.1f s, %.0f images/s" % (seconds, manifest["images"] / seconds)
    print("%s: %d images of %d classes in %d shards, %s" % (
        folder, manifest["images"], manifest["num_classes"], len(manifest["shards"]),
        speed if made else "made before of the same files"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
