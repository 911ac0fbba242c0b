#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Evaluates, tries or exports a checkpoint.

    python eval.py --data_dir=DIR --checkpoint_dir=test/output/0      top-1 and top-5 over every image once
    python eval.py --data_dir=DIR --confusion_png=confusion.png       and what is taken for what
    python eval.py --mode=predict --checkpoint_dir=... a.jpg b.jpg    as predict.py
    python eval.py --mode=export --checkpoint_dir=... --export_dir=D  SavedModel, frozen graph, ONNX, model.json

The flags stand in arguments.py. Checkpoints of the published TensorFlow code and torchvision's files work as well.
"""
import collections
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import arguments  # noqa: E402
import pretrained  # noqa: E402
from common import confusion, files, flags, graph_files, progress, runlog  # noqa: E402
from common.files import DataError  # noqa: E402
from common.lazy import np  # noqa: E402

_COMPARED = 4  # images on which an export is compared with the checkpoint


def run(parsed):
    """Does what parsed.mode says; returns the exit code. Raises DataError."""
    if parsed.mode == "predict":
        import predict
        parsed.pictures = [flags.input_path(image) for image in parsed.images]
        parsed.checkpoint, parsed.model, parsed.top = parsed.checkpoint_dir, None, 5
        return predict.run(parsed)
    where, weights, state = pretrained.find(parsed.checkpoint_dir, parsed.best)
    for name in ("num_classes", "depth_multiplier", "variant"):
        setattr(parsed, name, state.get(name, getattr(parsed, name)))
    return {"evaluate": evaluate, "export": export}[parsed.mode](parsed, where, weights, state)


def evaluate(parsed, where, weights, state):
    """Prints the [eval] line: every image of eval_shards/ once, with the moving averages and with the weights."""
    if parsed.confusion_png:
        confusion.check_can_draw()
    shards = load_shards(parsed, state)
    names = pretrained.class_names(parsed.class_names, state, parsed.num_classes, shards.classes)
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
              variant=parsed.variant, classes=parsed.num_classes, batch_size=batch_size, images=len(shards),
              checkpoint=where,
              **dict(runtime.describe(), compute_dtype="float32"))

    def score_checkpoint(averaged):
        if not restore(tf, session, where, weights, averaged):
            return None
        try:
            return score(session.run, tensors, start, eval_batches(shards, batch_size))
        except tf.errors.OpError as error:
            raise shards.error or error from None

    started = time.time()
    plain = score_checkpoint(averaged=False)
    images_per_sec = len(shards) / (time.time() - started)
    averages = score_checkpoint(averaged=True)
    if not averages:
        log.warn("%s holds no moving averages" % where)
    for problem in shards.new_problems():
        log.warn("passed over: " + problem)
    figures, guesses = averages or plain
    log.event(runlog.EVAL, step=state.get("step", 0),
              **dict(figures, top1_no_ema=plain[0]["top1"], top5_no_ema=plain[0]["top5"]))
    log.event(runlog.DONE, step=state.get("step", 0), images_per_sec=images_per_sec,
              images_per_sec_per_card=images_per_sec, ms_per_step=1000 * batch_size / images_per_sec,
              top1=figures["top1"], status="ok")
    print("checkpoint: %s" % where)
    if parsed.confusion_png:
        counts = confusion.count(*guesses, classes=parsed.num_classes)
        confusion.tell(counts, names, parsed.confusion_png)
    return 0


def load_shards(parsed, state):
    """The evaluation shards of the flags; DataError when the checkpoint was trained on other classes."""
    import prepare
    from input_pipeline import Shards
    _, folder = prepare.find_shards(parsed.data_path, os.path.join(HERE, "data"), "evaluate", parsed.prepare)
    if parsed.classes_from_data and "num_classes" not in state:
        parsed.num_classes = prepare.count_classes([folder], parsed.num_classes)
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
    from input_pipeline import eval_data, shorter_px_of
    (images, labels, counted), start = eval_data(tf, shards, batch_size, parsed.threads, shorter_px=shorter_px_of(
        parsed.variant, parsed.depth_multiplier))
    scores = architecture.logits(images, False, parsed.num_classes, parsed.depth_multiplier, parsed.variant)
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
        for _ in progress.over(range(batches), "evaluating"):
            batch = run(tensors)
            guesses.append(np.stack([confusion.first_guess(batch.scores), batch.labels])[:, batch.counted > 0])
            yield batch.figures, batch.counted.sum()

    return model.mean_figures(run_batches()), np.concatenate(guesses, 1)


def export(parsed, where, weights, state):
    """Writes the network with the moving averages, where there are any, as weights; see common/export.py."""
    from common import export as exports
    files.check_new_folder(parsed.export_dir, "--export_dir")
    names = pretrained.class_names(parsed.class_names, state, parsed.num_classes)
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    import input_pipeline
    import model
    tf.reset_default_graph()
    images, outputs = model.inference(parsed.num_classes, parsed.depth_multiplier, parsed.variant)
    session = tf.Session(config=runtime.session_config())
    restore_best(tf, session, where, weights)
    example = np.random.RandomState(0).randint(0, 256, [_COMPARED] + images.shape.as_list()[1:]).astype(np.uint8)
    exports.export_session(tf, session, parsed.export_dir, images, outputs, example, {
        "model": model.NAME, "classes": names, "checkpoint": where, "step": state.get("step"),
        "preprocessing": input_pipeline.described(parsed.variant, parsed.depth_multiplier)})
    return 0


def restore(tf, session, where, weights, averaged):
    """Loads weights, or their moving averages, into the network of the current graph.

    Args:
      where, weights: of pretrained.find.
      averaged: take the moving averages of the weights.
    Returns:
      False when there are none; nothing was loaded then.
    Raises:
      DataError: they are not of this network.
    """
    import model
    values = pretrained.values(tf, where, weights, averaged)
    if values is None:
        return False
    variables = model.network_variables()
    graph_files.check_variables({name: array.shape for name, array in values.items()},
                                {name: variable.shape.as_list() for name, variable in variables.items()}, where)
    graph_files.load_fitting(tf, session, values, where, variables)
    return True


def restore_best(tf, session, where, weights):
    """Loads the moving averages where there are any, else the weights."""
    if not restore(tf, session, where, weights, averaged=True):
        restore(tf, session, where, weights, averaged=False)


def main(argv=None):
    """Evaluates, predicts or exports as the command line says; returns the exit code."""
    return runlog.guarded(run, arguments.parse_args(argv, "evaluate"))


if __name__ == "__main__":
    sys.exit(main())
