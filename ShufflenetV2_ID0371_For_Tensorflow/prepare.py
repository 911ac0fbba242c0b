# SPDX-License-Identifier: Apache-2.0
"""Finds the shards that --data_dir means, and makes them of class folders with --prepare."""
import os
import tempfile

import records
from common.class_folders import has_class_folders
from common.files import DataError, cache_folder, fingerprint, whole_folder
from create_tfrecords import EVAL_SHARDS, TRAIN_SHARDS, create, read_manifest

# Names below --data_dir; the first of each are what create_tfrecords.py makes, the others published habits.
_TRAIN_NAMES = (TRAIN_SHARDS, "train")
_EVAL_NAMES = (EVAL_SHARDS, "val_shards", "validation_shards", "val", "validation")
_MADE_BY = "ShufflenetV2 --prepare"
_HELD_OUT_SEED = 0
_TRAIN_NUM_SHARDS, _EVAL_NUM_SHARDS = 64, 8


def find_shards(data_dir, default, mode, prepare):
    """(training folder or None, evaluation folder or None): those that `mode` needs are there.

    Args:
      data_dir: what the user gave, also the folder of the training shards itself; None for `default`.
      default: this model's data/ folder, below which prepared/ is ours.
      mode: train needs the training folder, evaluate the evaluation folder, train_and_evaluate both.
      prepare: make shards when data_dir holds class folders.
    Raises:
      DataError.
    """
    if mode not in ("train", "train_and_evaluate", "evaluate"):
        raise DataError("--mode", "train or train_and_evaluate to train", mode, "run python eval.py --mode=%s" % mode)
    place = data_dir or default
    if os.path.basename(os.path.normpath(place)) == TRAIN_SHARDS:  # the published --train_data_dir
        place = os.path.dirname(os.path.normpath(place))
    if not os.path.isdir(place):
        raise DataError("--data_dir", "a folder with %s/ and %s/" % (TRAIN_SHARDS, EVAL_SHARDS), "no folder %s" % place,
                        "correct the path")
    training, evaluation = _with_shards(place, _TRAIN_NAMES), _with_shards(place, _EVAL_NAMES)
    missing = [name for name, folder, modes in ((TRAIN_SHARDS, training, ("train", "train_and_evaluate")),
                                                (EVAL_SHARDS, evaluation, ("evaluate", "train_and_evaluate")))
               if folder is None and mode in modes]
    if not missing:
        _check_same_classes(training, evaluation)
        return training, evaluation
    if not (training or evaluation) and has_class_folders(place):
        if prepare:
            return _prepare(place, os.path.join(default, "prepared"))
        raise DataError(place, "%s/ and %s/" % (TRAIN_SHARDS, EVAL_SHARDS), "class folders of images",
                        "add --prepare, or make shards with explore_imagenet.py and create_tfrecords.py (README, Data)")
    if not data_dir:
        raise DataError("--data_dir", "the folder with %s/ and %s/" % (TRAIN_SHARDS, EVAL_SHARDS), "nothing",
                        "give --data_dir=DIR, or --synthetic to try without data")
    inside = sorted(os.listdir(place))
    raise DataError(os.path.join(place, missing[0]), "shards (*.tfrecords)",
                    "none; in %s: %s" % (place, ", ".join(inside[:4] + ["..."] * (len(inside) > 4)) or "nothing"),
                    "make them with explore_imagenet.py and create_tfrecords.py (README, Data)"
                    + (", or train with --mode=train" if training and mode == "train_and_evaluate" else ""))


def _with_shards(place, names):
    for name in names:
        folder = os.path.join(place, name)
        if read_manifest(folder) or records.shard_files(folder):
            return folder
    return None


def _check_same_classes(training, evaluation):
    manifests = [read_manifest(folder) if folder else None for folder in (training, evaluation)]
    if all(manifests) and manifests[0]["classes"] != manifests[1]["classes"]:
        raise DataError(evaluation, "the classes of %s, in the same order" % training, "others",
                        "make both with the same integer_encoding.json")


def count_classes(folders, default):
    """How many classes shards, `folders` of find_shards, say they have; `default` where they do not."""
    manifests = [read_manifest(folder) for folder in folders if folder]
    return next((manifest["num_classes"] for manifest in manifests if manifest), default)


def _prepare(data_dir, cache):
    """Makes shards of DIR/train and DIR/val below `cache`, once for each state of these folders.

    Without val a share of train is held out, always the same one: eval.py, whatever its --seed, shall not meet images
    that were trained on. Where nothing can be written there, they go below the user's cache.
    """
    import explore_imagenet
    data_dir = os.path.abspath(data_dir)
    state = fingerprint(explore_imagenet.sources(data_dir))
    name = "%s-%s" % (os.path.basename(data_dir), state[:12])
    wanted = cache
    if not os.path.isdir(os.path.join(wanted, name)):
        cache = cache_folder(wanted, os.path.basename(os.path.dirname(os.path.abspath(__file__))))
    place = os.path.join(cache, name)
    with whole_folder(place, {"state": state}, _MADE_BY) as fresh:
        if fresh:
            if cache != wanted:
                print("%s cannot be written; prepared data goes to %s" % (wanted, cache), flush=True)
            with tempfile.TemporaryDirectory(prefix="explored-") as tables:
                explore_imagenet.explore(data_dir, tables, held_out_seed=_HELD_OUT_SEED)
                _make_shards(tables, fresh, place)
    return os.path.join(place, TRAIN_SHARDS), os.path.join(place, EVAL_SHARDS)


def _make_shards(tables, output, place):
    """Makes both folders of shards in `output`, which is to become `place`."""
    import explore_imagenet
    for metadata, split, num_shards, boxes in (
            (explore_imagenet.TRAINING_FILE, TRAIN_SHARDS, _TRAIN_NUM_SHARDS, explore_imagenet.BOXES_FILE),
            (explore_imagenet.VALIDATION_FILE, EVAL_SHARDS, _EVAL_NUM_SHARDS, None)):
        _, manifest, _ = create(
            os.path.join(tables, metadata), output, os.path.join(tables, explore_imagenet.ENCODING_FILE),
            os.path.join(tables, boxes) if boxes else "", num_shards, workers=os.cpu_count() or 1)
        print("prepared %s: %d images of %d classes" % (
            os.path.join(place, split), manifest["images"], manifest["num_classes"]), flush=True)
