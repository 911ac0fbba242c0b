#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains SSD300 or SSD512 on VGG-16 on Pascal VOC (Liu et al. 2016, arXiv:1512.02325).

    bash test/train_full_1p.sh --data_path=DIR                 200 epochs with the documented recipe
    python train.py --data_path=DIR --vgg-dir=VGG --epochs=5   from VGG-16 weights

Reads top to bottom: data, graph, loop; the flags stand in arguments.py. What it prints and leaves on disk: README,
"Run folder".
"""
import collections
import contextlib
import itertools
import math
import os
import sys

import needs  # noqa: F401

# isort: split
import data_queue
import infer
import layouts
import ssdutils
import weights
from arguments import parse_args
from common import graph_files, runlog
from common.run import Run

EVAL_BATCH_SIZE = 8
SYNTHETIC_IMAGES, SYNTHETIC_CLASSES = 512, 20
NOT_FINITE = "lower --lr-values, give --warmup_steps or --clip_norm, or set --precision_mode=force_fp32"


def find_data(parsed):
    """The processed data set that --data_path means, data/ of this folder without it; None with --synthetic.

    A VOCdevkit tree is processed first, into data/prepared/ of this folder. The weights to start from are looked at,
    too, and say parsed.preset where the flags do not.

    Raises:
      DataError: there is no Pascal VOC, which says how to get it; or no such weights.
    """
    start = find_start(parsed)
    parsed.preset = parsed.preset or weights.preset_of(start, None)
    if parsed.synthetic:
        return None
    import process_dataset
    return process_dataset.prepare(parsed.data_path)


def find_start(parsed):
    """weights.Source of --init_from or --vgg_dir; None without them."""
    if parsed.init_from:
        return weights.find(parsed.init_from, colours=parsed.colours)
    return weights.find_vgg16(parsed.vgg_dir, parsed.colours) if parsed.vgg_dir else None


def load_data(parsed):
    """TrainingData of the flags; None with --synthetic."""
    folder = find_data(parsed)
    if folder is None:
        return None
    from training_data import TrainingData
    return TrainingData(folder)


def num_workers(parsed, ranks):
    """--num_workers, by default one for each core that this rank may use: the launcher shares them out."""
    if parsed.num_workers is not None:
        return parsed.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores if cores < (os.cpu_count() or 1) else cores // ranks)


def learning_rate(step, total_steps, warmup_steps, parsed):
    """The rate of a step, an int from 0.

    It rises linearly over warmup_steps, at most half the run, to the first of parsed.lr_values; then parsed.schedule is
    "steps", where lr_boundaries say after which steps the next value holds, or "cosine", from the first value to 0.
    """
    warmup_steps = min(warmup_steps, total_steps // 2)
    if step < warmup_steps:
        return parsed.lr_values[0] * (step + 1) / warmup_steps
    if parsed.schedule == "cosine":
        done_fraction = (step - warmup_steps) / (total_steps - warmup_steps)
        return parsed.lr_values[0] * 0.5 * (1.0 + math.cos(math.pi * done_fraction))
    return parsed.lr_values[sum(step >= boundary for boundary in parsed.lr_boundaries)]


Graph = collections.namedtuple("Graph", "images class_ids offsets rate confidence localisation update eval_images "
                                        "eval_results")


def build_graph(runtime, parsed, num_classes, evaluates, colours="keras"):
    """The training step and, if `evaluates`, the evaluation, on one set of variables.

    Args:
      colours: of layouts.COLOURS, whose mean the weights want taken off.
    Returns:
      Graph: placeholders images uint8 [batch_size, P, P, 3] BGR, class_ids int32 [batch_size, N] (background:
      num_classes), offsets float32 [batch_size, N, 4], rate float32 []; confidence, localisation float32 [], the parts
      of the loss (the weight decay is in the gradients), update (operation); eval_images uint8
      [EVAL_BATCH_SIZE, P, P, 3] or None, and eval_results, {tf.DType of the computation: float32 [EVAL_BATCH_SIZE, N,
      num_classes + 1 + 4]}.
    """
    tf = runtime.tf
    import ssdvgg
    tf.reset_default_graph()
    tf.set_random_seed(parsed.seed)
    preset = ssdutils.PRESETS[parsed.preset]
    boxes, pixels = len(ssdutils.default_boxes(preset)), [preset.image_px, preset.image_px, 3]
    images = tf.placeholder(tf.uint8, [parsed.batch_size] + pixels, "training_images")
    class_ids = tf.placeholder(tf.int32, [parsed.batch_size, boxes], "class_ids")
    offsets = tf.placeholder(tf.float32, [parsed.batch_size, boxes, 4], "offsets")
    rate = tf.placeholder(tf.float32, [], "learning_rate")
    mean_bgr = layouts.mean_bgr(colours)
    predictions = ssdvgg.predictions(images, preset, num_classes, runtime.compute_dtype, parsed.norm, True, mean_bgr)
    confidence, localisation = ssdvgg.losses(*predictions, class_ids, offsets)
    if parsed.optimizer == "adam":
        optimizer = tf.train.AdamOptimizer(rate, beta1=parsed.momentum)
    else:
        optimizer = tf.train.MomentumOptimizer(rate, parsed.momentum)
    optimizer = runtime.wrap_optimizer(optimizer)
    gradients, variables = zip(*optimizer.compute_gradients(
        confidence + localisation, var_list=ssdvgg.trained(tf.trainable_variables(), parsed.freeze)))
    if parsed.clip_norm:
        gradients, _ = tf.clip_by_global_norm(gradients, parsed.clip_norm)
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        update = optimizer.apply_gradients(
            [(gradient + parsed.weight_decay * variable if len(variable.shape) == 4 else gradient, variable)
             for gradient, variable in zip(gradients, variables)], global_step=tf.train.get_or_create_global_step())
    eval_images, eval_results = None, {}
    if evaluates:
        eval_images = tf.placeholder(tf.uint8, [EVAL_BATCH_SIZE] + pixels, "image_input")
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            for dtype in dict.fromkeys([tf.float32, runtime.compute_dtype]):
                eval_results[dtype] = ssdvgg.result(
                    *ssdvgg.predictions(eval_images, preset, num_classes, dtype, parsed.norm, mean_bgr=mean_bgr))
    return Graph(images, class_ids, offsets, rate, confidence, localisation, update, eval_images, eval_results)


def train(parsed):
    """Runs the training; returns the exit code."""
    data, start = load_data(parsed), find_start(parsed)
    preset = ssdutils.PRESETS[parsed.preset]
    classes = list(data.classes) if data else ["class %d" % number for number in range(SYNTHETIC_CLASSES)]
    training_images = min(data.num_train if data else SYNTHETIC_IMAGES, parsed.train_images or sys.maxsize)
    eval_images = (training_images if parsed.eval_set == "train" else data.num_valid) if data else 0
    eval_images = min(eval_images, sys.maxsize if parsed.eval_images is None else parsed.eval_images)

    with Run(parsed, training_images, drop_remainder=False) as run:
        restored = weights.described(*run.restored, parsed.colours) if run.restored else None
        if restored:
            weights.preset_of(restored, parsed.preset)
            weights.check_norm(restored, parsed.norm)
            if data:
                weights.check_classes(restored, classes, data.folder)
        source, loaded = restored or start, None
        runtime = run.open_runtime(large_kernels=True)
        tf, workers = runtime.tf, num_workers(parsed, run.ranks)
        names = sorted(layouts.COLOURS)
        colours = names[runtime.broadcast_int(names.index(source.colours if source else "keras"))]

        # Graph
        graph = build_graph(runtime, parsed, len(classes), eval_images > 0, colours)
        saver = tf.train.Saver(max_to_keep=0)
        session = runtime.open_session()
        session.run(tf.global_variables_initializer())
        if restored and "step" in restored.state:
            graph_files.restore(tf, session, restored.path, may_be_missing=runtime.may_be_missing)
        elif restored:  # the published reference's: weights alone
            weights.restore(tf, session, restored, parsed.preset)
        elif start:
            loaded = weights.load_fitting(tf, session, start, classes)
        runtime.broadcast(tf.global_variables())

        def evaluate():
            # The figure that stays must not depend on hardware; those before it may be had sooner.
            is_last = session.run(tf.train.get_global_step()) == run.total_steps
            dtype = tf.float32 if is_last or parsed.eval_precision == "float32" else runtime.compute_dtype
            mine = infer.detections(session, graph.eval_images, graph.eval_results[dtype], preset, data,
                                    parsed.eval_set, eval_images, workers, run.rank, run.ranks)
            detections = infer.of_all_ranks(itertools.takewhile(lambda _: not run.stop.asked, mine), eval_images,
                                            runtime)
            precision = infer.evaluate(detections, data, parsed.eval_set)
            if runtime.all_sum([bool(run.stop.asked)])[0]:  # before the last image, perhaps
                return None
            return dict(set=parsed.eval_set, images=eval_images, precision=dtype.name, **infer.figures(precision))

        # Loop
        if run.rank == 0:
            runtime.warnings[:0] = warnings_about(parsed, data, source, loaded, eval_images)
        run.begin(tf.global_variables(), lambda prefix: graph_files.save(tf, saver, session, prefix),
                  evaluate if eval_images else None, "map",
                  state={"network": "ssd_vgg", "preset": preset.name, "classes": classes, "norm": parsed.norm,
                         "colours": colours},
                  peak_rate=parsed.lr_values[0], advice=NOT_FINITE, model="SSD-VGG", network=preset.name,
                  classes=len(classes), start=source.path if source else "scratch", colours=colours, workers=workers,
                  **(graph_files.transfer_fields(start.path, loaded) if loaded else {}),
                  parameters=sum(variable.shape.num_elements() for variable in tf.trainable_variables()))
        with training_batches(parsed, data, runtime, run.first_step, run.total_steps) as batches:
            for step in run.steps():
                _, (images, class_ids, offsets) = run.wait(batches)
                lr = learning_rate(step - 1, run.total_steps, parsed.warmup_steps, parsed)
                confidence, localisation, _ = session.run(
                    [graph.confidence, graph.localisation, graph.update],
                    {graph.images: images, graph.class_ids: class_ids, graph.offsets: offsets, graph.rate: lr})
                run.ended(step, lr, confidence_loss=confidence, localisation_loss=localisation)
    return run.exit_code


def warnings_about(parsed, data, source, loaded, eval_images):
    """Sentences about what the run starts from and what it will not tell."""
    if not source:
        yield "without --vgg_dir the network learns from scratch, which takes many more steps than from VGG-16"
    if loaded and "mod_conv6/filter" in loaded.anew:
        yield "%s has no fc6 and fc7 that fit: mod_conv6 and mod_conv7 begin anew" % source.path
    if data and not eval_images and parsed.eval_images != 0:
        yield "%s holds no validation images, so there will be no mAP" % data.folder


def training_batches(parsed, data, runtime, first_step, total_steps):
    """Context manager of an iterator over (step, (images, class_ids, offsets)), as the placeholders of Graph."""
    if data is None:
        return contextlib.nullcontext(itertools.repeat((0, synthetic_batch(parsed))))
    from training_data import TrainingSamples
    samples = TrainingSamples(data, ssdutils.PRESETS[parsed.preset], parsed.seed, parsed.batch_size, runtime.rank,
                              runtime.ranks, parsed.augment, parsed.train_images)
    return data_queue.BatchQueue(samples, parsed.batch_size, first_step, total_steps,
                                 num_workers(parsed, runtime.ranks))


def synthetic_batch(parsed):
    """Random images with three random objects each, as training_batches gives them."""
    import numpy as np
    random = np.random.RandomState(parsed.seed)
    preset = ssdutils.PRESETS[parsed.preset]
    images = random.randint(0, 256, (parsed.batch_size, preset.image_px, preset.image_px, 3)).astype(np.uint8)
    targets = [ssdutils.targets(random.uniform(0.2, 0.8, (3, 4)).astype(np.float32),
                                random.randint(0, SYNTHETIC_CLASSES, 3), ssdutils.default_boxes(preset),
                                SYNTHETIC_CLASSES) for _ in images]
    return (images,) + tuple(map(np.stack, zip(*targets)))


def main(argv=None):
    return runlog.guarded(train, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
