#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains ShuffleNetV2 on ImageNet (Ma et al. 2018, arXiv:1807.11164).

    bash test/train_full_1p.sh --data_dir=DIR             133 epochs with the recipe of the README
    python train.py --data_dir=DIR --max_train_steps=100  the documented hyper-parameters

Reads top to bottom: data, graph, loop; the flags stand in arguments.py. What it prints and leaves on disk: README,
"Run folder".
"""
import collections
import math
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import pretrained  # noqa: E402
from arguments import TRAINING_MODES, parse_args  # noqa: E402
from common import checkpoint, graph_files, progress, ranks, runlog  # noqa: E402
from common.files import DataError  # noqa: E402
from common.run import Run  # noqa: E402

EVAL_BATCH_SIZE = 50  # divides ImageNet's 50,000
SYNTHETIC_IMAGES = 1024
END_LEARNING_RATE = 1e-6  # of the linear decay, the published reference's


def find_data(parsed):
    """Where the shards are: (training folder, evaluation folder or None); None with --synthetic.

    With --prepare, class folders are first made into shards, below data/prepared/ of this folder. Sets --num_classes
    where it was not given.

    Raises:
      DataError: there are no shards, which says how to make them.
    """
    from_data = vars(parsed).pop("classes_from_data", False)
    if parsed.synthetic:
        return None
    import prepare
    folders = prepare.find_shards(parsed.data_path, os.path.join(HERE, "data"), parsed.mode, parsed.prepare)
    if from_data:
        parsed.num_classes = prepare.count_classes(folders, parsed.num_classes)
    return folders


Data = collections.namedtuple("Data", "train evaluation")


def load_data(parsed):
    """The shards of the flags as Data of input_pipeline.Shards; both None with --synthetic."""
    from input_pipeline import Shards
    found = find_data(parsed)
    if found is None:
        return Data(None, None)
    return Data(*(Shards(folder, parsed.num_classes, parsed.max_bad_records) if folder else None for folder in found))


Graph = collections.namedtuple(
    "Graph", "is_fed next_batch images labels rate loss update averages eval_figures eval_start")


def build_graph(runtime, parsed, data, first_step, total_steps, rate_of=None):
    """The training step, and the evaluation with and without moving averages, on one set of variables.

    Args:
      rate_of: step, an int from 0 -> learning rate; for an NPU.
    Returns:
      Graph: is_fed (bool: whether images, labels and rate are placeholders, or those of next_batch, because a device
      that loops over steps cannot be fed: an NPU); next_batch (images, labels) of the input pipeline and its
      initializer; images uint8 [batch_size, train_px, train_px, 3], labels int32 [batch_size], rate float32 []; loss
      float32 [] (without weight decay), update (operation), averages (of the weights); eval_figures: float32 [2, 3] of
      model.figures, float32 [] images counted; eval_start.
    """
    tf = runtime.tf
    import architecture
    import input_pipeline
    import model
    tf.reset_default_graph()
    tf.set_random_seed(parsed.seed)
    shorter_px = input_pipeline.shorter_px_of(parsed.variant, parsed.depth_multiplier)

    def training_data(rate_of=None):
        return input_pipeline.training_data(
            tf, data.train, first_step, total_steps, parsed.batch_size, parsed.threads, parsed.colour_jitter > 0,
            rate_of=rate_of, seed=parsed.seed, min_crop_area=parsed.min_crop_area, colour_jitter=parsed.colour_jitter,
            augment=parsed.augment, shorter_px=shorter_px, side_px=parsed.train_px, rank=runtime.rank,
            ranks=runtime.ranks)

    next_batch, is_fed = None, runtime.device != "npu"
    if not is_fed:
        next_batch = training_data(rate_of) if data.train is not None else input_pipeline.repeated_batch(
            tf, synthetic_batch(parsed), first_step, total_steps, rate_of)
        images, labels, rate = next_batch[0]
    else:
        shape = [parsed.batch_size, parsed.train_px, parsed.train_px, 3]
        images = tf.placeholder(tf.uint8, shape, "training_images")
        labels = tf.placeholder(tf.int32, shape[:1], "training_labels")
        rate = tf.placeholder(tf.float32, [], "learning_rate")
    network = dict(classes=parsed.num_classes, width=parsed.depth_multiplier, variant=parsed.variant)
    scores = architecture.logits(images, True, version=parsed.version, compute_dtype=runtime.compute_dtype,
                                 fuse=runtime.fuse, freeze=parsed.freeze, **network)
    loss = model.smoothed_cross_entropy(scores, labels, parsed.label_smoothing)
    averages = model.make_averages(parsed.ema_decay)
    update = model.update_op(loss, rate, parsed.momentum, parsed.weight_decay, averages, runtime.wrap_optimizer)
    if next_batch is None and data.train is not None:
        next_batch = training_data()
    if data.evaluation is None:
        return Graph(is_fed, next_batch, images, labels, rate, loss, update, averages, None, None)
    (eval_images, eval_labels, counted), eval_start = input_pipeline.eval_data(
        tf, data.evaluation, EVAL_BATCH_SIZE, parsed.threads, runtime.rank, runtime.ranks, shorter_px)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        plain = architecture.logits(eval_images, False, **network)
    averaged = model.averaged_logits(eval_images, averages, **network)
    figures = tf.stack([model.figures(averaged, eval_labels, counted), model.figures(plain, eval_labels, counted)])
    return Graph(is_fed, next_batch, images, labels, rate, loss, update, averages,
                 (figures, tf.reduce_sum(counted)), eval_start)


def start_from(tf, session, parsed, start, classes, averages):
    """Gives the network, and the moving averages of its weights, what fits of other weights.

    Args:
      start: of pretrained.find; its moving averages are taken where it has them.
      classes: class ids of the data, or None.
      averages: of the graph.
    Returns:
      dict, fields of the [run] line.
    Raises:
      DataError: they are of another network.
    """
    import model
    where, weights, state = start
    values = pretrained.values(tf, where, weights, averaged=True)
    if values is None:
        values = pretrained.values(tf, where, weights, averaged=False)
    if "variant" not in state:
        pretrained.check_same_network(parsed, where, pretrained.described(where, values))
    loaded = graph_files.load_fitting(tf, session, values, where, model.network_variables(),
                                      pretrained.head_of_others(state, classes))
    session.run([averages.average(variable).assign(variable) for variable in tf.trainable_variables()])
    return graph_files.transfer_fields(where, loaded)


def whole_loops(parsed, wanted_steps, first_step, runtime):
    """The run's last step, in whole loops of the device: what is left over of the epochs is cut off, with a warning.

    Raises:
      DataError: the steps that the user counted are not whole loops, or there is no whole one.
    """
    per_run = runtime.steps_per_run
    left_over = (wanted_steps - first_step) % per_run
    if left_over and (parsed.train_steps or wanted_steps - first_step < per_run):
        raise DataError(
            "--iterations_per_loop", "a divisor of the %d steps that are to be done" % (wanted_steps - first_step),
            per_run, "give --iterations_per_loop=1, or another --max_train_steps")
    if left_over:
        runtime.warnings.append("the last %d of %d steps are left out, so that all are whole loops of "
                                "--iterations_per_loop=%d" % (left_over, wanted_steps, per_run))
    if any(every % per_run for every in (parsed.log_every, parsed.save_every)):
        runtime.warnings.append("[train] lines and checkpoints wait for the end of a loop of --iterations_per_loop=%d"
                                % per_run)
    return wanted_steps - left_over


def learning_rate(step, total_steps, warmup_steps, parsed):
    """The rate of a step, an int from 0.

    It rises linearly over warmup_steps, at most half the run, then follows parsed.decay: "linear" to END_LEARNING_RATE
    (Ma et al. 2018, section 4), or "cosine" (Loshchilov and Hutter 2017, eq. 5, one period, down to 0).
    """
    warmup_steps = min(warmup_steps, total_steps // 2)
    if step < warmup_steps:
        return parsed.lr * (step + 1) / warmup_steps
    done_fraction = (step - warmup_steps) / (total_steps - warmup_steps)
    if parsed.decay == "cosine":
        return parsed.lr * 0.5 * (1.0 + math.cos(math.pi * done_fraction))
    return END_LEARNING_RATE + (parsed.lr - END_LEARNING_RATE) * (1.0 - done_fraction)


def train(parsed):
    """Runs the training; returns the exit code."""
    # Data
    if parsed.rank_size != ranks.read()[1]:
        raise DataError("--rank_size", "%d, as RANK_SIZE says" % ranks.read()[1], parsed.rank_size,
                        "give both the same number; test/*_8p.sh start eight ranks")
    data = load_data(parsed)
    classes = data.train and data.train.classes
    start = pretrained.find(parsed.init_from) if parsed.init_from and ranks.is_rank_0() else None
    if start:
        pretrained.check_same_network(parsed, start[0], start[2])

    with Run(parsed, SYNTHETIC_IMAGES if data.train is None else len(data.train)) as run:
        runtime = run.open_runtime(steps_per_run=parsed.iterations_per_loop, bfloat16_on_cpu=False)
        run.total_steps = whole_loops(parsed, run.total_steps, run.first_step, runtime)
        warmup_steps = int(round(parsed.warmup_epochs * run.steps_per_epoch))
        tf = runtime.tf

        def rate_of(step):
            return learning_rate(step, run.total_steps, warmup_steps, parsed)

        # Graph
        import model
        graph = build_graph(runtime, parsed, data, run.first_step, run.total_steps, rate_of)
        saver = tf.train.Saver(max_to_keep=0)
        session = runtime.open_session()
        session.run(tf.global_variables_initializer())
        transferred = {}
        if run.restored:
            if classes and run.restored[1].get("classes"):
                checkpoint.check_classes(*run.restored, classes, "--data_dir")
            graph_files.restore(tf, session, run.restored[0], may_be_missing=runtime.may_be_missing)
        elif start:
            transferred = start_from(tf, session, parsed, start, classes, graph.averages)
        runtime.broadcast(tf.global_variables())
        update = runtime.looped(session, graph.update)
        if graph.next_batch:
            session.run(graph.next_batch[1])

        def evaluate():
            return model.mean_figures(eval_sums(runtime, session, graph, data.evaluation), runtime.all_sum)

        # Loop
        run.begin(tf.global_variables(),
                  (lambda prefix: graph_files.save(tf, saver, session, prefix)) if parsed.do_checkpoint else None,
                  evaluate if data.evaluation and parsed.mode == "train_and_evaluate" else None, "top1",
                  state={"network": "shufflenet_v2", "variant": parsed.variant,
                         "depth_multiplier": parsed.depth_multiplier, "num_classes": parsed.num_classes,
                         "classes": classes},
                  peak_rate=parsed.lr, look_every=parsed.iterations_per_loop, log_name=parsed.log_name,
                  new_warnings=lambda: problems_of(data), model="ShuffleNetV2", network="x" + parsed.depth_multiplier,
                  variant=parsed.variant, classes=parsed.num_classes, train_px=parsed.train_px,
                  parameters=model.count_parameters(),
                  **transferred)
        batches = training_batches(parsed, tf, session, graph, data.train)
        for step in run.steps():
            lr, feed = rate_of(step - 1), {}
            if graph.is_fed:
                images, labels = run.wait(batches)
                feed = {graph.images: images, graph.labels: labels, graph.rate: lr}
            loss, _ = run_session(tf, session, [graph.loss, update], feed, data.train)
            run.ended(step, lr, loss=loss)
    return run.exit_code


def run_session(tf, session, fetches, feed, shards):
    """session.run; a record that cannot be read is named instead of the operation that met it."""
    try:
        return session.run(fetches, feed)
    except tf.errors.OpError as error:
        raise (shards and shards.error) or error from None


def training_batches(parsed, tf, session, graph, shards):
    """Yields images and labels for the placeholders of a graph that is fed."""
    batch = synthetic_batch(parsed)
    while graph.is_fed:
        yield batch if shards is None else run_session(tf, session, graph.next_batch[0], None, shards)


def eval_sums(runtime, session, graph, shards):
    """Yields this rank's sums of figures, and the images counted, by batches; see model.mean_figures."""
    import numpy as np

    from input_pipeline import eval_batches
    yield np.zeros([2, 3]), 0  # a rank may have no batch of its own
    session.run(graph.eval_start)
    for _ in progress.over(range(runtime.rank, eval_batches(shards, EVAL_BATCH_SIZE), runtime.ranks), "evaluating"):
        yield run_session(runtime.tf, session, graph.eval_figures, None, shards)


def problems_of(data):
    """Sentences about records that were passed over since the last call."""
    return ["passed over: %s (%d so far)" % (problem, len(shards.bad))
            for shards in data if shards is not None for problem in shards.new_problems()]


def synthetic_batch(parsed):
    """Random images and labels: uint8 [batch_size, train_px, train_px, 3], int32 [batch_size]."""
    import numpy as np
    random = np.random.RandomState(parsed.seed)
    return (random.randint(0, 256, (parsed.batch_size, parsed.train_px, parsed.train_px, 3)).astype(np.uint8),
            random.randint(0, parsed.num_classes, parsed.batch_size).astype(np.int32))


def main(argv=None, mode="train"):
    parsed = parse_args(argv, mode)
    if parsed.mode in TRAINING_MODES:
        return runlog.guarded(train, parsed)
    import eval as evaluation
    return runlog.guarded(evaluation.run, parsed)


if __name__ == "__main__":
    sys.exit(main())
