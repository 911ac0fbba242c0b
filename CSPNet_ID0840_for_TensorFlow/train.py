#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains CSPDarknet-53 on CIFAR-10 (Wang et al. 2020, arXiv:1911.11929).

    bash test/train_full_1p.sh --data_path=DIR            50 epochs with the recipe of the README
    python train.py --data_path=DIR --epochs=50           the documented hyper-parameters
    python train.py --data_path=PHOTOS --init_from=RUN    your own classes, from these weights

Reads top to bottom: flags, data, graph, loop. What it prints and leaves on disk: README, "Run folder".
"""
import collections
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PREPARED = os.path.join(HERE, "data", "prepared")  # arrays of class folders
import needs  # noqa: E402,F401

# isort: split
from common import checkpoint, cifar10, class_folders, flags, ranks, recipe, runlog  # noqa: E402
from common.run import Run  # noqa: E402

EVAL_BATCH_SIZE = 250
PARTS = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5")  # of models/cspdarknet53.py, for --freeze


def parse_args(argv=None):
    """Flags of this folder; the defaults are the documented ones."""
    parser = flags.Parser(prog="train.py", description="Trains CSPDarknet-53 on CIFAR-10.")
    group = parser.add_argument_group("recipe")
    group.add_argument("--LEARNING_RATE", type=flags.number(above=0), default=1e-3, help="rate after warm-up")
    group.add_argument("--MOMENTUM", type=flags.number(at_least=0, below=1), default=0.9, help="Nesterov momentum")
    group.add_argument("--LAMBDA", type=flags.number(at_least=0), default=5e-4,
                       help="weight decay of kernels; scales and shifts have none")
    group.add_argument("--warmup_steps", type=flags.integer(0), default=500, help="linear warm-up")
    parser.add_bool(group, "--augment", True, help="random crop and mirror")
    group.add_argument("--cutout", type=flags.integer(0), default=0, metavar="PX", help=(
        "side of a square that each image loses (DeVries and Taylor 2017, arXiv:1708.04552: 16)"))
    group.add_argument("--bias_rate", type=flags.number(at_least=0), default=1.0, metavar="FACTOR", help=(
        "rate of batch normalisation's shifts, times that of the rest (Jordan 2024, arXiv:2404.00498: 64)"))
    recipe.add_flags(parser, group, "cosine", norm_momentum=0.99)
    flags.add_run_group(parser, epochs=50, batch_size=64, precision_mode="allow_mix_precision",
                        spelling={"log_every": "--DISPLAY_STEP", "eval_every": "--VAL_EPOCH"})
    flags.add_transfer_group(parser, PARTS)
    parsed = parser.parse_args(argv)
    parsed.output_path = parsed.output_path or flags.default_output_path(HERE)
    return parsed


def find_data(parsed):
    """Where the data is: --data_path, else dataset/ when something lies there, None with --synthetic.

    Raises:
      DataError: there is neither CIFAR-10 nor class folders; says what to give.
    """
    if parsed.synthetic:
        return None
    default = os.path.join(HERE, "dataset")
    filled = any(name.startswith("cifar-10") for name in os.listdir(default)) if os.path.isdir(default) else False
    return class_folders.find_images(parsed.data_path or (default if filled else None), PREPARED)


def load_data(parsed):
    """The data set of the flags: CIFAR-10 or class folders, or 2,048 random images with --synthetic."""
    path = find_data(parsed)
    data = class_folders.load_images(path, parsed.seed) if path else cifar10.random_cifar10(2048, 500, parsed.seed)
    return class_folders.judged_by_training_images(data, parsed.hold_out, parsed.seed)


Graph = collections.namedtuple("Graph", "images labels rate loss update eval_images eval_scores averages")
Averages = collections.namedtuple("Averages", "follow reset plain_scores")


def build_graph(runtime, parsed, classes=10):
    """The training step and the evaluation, on one set of variables.

    Returns:
      Graph: placeholders images uint8 [batch_size, 32, 32, 3], labels int32 [batch_size], rate float32 [];
      loss float32 [] (cross-entropy alone: the weight decay is in the gradients), update (operation);
      eval_images uint8 [EVAL_BATCH_SIZE, 32, 32, 3], eval_scores float32 [EVAL_BATCH_SIZE, classes], with --ema_decay
      by the averages; averages (None without): operations that let them follow the weights and begin at them, and
      plain_scores, by the weights.
    """
    tf = runtime.tf
    from models import cspdarknet53
    tf.reset_default_graph()
    tf.set_random_seed(parsed.seed)
    image_shape = [cspdarknet53.IMAGE_PX, cspdarknet53.IMAGE_PX, 3]
    images = tf.placeholder(tf.uint8, [parsed.batch_size] + image_shape, "images")
    labels = tf.placeholder(tf.int32, [parsed.batch_size], "labels")
    rate = tf.placeholder(tf.float32, [], "learning_rate")
    scores = cspdarknet53.logits(images, True, classes, parsed.freeze, runtime.compute_dtype, runtime.fuse,
                                 parsed.norm_momentum)
    loss = cross_entropy(tf, labels, scores, parsed.label_smoothing)
    optimizer = runtime.wrap_optimizer(tf.train.MomentumOptimizer(rate, parsed.MOMENTUM, use_nesterov=True))
    gradients = []
    for gradient, variable in optimizer.compute_gradients(
            loss, var_list=cspdarknet53.learning_variables(parsed.freeze)):
        if len(variable.shape) > 1:
            gradient += parsed.LAMBDA * variable
        elif parsed.bias_rate != 1 and variable.op.name.endswith("/beta"):
            gradient *= parsed.bias_rate
        gradients.append((gradient, variable))
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        update = optimizer.apply_gradients(gradients, global_step=tf.train.get_or_create_global_step())
    eval_images = tf.placeholder(tf.uint8, [EVAL_BATCH_SIZE] + image_shape, "eval_images")
    eval_scores = cspdarknet53.logits(eval_images, False, classes)  # float32: no figure may depend on the hardware
    averages = None
    if parsed.ema_decay:
        average, *operations = average_weights(tf, parsed.ema_decay)
        averages = Averages(*operations, plain_scores=eval_scores)
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=lambda getter, *args, **words: average(
                getter(*args, **words))):
            eval_scores = cspdarknet53.logits(eval_images, False, classes)
    return Graph(images, labels, rate, loss, update, eval_images, eval_scores, averages)


def cross_entropy(tf, labels, scores, smoothing):
    """Mean over a batch, float32 [], of labels int32 [B] and scores float32 [B, classes]."""
    if not smoothing:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores))
    classes = int(scores.shape[1])
    smoothed = tf.one_hot(labels, classes, 1.0 - smoothing + smoothing / classes, smoothing / classes)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=smoothed, logits=scores))


def average_weights(tf, decay):
    """Moving averages of all the network's variables, to be moved every recipe.AVERAGE_EVERY_STEPS steps.

    Returns:
      function(variable) -> its average (a variable), operations that move them and that set them to the weights.
    """
    from common import graph_files
    every, variables = recipe.AVERAGE_EVERY_STEPS, list(graph_files.network_variables(tf).values())
    # By the number of moves the decay begins at 0.1: an average of two epochs' weights is not of the first ones.
    moving = tf.train.ExponentialMovingAverage(decay ** every, tf.train.get_global_step() // every)
    follow = moving.apply(variables)
    return moving.average, follow, tf.group(*[moving.average(variable).assign(variable) for variable in variables])


def learning_rate(step, total_steps, warmup_steps, parsed):
    """The rate of a step, an int from 0: see recipe.learning_rate."""
    return recipe.learning_rate(step, total_steps, warmup_steps, parsed.schedule, parsed.LEARNING_RATE)


def load_weights(tf, session, start, class_names):
    """Fills the network from the checkpoint `start`, (prefix, state); returns fields of the [run] line."""
    import published
    from common import graph_files
    from models import cspdarknet53
    source, state = start
    if published.is_published(graph_files.stored_shapes(tf, source)):
        source = published.read(tf, source, {name: variable.shape.as_list() for name, variable in
                                             graph_files.network_variables(tf).items()})
    same_classes = list(class_names) == state.get("classes", list(cifar10.CIFAR10_CLASSES))
    loaded = graph_files.load_fitting(tf, session, source, "--init_from=%s" % start[0],
                                      anew=() if same_classes else cspdarknet53.HEAD)
    return graph_files.transfer_fields(start[0], loaded)


def train(parsed):
    """Runs the training; returns the exit code."""
    data = load_data(parsed)
    start = checkpoint.find_checkpoint(parsed.init_from) if parsed.init_from and ranks.is_rank_0() else None
    with Run(parsed, len(data.train_images)) as run:
        runtime = run.open_runtime()
        tf = runtime.tf
        from common import graph_files
        from models import cspdarknet53
        from utils import metrics, predict, prefetch, training_batch

        # Graph
        graph = build_graph(runtime, parsed, len(data.class_names))
        saver = tf.train.Saver(max_to_keep=0)
        session = runtime.open_session()
        session.run(tf.global_variables_initializer())
        transfer = {}
        if run.restored:
            checkpoint.check_classes(*run.restored, data.class_names, "--data_path")
            graph_files.restore(tf, session, run.restored[0], may_be_missing=runtime.may_be_missing)
        elif start:
            transfer = load_weights(tf, session, start, data.class_names)
        if graph.averages and not run.restored:
            session.run(graph.averages.reset)
        runtime.broadcast(tf.global_variables())

        def evaluate():
            images, labels = (part[run.rank::run.ranks] for part in (data.test_images, data.test_labels))
            scores = predict(session, graph.eval_scores, graph.eval_images, images)
            fields = metrics(scores, labels)
            if graph.averages:
                plain = predict(session, graph.averages.plain_scores, graph.eval_images, images)
                fields["top1_no_ema"] = metrics(plain, labels)["top1"]
            if parsed.tta:
                mirrored = predict(session, graph.eval_scores, graph.eval_images, images[:, :, ::-1])
                fields["top1_tta"] = metrics(scores + mirrored, labels)["top1"]
            return dict(images=len(data.test_labels), **runtime.mean(fields, len(labels)))

        # Loop
        run.begin(tf.global_variables(), lambda prefix: graph_files.save(tf, saver, session, prefix), evaluate, "top1",
                  state={"network": cspdarknet53.NAME, "classes": list(data.class_names), "seed": parsed.seed},
                  peak_rate=parsed.LEARNING_RATE,
                  model="CSPNet", network=cspdarknet53.NAME, classes=len(data.class_names), **transfer,
                  bias_rate=parsed.bias_rate, cutout=parsed.cutout, **recipe.describe(parsed),
                  parameters=sum(variable.shape.num_elements() for variable in tf.trainable_variables()))
        with prefetch(lambda step: training_batch(data.train_images, data.train_labels, step, parsed.batch_size,
                                                  parsed.seed, parsed.augment, run.rank, run.ranks, parsed.flip,
                                                  parsed.crop, parsed.cutout),
                      run.first_step, run.total_steps) as batches:
            for step in run.steps():
                images, labels = run.wait(batches)
                lr = learning_rate(step - 1, run.total_steps, parsed.warmup_steps, parsed)
                loss, _ = session.run([graph.loss, graph.update],
                                      {graph.images: images, graph.labels: labels, graph.rate: lr})
                if graph.averages and step % recipe.AVERAGE_EVERY_STEPS == 0:
                    session.run(graph.averages.follow)
                run.ended(step, lr, loss=loss)
    return run.exit_code


def main(argv=None):
    return runlog.guarded(train, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
