#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Evaluates, tries or exports a checkpoint.

    python eval.py --data_dir=DIR --checkpoint_dir=test/output/0      top-1 and top-5 over every image once
    python eval.py --data_dir=DIR --confusion_png=confusion.png       and what is taken for what
    python eval.py --mode=predict --checkpoint_dir=... a.jpg b.jpg    the five likeliest classes of each image
    python eval.py --mode=export --checkpoint_dir=... --export_dir=D  SavedModel and frozen graph

The flags stand in arguments.py. Checkpoints of the published TensorFlow code work as well.
"""
import collections
import os
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

import arguments  # noqa: E402
from common import checkpoint, confusion, files, graph_files, runlog  # noqa: E402
from common.files import DataError  # noqa: E402

_AVERAGE = "/ExponentialMovingAverage"


def run(parsed):
    """Does what parsed.mode says; returns the exit code. Raises DataError."""
    prefix, state = checkpoint.find_checkpoint(parsed.checkpoint_dir, parsed.best)
    parsed.num_classes = state.get("num_classes", parsed.num_classes)
    parsed.depth_multiplier = state.get("depth_multiplier", parsed.depth_multiplier)
    return {"evaluate": evaluate, "predict": predict, "export": export}[parsed.mode](parsed, prefix, state)


def evaluate(parsed, prefix, state):
    """Prints the [eval] line: every image of eval_shards/ once, with the moving averages and with the weights."""
    if parsed.confusion_png:
        confusion.check_can_draw()
    shards = load_shards(parsed, state)
    names = class_names(parsed, state.get("classes") or shards.classes)
    from common.runtime import open_runtime
    from input_pipeline import eval_batches
    runtime = open_runtime(parsed)
    tf = runtime.tf
    tf.reset_default_graph()
    batch_size = min(parsed.batch_size, len(shards))
    tensors, start = build_graph(tf, parsed, shards, batch_size)
    session = tf.Session(config=runtime.session_config())
    log = runlog.RunLog()
    log.event(runlog.RUN, model="ShuffleNetV2", mode="evaluate", network="x" + parsed.depth_multiplier,
              classes=parsed.num_classes, batch_size=batch_size, images=len(shards), checkpoint=prefix,
              **dict(runtime.describe(), compute_dtype="float32"))

    def score_checkpoint(averaged):
        if not restore(runtime, session, prefix, averaged):
            return None
        try:
            return score(session.run, tensors, start, eval_batches(shards, batch_size))
        except tf.errors.OpError as error:
            raise shards.error or error from None

    started = time.time()
    weights = score_checkpoint(averaged=False)
    images_per_sec = len(shards) / (time.time() - started)
    averages = score_checkpoint(averaged=True)
    if not averages:
        log.warn("%s holds no moving averages" % prefix)
    for problem in shards.new_problems():
        log.warn("passed over: " + problem)
    figures, guesses = averages or weights
    log.event(runlog.EVAL, step=state.get("step", 0),
              **dict(figures, top1_no_ema=weights[0]["top1"], top5_no_ema=weights[0]["top5"]))
    log.event(runlog.DONE, step=state.get("step", 0), images_per_sec=images_per_sec,
              images_per_sec_per_card=images_per_sec, ms_per_step=1000 * batch_size / images_per_sec,
              top1=figures["top1"], status="ok")
    print("checkpoint: %s" % prefix)
    if parsed.confusion_png:
        counts = confusion.count(*guesses, classes=parsed.num_classes)
        confusion.tell(counts, list(names.values()), parsed.confusion_png)
    return 0


def load_shards(parsed, state):
    """The evaluation shards of the flags; DataError when the checkpoint was trained on other classes."""
    import prepare
    from input_pipeline import Shards
    _, folder = prepare.find_shards(parsed.data_path, os.path.join(HERE, "data"), "evaluate", parsed.prepare)
    shards = Shards(folder, parsed.num_classes, parsed.max_bad_records)
    if shards.classes and state.get("classes") and shards.classes != state["classes"]:
        raise DataError(folder, "the classes that the checkpoint was trained on", "others",
                        "make the shards with explore_imagenet.py --labels=(the encoding of the training shards)")
    return shards


Batch = collections.namedtuple("Batch", "figures scores labels counted")


def build_graph(tf, parsed, shards, batch_size):
    """The evaluation of one batch: Batch of tensors, and the operation that starts at the first one."""
    import architecture
    import model
    from input_pipeline import eval_data
    (images, labels, counted), start = eval_data(tf, shards, batch_size, parsed.threads)
    scores = architecture.logits(images, False, parsed.num_classes, parsed.depth_multiplier)
    return Batch(model.figures(scores, labels, counted)[None], scores, labels, counted), start


def score(run, tensors, start, batches):
    """Evaluates the loaded weights on every image once.

    Args:
      run: function of fetches, a session's.
      tensors, start: of build_graph.
      batches: int, how many cover all images.
    Returns:
      dict of model.mean_figures, and int64 [2, N]: the class that each image was taken for, of confusion.first_guess,
      and the true one.
    """
    import model
    guesses = []

    def run_batches():
        run(start)
        for _ in range(batches):
            batch = run(tensors)
            guesses.append(np.stack([confusion.first_guess(batch.scores), batch.labels])[:, batch.counted > 0])
            yield batch.figures, batch.counted.sum()

    return model.mean_figures(run_batches()), np.concatenate(guesses, 1)


def predict(parsed, prefix, state):
    """Prints the five likeliest classes of each image file; returns 1 when one cannot be read."""
    import input_pipeline
    import records
    from common import pictures
    if not any(os.path.isfile(path) for path in parsed.images):
        raise DataError("--mode=predict", "image files", ", ".join(parsed.images) or "none", "give their paths")
    names = class_names(parsed, state.get("classes"))
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    import architecture
    tf.reset_default_graph()
    jpeg, window = tf.placeholder(tf.string, []), tf.placeholder(tf.int32, [4])
    image = input_pipeline.decode(tf, jpeg, window, tf.constant(False))
    scores = architecture.logits(image[None], False, parsed.num_classes, parsed.depth_multiplier)
    probabilities = tf.nn.softmax(scores)[0]
    session = tf.Session(config=runtime.session_config())
    if not restore(runtime, session, prefix, averaged=True):
        restore(runtime, session, prefix, averaged=False)
    failed = 0
    for path in parsed.images:
        try:
            with open(path, "rb") as file:
                data, _ = pictures.usable_jpeg(file.read())
        except (OSError, pictures.BadImage) as error:
            failed = 1
            print("%s: %s" % (path, getattr(error, "strerror", None) or error), file=sys.stderr)
            continue
        of_classes = session.run(probabilities, {
            jpeg: data, window: input_pipeline.centre_window(*records.jpeg_size(data))})
        print(path)
        for label in of_classes.argsort()[::-1][:5]:
            print("  %.4f  %s" % (of_classes[label], names[label]))
    return failed


def class_names(parsed, classes):
    """What to call each label: {label: class id and name as far as they are known}.

    Args:
      classes: class ids in the order of their labels, or None.
    Raises:
      DataError: the file of --class_names holds no JSON object.
    """
    names = {label: classes[label] if classes else "class %d" % label for label in range(parsed.num_classes)}
    given = files.read_json(parsed.class_names) if parsed.class_names else {}
    if not isinstance(given, dict):
        raise DataError(parsed.class_names, 'a JSON object {class id: name} or {"0": [class id, name], ...}',
                        "something else", "correct the file")
    for key, value in given.items():
        if isinstance(value, list) and len(value) > 1:  # {"0": [class id, name]}, numbered in another order than ours
            key, value = value[0], value[1]
        for label, name in names.items():
            if name == key or (not classes and str(label) == key):
                names[label] = "%s %s" % (name, value)
    return names


def export(parsed, prefix, state):
    """Writes SavedModel and frozen graph with the moving averages, where there are any, as weights."""
    files.check_new_folder(parsed.export_dir, "--export_dir")
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    import architecture
    import model
    tf.reset_default_graph()
    images = tf.placeholder(tf.uint8, [None, architecture.IMAGE_PX, architecture.IMAGE_PX, 3], model.INPUT)
    scores = architecture.logits(images, False, parsed.num_classes, parsed.depth_multiplier)
    outputs = {model.OUTPUTS[0]: tf.nn.softmax(scores, name=model.OUTPUTS[0]),
               model.OUTPUTS[1]: tf.argmax(scores, 1, output_type=tf.int32, name=model.OUTPUTS[1])}
    session = tf.Session(config=runtime.session_config())
    if not restore(runtime, session, prefix, averaged=True):
        restore(runtime, session, prefix, averaged=False)
    graph_files.export(tf, session, parsed.export_dir, {model.INPUT: images}, outputs)
    print("input: %s uint8 [N, 224, 224, 3]; outputs: %s" % (model.INPUT, ", ".join(model.OUTPUTS)))
    return 0


def restore(runtime, session, prefix, averaged):
    """Loads a checkpoint's weights, or their moving averages, into the network of the current graph.

    Args:
      averaged: take the moving averages of the weights.
    Returns:
      False when there are none; nothing was loaded then.
    Raises:
      DataError: it is no checkpoint of this network.
    """
    tf = runtime.tf
    stored = graph_files.stored_shapes(tf, prefix)
    variables = {variable.op.name: variable for variable in tf.global_variables()
                 if variable.op.name.startswith(("ShuffleNetV2/", "classifier/"))}
    trainable = {variable.op.name for variable in tf.trainable_variables()}
    if averaged and not any(name.endswith(_AVERAGE) for name in stored):
        return False
    sources = {name + _AVERAGE if averaged and name in trainable else name: variable
               for name, variable in variables.items()}
    graph_files.restore(tf, session, prefix, sources)
    return True


def main(argv=None):
    """Evaluates, predicts or exports as the command line says; returns the exit code."""
    return runlog.guarded(run, arguments.parse_args(argv, "evaluate"))


if __name__ == "__main__":
    sys.exit(main())
