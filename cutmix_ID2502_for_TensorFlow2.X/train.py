#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains ResNet-20 on CIFAR-10 with CutMix.

    bash test/train_full_1p.sh --data_path=DIR                       15 epochs with the recipe of the README
    python train.py --data_path=DIR --epochs=15                      the published example's hyper-parameters
    python train.py --mode=evaluate --checkpoint_dir=test/output/0 --data_path=DIR --confusion_png=confusion.png
    python train.py --data_path=PHOTOS --init_from=RUN               your own classes, from these weights
    python train.py --preview=cutmix.png --data_path=DIR             a picture of augmented images

Reads top to bottom: flags, data, network, step, loop. The loop is written out instead of calling fit: it resumes in
mid-epoch, reads the same as its sister folders' and spends less time between steps. What it prints and leaves on disk:
README, "Run folder".
"""
import argparse
import collections
import functools
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PREPARED = os.path.join(HERE, "data", "prepared")  # arrays of class folders
import needs  # noqa: E402,F401

# isort: split
import model_files  # noqa: E402
from common import checkpoint, cifar10, class_folders, confusion, flags, pictures, ranks, recipe, runlog  # noqa: E402
from common.run import Run  # noqa: E402

PREVIEW_IMAGES = 32
PARTS = ("stem", "stage1", "stage2", "stage3")  # of resnet.py, for --freeze


def parse_args(argv=None):
    """Flags of this folder; the defaults are the documented ones, and the published example's where none is."""
    parser = flags.Parser(prog="train.py", description="Trains ResNet-20 on CIFAR-10 with CutMix.")
    what = parser.add_argument_group("what to do")
    what.add_argument("--mode", choices=("train", "evaluate"), default="train", help="what to do")
    what.add_argument("--checkpoint_dir", type=flags.input_path, metavar="PATH",
                      help="of --mode=evaluate: a run folder, a checkpoint's folder, an .h5 file or a SavedModel; "
                           "default test/output/$ASCEND_DEVICE_ID")
    what.add_argument("--confusion_png", type=flags.output_path, metavar="FILE.png",
                      help="of --mode=evaluate: write the confusion matrix as a picture")
    what.add_argument("--preview", type=flags.output_path, metavar="FILE.png",
                      help="write a picture of augmented images and end")
    parser.add_bool(what, "--eval_static", True, help="pad the last evaluation batch, so that all have one shape")
    group = parser.add_argument_group("recipe")
    group.add_argument("--augment", choices=("cutmix", "none"), default="cutmix", help="mix images, or do not",
                       type=lambda text: {"true": "cutmix", "false": "none"}.get(text.lower(), text))
    group.add_argument("--no_augment", dest="augment", action="store_const", const="none", help=argparse.SUPPRESS)
    group.add_argument("--alpha", type=flags.number(above=0), default=0.25, help="lambda ~ Beta(alpha, alpha)")
    group.add_argument("--cutmix_probability", type=flags.number(at_least=0), default=1.0,
                       help="share of the images that get a box")
    group.add_argument("--clean_share", type=flags.number(at_least=0, below=1), default=0.0, metavar="FRACTION", help=(
        "this share of the run, its end, mixes none (He et al. 2019, arXiv:1909.09148: to end on images as they are)"))
    parser.add_bool(group, "--crop_and_flip", False, help="random crop and mirror, before CutMix")
    group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="sgd: Nesterov momentum 0.9")
    group.add_argument("--learning_rate", type=flags.number(above=0), default=1e-3, help="rate after warm-up")
    group.add_argument("--warmup_steps", type=flags.integer(0), default=0, help="linear warm-up")
    group.add_argument("--weight_decay", type=flags.number(at_least=0), default=2e-4,
                       help="times the kernels, added to their gradients: twice the factor of an L2 penalty")
    recipe.add_flags(parser, group, "constant", norm_momentum=0.9)
    flags.add_run_group(parser, epochs=15, batch_size=32, precision_mode="allow_mix_precision")
    flags.add_transfer_group(parser, PARTS)
    parser.set_defaults(mixlist_file=os.path.join(HERE, "configs", "ops_info.json"))
    parsed = parser.parse_args(argv)
    if parsed.cutmix_probability > 1:
        parser.error("argument --cutmix_probability: found '%g', expected a number from 0 to 1"
                     % parsed.cutmix_probability)
    folder = flags.default_output_path(HERE)
    if parsed.mode == "evaluate":
        parsed.checkpoint_dir = parsed.checkpoint_dir or folder
        # Where a launcher puts its log; not the run that is evaluated.
        folder = os.path.join(os.path.dirname(folder), "evaluate-" + os.path.basename(folder))
    elif parsed.confusion_png:
        parser.error("argument --confusion_png: is for --mode=evaluate")
    elif parsed.checkpoint_dir:
        parser.error("argument --checkpoint_dir: is for --mode=evaluate; to train on from there give --resume=PATH")
    parsed.output_path = parsed.output_path or folder
    return parsed


def find_data(parsed):
    """Where the data is: --data_path, None with --synthetic.

    Raises:
      DataError: there is neither CIFAR-10 nor class folders; says what to give.
    """
    return None if parsed.synthetic else class_folders.find_images(parsed.data_path, PREPARED)


def load_data(parsed, seed=None):
    """The data set of the flags: CIFAR-10 or class folders, or 2,048 random images with --synthetic.

    Args:
      seed: of what is held out of class folders; None for the flags'.
    """
    path = find_data(parsed)
    data = cifar10.random_cifar10(2048, 500, parsed.seed) if path is None else class_folders.load_images(
        path, parsed.seed if seed is None else seed)
    return class_folders.judged_by_training_images(data, parsed.hold_out, parsed.seed)


def learning_rate(step, total_steps, warmup_steps, parsed):
    """The rate of a step, an int from 0: see recipe.learning_rate."""
    return recipe.learning_rate(step, total_steps, warmup_steps, parsed.schedule, parsed.learning_rate)


Training = collections.namedtuple("Training", "network optimizer step")


def build_training(runtime, parsed, classes=10):
    """The network in its form for training, and one step as a compiled function.

    Returns:
      Training: network (keras.Model), optimizer (its variables exist), and step: (images uint8 [B, 32, 32, 3], labels
      float32 [B, classes], rate float32 []) -> loss float32 [] (cross-entropy alone: the decay is in the gradients).
    """
    tf = runtime.tf
    import layers
    import resnet
    normalise = functools.partial(layers.fused_normalise, momentum=parsed.norm_momentum)
    network = resnet.resnet20(parsed.seed, normalise, layers.dtype_policy(runtime.compute_dtype), classes,
                              parsed.freeze)
    variables = network.trainable_variables
    watched = [getattr(variable, "_value", variable) for variable in variables]  # Keras 3 wraps TensorFlow's
    if parsed.optimizer == "sgd":
        optimizer = tf.keras.optimizers.SGD(parsed.learning_rate, momentum=0.9, nesterov=True)
    else:
        optimizer = tf.keras.optimizers.Adam(parsed.learning_rate)
    optimizer = runtime.keras_optimizer(optimizer, variables)

    @tf.function
    def step(images, labels, rate):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            scores = network(images, training=True)
            if parsed.label_smoothing:
                labels = labels * (1.0 - parsed.label_smoothing) + parsed.label_smoothing / classes
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=scores))
            scaled_loss = runtime.scale_loss(loss, optimizer)
        gradients = runtime.mean_gradients(runtime.unscale(tape.gradient(scaled_loss, variables), optimizer))
        gradients = [gradient + parsed.weight_decay * variable if len(variable.shape) > 1 else gradient
                     for gradient, variable in zip(gradients, variables)]
        optimizer.learning_rate.assign(rate)
        optimizer.apply_gradients(zip(gradients, variables))
        return loss

    return Training(network, optimizer, runtime.naming_lost_ranks(step))


def load_weights(network, start, class_names):
    """Fills what fits of the network from `start`, of model_files.find_file; returns fields of the [run] line."""
    import resnet
    from common.graph_files import transfer_fields
    path, state = start
    same_classes = list(class_names) == state.get("classes", list(cifar10.CIFAR10_CLASSES))
    return transfer_fields(path, model_files.load_fitting(network, path, () if same_classes else resnet.HEAD))


def train(parsed):
    """Runs the training; returns the exit code."""
    data = load_data(parsed)
    classes = len(data.class_names)
    start = model_files.find_file(parsed.init_from) if parsed.init_from and ranks.is_rank_0() else None
    with Run(parsed, len(data.train_images)) as run:
        runtime = run.open_runtime(keras=True)
        tf = runtime.tf
        import evaluation
        import input_pipeline
        import resnet
        from averages import Averages

        # Network
        network, optimizer, train_step = build_training(runtime, parsed, classes)
        standard = resnet.resnet20(classes=classes)  # in Keras' own layers and float32, for evaluation and the files
        scores = evaluation.make_score_function(tf, standard, parsed.eval_static)
        transfer = {}
        if run.restored:
            checkpoint.check_classes(*run.restored, data.class_names, "--data_path")
            model_files.load_weights(network, run.restored[0] + ".h5")
        elif start:
            transfer = load_weights(network, start, data.class_names)
        averages = Averages(network, parsed.ema_decay) if parsed.ema_decay else None
        weights = model_files.network_variables(network)
        to_use = averages.variables if averages else weights  # what is evaluated, and in model.h5
        beside = list(weights.values()) if averages else []
        if run.restored:
            model_files.restore_optimizer(run.restored[0], optimizer, beside)
        variables = network.variables + model_files.optimizer_variables(optimizer) + (
            list(averages.variables.values()) if averages else [])
        runtime.broadcast(variables)

        def save(prefix):
            model_files.copy_values(to_use, standard)
            model_files.save(prefix, standard, optimizer, beside)

        def evaluate():
            images, labels = (part[run.rank::run.ranks] for part in (data.test_images, data.test_labels))

            def predict(values, images):
                model_files.copy_values(values, standard)
                return evaluation.predict(scores, images, parsed.eval_static)
            predicted = predict(to_use, images)
            fields = evaluation.metrics(predicted, labels)
            if averages:
                fields["top1_no_ema"] = evaluation.metrics(predict(weights, images), labels)["top1"]
            if parsed.tta:
                mirrored = predict(to_use, images[:, :, ::-1])
                fields["top1_tta"] = evaluation.metrics(predicted + mirrored, labels)["top1"]
            return dict(images=len(data.test_labels), **runtime.mean(fields, len(labels)))

        def export():
            model_files.copy_values(to_use, standard)
            model_files.export(tf, os.path.join(parsed.output_path, "export"), standard,
                               dict(state, step=run.total_steps), replace=True)

        # Loop
        state = {"network": resnet.NAME, "classes": list(data.class_names), "seed": parsed.seed}
        run.begin(variables, save, evaluate, "top1", state=state, peak_rate=parsed.learning_rate, at_end=export,
                  model="CutMix", network=resnet.NAME, parameters=standard.count_params(), classes=classes, **transfer,
                  augment=parsed.augment, alpha=parsed.alpha, cutmix_probability=parsed.cutmix_probability,
                  clean_share=parsed.clean_share, **recipe.describe(parsed))
        mixed_steps = round((1.0 - parsed.clean_share) * run.total_steps)
        batches = iter(input_pipeline.training_batches(data.train_images, data.train_labels, classes, parsed,
                                                       run.first_step, run.rank, run.ranks, mixed_steps))
        for step in run.steps():
            images, labels = run.wait(batches)
            lr = learning_rate(step - 1, run.total_steps, parsed.warmup_steps, parsed)
            loss = train_step(images, labels, tf.constant(lr, tf.float32))
            if averages:
                averages.follow(step)
            run.ended(step, lr, loss=loss)
    return run.exit_code


def evaluate(parsed):
    """--mode=evaluate: the figures of a saved network on all test images; returns 0."""
    if parsed.confusion_png:
        confusion.check_can_draw()
    found, state = model_files.find_file(parsed.checkpoint_dir)
    step = state.get("step", 0)
    data = load_data(parsed, state.get("seed"))  # what the run held out of class folders
    checkpoint.check_classes(found, state, data.class_names, "--data_path")
    from common.runtime import open_runtime
    runtime = open_runtime(parsed, keras=True)
    import evaluation
    import resnet
    scores = model_files.find_scores(
        runtime.tf, found, lambda: resnet.resnet20(classes=len(data.class_names)),
        lambda network: evaluation.make_score_function(runtime.tf, network, parsed.eval_static))
    log = runlog.RunLog()
    log.event(runlog.RUN, model="CutMix", mode="evaluate", network=resnet.NAME, batch_size=evaluation.BATCH_SIZE,
              checkpoint=found, **dict(runtime.describe(), compute_dtype="float32"))
    started = time.time()
    predicted = evaluation.predict(scores, data.test_images, parsed.eval_static)
    images_per_sec = len(data.test_images) / (time.time() - started)
    result = evaluation.metrics(predicted, data.test_labels)
    if parsed.tta:
        mirrored = evaluation.predict(scores, data.test_images[:, :, ::-1], parsed.eval_static)
        result["top1_tta"] = evaluation.metrics(predicted + mirrored, data.test_labels)["top1"]
    log.event(runlog.EVAL, step=step, images=len(data.test_labels), **result)
    log.event(runlog.DONE, step=step, images_per_sec=images_per_sec, images_per_sec_per_card=images_per_sec,
              ms_per_step=1000 * evaluation.BATCH_SIZE / images_per_sec, top1=result["top1"], status="ok")
    confusion.tell(confusion.count(confusion.first_guess(predicted), data.test_labels, len(data.class_names)),
                   data.class_names, parsed.confusion_png)
    return 0


def write_preview(parsed):
    """--preview: a picture of the first images of a run with these flags; returns 0."""
    data = load_data(parsed)
    from common.runtime import open_runtime
    open_runtime(parsed, keras=True)
    import input_pipeline
    shown = argparse.Namespace(**dict(vars(parsed), batch_size=min(PREVIEW_IMAGES, len(data.train_images))))
    images, labels = next(iter(input_pipeline.training_batches(data.train_images, data.train_labels,
                                                               len(data.class_names), shown, 0)))
    shares = [sorted(((share, name) for share, name in zip(label, data.class_names) if share > 0), reverse=True)
              for label in labels.numpy()]
    pictures.contact_sheet(parsed.preview, images.numpy(), [
        "\n".join("%s %.2f" % (name, share) for share, name in of_image) for of_image in shares])
    print("preview: %s" % parsed.preview)
    return 0


def main(argv=None):
    parsed = parse_args(argv)
    program = write_preview if parsed.preview else {"train": train, "evaluate": evaluate}[parsed.mode]
    return runlog.guarded(program, parsed)


if __name__ == "__main__":
    sys.exit(main())
