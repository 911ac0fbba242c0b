#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains ShuffleNetV2 on ImageNet (Ma et al. 2018, arXiv:1807.11164).

    bash test/train_full_1p.sh --data_dir=DIR             133 epochs with the recipe of the README
    python train.py --data_dir=DIR --max_train_steps=100  the documented hyper-parameters

Reads top to bottom: flags, data, graph, loop. What it prints and leaves on disk: README, "Run folder".
"""
import argparse
import collections
import json
import os
import resource
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

from common import checkpoint, files, flags, runlog  # noqa: E402
from launcher import ranktable  # noqa: E402

EVAL_BATCH_SIZE = 50  # divides ImageNet's 50,000
TRAINING_MODES = ("train", "train_and_evaluate")
WIDTHS = ("0.5", "1.0", "1.5", "2.0", "2.0_224")  # architecture.WIDTHS, which needs TensorFlow
VERSIONS = ("he_uniform", "xavier_uniform")  # architecture.INITIALIZERS
SYNTHETIC_IMAGES = 1024


def parse_args(argv=None, mode="train"):
    """Flags of this folder; the defaults are the documented ones. eval.py takes the same with its own `mode`."""
    parser = flags.Parser(prog="train.py", description="Trains ShuffleNetV2 on ImageNet.")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--depth_multiplier", choices=WIDTHS, default="0.5",
                        help="width of the network; 2.0_224 is what the published code calls 2.0")
    recipe.add_argument("--num_classes", type=flags.integer(2), default=1000, help="of the shards")
    recipe.add_argument("--lr", type=flags.number(above=0), default=0.06, help="rate after warm-up")
    recipe.add_argument("--decay", choices=("linear", "cosine"), default="linear", help="of the rate, to the end")
    recipe.add_argument("--warmup_epochs", type=flags.number(at_least=0), default=5.0, help="linear warm-up")
    recipe.add_argument("--momentum", type=flags.number(at_least=0, below=1), default=0.9, help="Nesterov momentum")
    recipe.add_argument("--weight_decay", type=flags.number(at_least=0), default=4e-5,
                        help="of kernels that are not depthwise")
    recipe.add_argument("--label_smoothing", type=flags.number(at_least=0, below=1), default=0.1)
    recipe.add_argument("--version", type=_initializer, default="he_uniform", metavar="{%s}" % ",".join(VERSIONS),
                        help="how weights start")
    recipe.add_argument("--ema_decay", type=flags.number(at_least=0, below=1), default=0.993,
                        help="of the moving averages of the weights")
    recipe.add_argument("--min_crop_area", type=flags.number(above=0, below=1), default=0.1,
                        help="smallest training crop, as a fraction of the image")
    recipe.add_argument("--colour_jitter", type=flags.number(at_least=0, below=1), default=0.0,
                        help="brightness, contrast, saturation vary by up to this fraction")
    flags.add_run_group(parser, epochs=133, batch_size=128, precision_mode="allow_fp32_to_fp16",
                        spelling={"log_every": "--save_summary_steps"})
    parser.set_defaults(save_every=1000)

    run = parser.add_argument_group("documented names")
    for name, ours in (("--data_dir", "data_path"), ("--log_dir", "output_path")):
        run.add_argument(name, dest=ours, default=argparse.SUPPRESS, help="the same as --" + ours,
                         type=flags.input_path if ours == "data_path" else flags.output_path)
    for name, ours in (("--max_epochs", "epochs"), ("--max_train_steps", "train_steps"),
                       ("--save_checkpoints_steps", "save_every")):
        run.add_argument(name, dest=ours, type=flags.integer(1), default=argparse.SUPPRESS,
                         help="the same as --" + ours)
    run.add_argument("--mode", choices=TRAINING_MODES + ("evaluate", "predict", "export"), default=mode,
                     help="train evaluates nothing; the last three need a checkpoint and do what eval.py does")
    run.add_argument("--log_name", default="alexnet_training.log", type=_file_name,
                     help="file of the run folder that gets the event lines")
    run.add_argument("--checkpoint_dir", type=flags.input_path,
                     help="to evaluate, predict or export: a run folder, a checkpoint's folder or its path prefix; "
                          "default the run folder")
    parser.add_bool(run, "--do_checkpoint", True, help="save checkpoints")
    run.add_argument("--rank_size", type=flags.integer(1), default=1, help="number of cards, as RANK_SIZE says")
    run.add_argument("--iterations_per_loop", type=flags.integer(1), default=10,
                     help="steps between two looks of the host at the loss and at requests to stop; on an NPU the "
                          "device does that many by itself")

    data = parser.add_argument_group("data")
    parser.add_bool(data, "--prepare", False, help="when --data_dir holds class folders, make shards of them first")
    data.add_argument("--max_bad_records", type=flags.integer(0), default=10, help="damaged records to pass over")
    data.add_argument("--threads", type=flags.integer(0), default=0, help="images decoded at a time; 0 for one a core")

    use = parser.add_argument_group("evaluate, predict, export")
    parser.add_bool(use, "--best", False, help="of a run folder, the checkpoint that evaluated best")
    use.add_argument("--confusion_png", type=flags.output_path, metavar="FILE.png",
                     help="of --mode=evaluate: print the accuracy of every class and write the confusion matrix as a "
                          "picture")
    use.add_argument("--class_names", type=flags.input_path,
                     help='JSON {class id: name} or {"0": [class id, name], ...} for the names that are printed')
    use.add_argument("--export_dir", type=flags.output_path, help="new folder for the exported model; default export/ "
                     "in the run folder")
    use.add_argument("images", nargs="*", help="image files for --mode=predict")
    parsed = parser.parse_args(argv)
    if parsed.confusion_png and parsed.mode != "evaluate":
        parser.error("argument --confusion_png: is for --mode=evaluate")
    parsed.output_path = parsed.output_path or flags.default_output_path(HERE)
    return parsed


def _initializer(text):
    name = {"he_uniorm": "he_uniform"}.get(text, text)  # as the document spells it
    if name not in VERSIONS:
        raise argparse.ArgumentTypeError("found '%s', expected one of %s" % (text, ", ".join(VERSIONS)))
    return name


def _file_name(text):
    if not text or os.path.basename(text) != text:
        raise argparse.ArgumentTypeError("found '%s', expected a file name; the folder is --log_dir" % text)
    return text


def find_data(parsed):
    """Where the shards are: (training folder, evaluation folder or None); None with --synthetic.

    With --prepare, class folders are first made into shards, below data/prepared/ of this folder.

    Raises:
      DataError: there are no shards, which says how to make them; or the rank table does not fit.
    """
    if os.environ.get("RANK_TABLE_FILE") and parsed.rank_size > 1:
        ranktable.check(os.environ["RANK_TABLE_FILE"], parsed.rank_size)
    if parsed.synthetic:
        return None
    import prepare
    return prepare.find_shards(parsed.data_path, os.path.join(HERE, "data"), parsed.mode, parsed.prepare)


Data = collections.namedtuple("Data", "train evaluation")


def load_data(parsed):
    """The shards of the flags as Data of input_pipeline.Shards; both None with --synthetic."""
    from input_pipeline import Shards
    found = find_data(parsed)
    if found is None:
        return Data(None, None)
    return Data(*(Shards(folder, parsed.num_classes, parsed.max_bad_records) if folder else None for folder in found))


Graph = collections.namedtuple("Graph", "next_batch images labels rate loss update eval_figures eval_start")


def build_graph(runtime, parsed, data, first_step, total_steps, rate_of=None):
    """The training step, and the evaluation with and without moving averages, on one set of variables.

    Args:
      rate_of: step, an int from 0 -> learning rate; for an NPU.
    Returns:
      Graph: next_batch (images, labels) of the input pipeline and its initializer, placeholders images uint8
      [batch_size, 224, 224, 3], labels int32 [batch_size], rate float32 []; loss float32 [] (without weight decay),
      update (operation); eval_figures: float32 [2, 3] of model.figures, float32 [] images counted; eval_start.
      On an NPU images, labels and rate are those of next_batch: a device that loops over steps cannot be fed.
    """
    tf = runtime.tf
    import architecture
    import input_pipeline
    import model

    def training_data(rate_of=None):
        return input_pipeline.training_data(
            tf, data.train, first_step, total_steps, parsed.batch_size, parsed.threads, parsed.colour_jitter > 0,
            rate_of=rate_of, seed=parsed.seed, min_crop_area=parsed.min_crop_area, colour_jitter=parsed.colour_jitter,
            rank=runtime.rank, ranks=runtime.ranks)

    next_batch = None
    if runtime.device == "npu":
        next_batch = training_data(rate_of) if data.train is not None else input_pipeline.repeated_batch(
            tf, synthetic_batch(parsed), first_step, total_steps, rate_of)
        images, labels, rate = next_batch[0]
    else:
        shape = [parsed.batch_size, architecture.IMAGE_PX, architecture.IMAGE_PX, 3]
        images = tf.placeholder(tf.uint8, shape, "training_images")
        labels = tf.placeholder(tf.int32, shape[:1], "training_labels")
        rate = tf.placeholder(tf.float32, [], "learning_rate")
    compute_dtype = tf.float32 if runtime.device == "cpu" else runtime.compute_dtype
    scores = architecture.logits(images, True, parsed.num_classes, parsed.depth_multiplier, parsed.version,
                                 compute_dtype, runtime.fuse)
    loss = model.smoothed_cross_entropy(scores, labels, parsed.label_smoothing)
    averages = model.make_averages(parsed.ema_decay)
    update = model.update_op(loss, rate, parsed.momentum, parsed.weight_decay, averages, runtime.wrap_optimizer)
    if next_batch is None and data.train is not None:
        next_batch = training_data()
    if data.evaluation is None:
        return Graph(next_batch, images, labels, rate, loss, update, None, None)
    (eval_images, eval_labels, counted), eval_start = input_pipeline.eval_data(
        tf, data.evaluation, EVAL_BATCH_SIZE, parsed.threads, runtime.rank, runtime.ranks)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        plain = architecture.logits(eval_images, False, parsed.num_classes, parsed.depth_multiplier)
    averaged = model.averaged_logits(eval_images, parsed.num_classes, parsed.depth_multiplier, averages)
    figures = tf.stack([model.figures(averaged, eval_labels, counted), model.figures(plain, eval_labels, counted)])
    return Graph(next_batch, images, labels, rate, loss, update, (figures, tf.reduce_sum(counted)), eval_start)


def whole_loops(parsed, total_steps, first_step, steps_per_run):
    """The run's last step, in whole loops of the device: what is left over of the epochs is cut off.

    Raises:
      DataError: the steps that the user counted are not whole loops, or there is no whole one.
    """
    left_over = (total_steps - first_step) % steps_per_run
    if left_over and (parsed.train_steps or total_steps - first_step < steps_per_run):
        raise files.DataError(
            "--iterations_per_loop", "a divisor of the %d steps that are to be done" % (total_steps - first_step),
            steps_per_run, "give --iterations_per_loop=1, or another --max_train_steps")
    return total_steps - left_over


def train(parsed):
    """Runs the training; returns the exit code. Raises DataError and NonFiniteLoss, which main() reports."""
    # Data, before the run folder is touched
    started = time.time()
    if parsed.rank_size != int(os.environ.get("RANK_SIZE", 1)):
        raise files.DataError("--rank_size", "%s, as RANK_SIZE says" % os.environ.get("RANK_SIZE", 1),
                                  parsed.rank_size, "give both the same number; test/*_8p.sh start eight ranks")
    data = load_data(parsed)
    training_images = SYNTHETIC_IMAGES if data.train is None else len(data.train)

    # Run folder
    continued = checkpoint.open_run(parsed.output_path, vars(parsed))
    files.prepare_output_dir(parsed.output_path)
    store = checkpoint.CheckpointStore(parsed.output_path)
    restored = checkpoint.find_start(store, continued, parsed.resume)

    # Device
    from common.runtime import Runtime  # imports TensorFlow, so only once flags and data are known to be right
    runtime = Runtime(parsed, steps_per_run=parsed.iterations_per_loop)
    first_step = runtime.of_rank_0(restored[1].get("step", 0) if restored else 0)
    per_run = runtime.steps_per_run
    images_per_step = parsed.batch_size * runtime.ranks
    steps_per_epoch = training_images // images_per_step
    if steps_per_epoch == 0:
        raise files.DataError("--batch_size", "at most the %d training images of the data" % training_images,
                                  "%d images a step" % images_per_step, "give a smaller one")
    wanted_steps = parsed.train_steps or parsed.epochs * steps_per_epoch
    total_steps = whole_loops(parsed, wanted_steps, first_step, per_run)
    if total_steps < wanted_steps:
        runtime.warnings.append("the last %d of %d steps are left out, so that all are whole loops of "
                                "--iterations_per_loop=%d" % (wanted_steps - total_steps, wanted_steps, per_run))
    if any(every % per_run for every in (parsed.log_every, parsed.save_every)):
        runtime.warnings.append("[train] lines and checkpoints wait for the end of a loop of --iterations_per_loop=%d"
                                % per_run)
    warmup_steps = int(round(parsed.warmup_epochs * steps_per_epoch))

    # Graph
    tf = runtime.tf
    import numpy as np

    import model
    from input_pipeline import eval_batches
    tf.reset_default_graph()
    tf.set_random_seed(parsed.seed)

    def rate_of(step):
        return model.learning_rate(step, total_steps, parsed.lr, parsed.decay, warmup_steps)

    graph = build_graph(runtime, parsed, data, first_step, total_steps, rate_of)
    saver = tf.train.Saver(max_to_keep=0)

    # Session
    session = runtime.open_session()
    session.run(tf.global_variables_initializer())
    if restored:
        runtime.restore(saver, session, restored[0])
    runtime.broadcast(session)
    update = runtime.looped(session, graph.update)
    if runtime.rank == 0:
        files.write_text(os.path.join(parsed.output_path, checkpoint.FLAGS_FILE),
                              json.dumps(vars(parsed), indent=1, sort_keys=True))
    log = runlog.RunLog(parsed.output_path, runtime.rank,
                        runtime.tensorboard(os.path.join(parsed.output_path, "tb")), parsed.log_name)
    log.event(runlog.RUN, model="ShuffleNetV2", network="x" + parsed.depth_multiplier, classes=parsed.num_classes,
              batch_size=parsed.batch_size, images=training_images, steps=total_steps, first_step=first_step,
              seed=parsed.seed, precision_mode=parsed.precision_mode, commit=runlog.source_commit(),
              parameters=sum(variable.shape.num_elements() for variable in tf.trainable_variables()),
              **runtime.describe(parsed.lr))
    if runtime.device == "cpu" and runtime.compute_dtype != tf.float32:
        log.warn("precision_mode=%s: this network is slower in bfloat16 on a CPU, computing in float32"
                 % parsed.precision_mode)
    for message in runtime.warnings:
        log.warn(message)

    def save(step, metric=None):
        runtime.share_statistics(tf.global_variables())
        if not parsed.do_checkpoint or runtime.rank != 0:
            return None
        state = {"step": step, "network": "shufflenet_v2", "depth_multiplier": parsed.depth_multiplier,
                 "num_classes": parsed.num_classes, "classes": data.train.classes if data.train else None,
                 "wall_sec": before_sec + time.time() - started}
        path = store.save(state, lambda prefix: runtime.save(saver, session, prefix), metric)
        log.event(runlog.SAVE, step=step, path=path)
        return path

    def evaluate_at(step):
        def run_batches():
            yield np.zeros([2, 3]), 0  # a rank may have no batch of its own
            session.run(graph.eval_start)
            for _ in range(runtime.rank, eval_batches(data.evaluation, EVAL_BATCH_SIZE), runtime.ranks):
                try:
                    yield session.run(graph.eval_figures)
                except tf.errors.OpError as error:
                    raise data.evaluation.error or error from None
        runtime.share_statistics(tf.global_variables())
        result = model.mean_figures(run_batches(), runtime.total)
        say_problems(data.evaluation)
        log.event(runlog.EVAL, step=step, epoch=step / steps_per_epoch, **result)
        return result

    def say_problems(shards):
        for problem in shards.new_problems():
            log.warn("passed over: %s (%d so far)" % (problem, len(shards.bad)))

    # Loop
    stop = checkpoint.StopRequest(runtime.ranks)
    throughput = runlog.Throughput(images_per_step * per_run, warmup_steps=max(1, 5 // per_run))
    before_sec = restored[1].get("wall_sec", 0.0) if continued and restored else 0.0
    newest = restored[0] if restored else None
    evaluating = data.evaluation is not None and parsed.mode == "train_and_evaluate"
    result, losses = None, []
    bar = runlog.progress_bar(total_steps, first_step)
    if graph.next_batch:
        session.run(graph.next_batch[1])

    def run(fetches, feed=None):
        try:
            return session.run(fetches, feed)
        except tf.errors.OpError as error:
            raise (data.train and data.train.error) or error from None

    fed = runtime.device != "npu"
    batch = synthetic_batch(parsed) if data.train is None else None
    for step in range(first_step + per_run, total_steps + 1, per_run):  # `step` steps are done when this round ends
        asked = time.perf_counter()
        lr, feed = rate_of(step - 1), {}
        if fed:
            if data.train is not None:
                batch = run(graph.next_batch[0])
            feed = {graph.images: batch[0], graph.labels: batch[1], graph.rate: lr}
        data_wait_sec = time.perf_counter() - asked
        loss_value, _ = run([graph.loss, update], feed)
        throughput.step(data_wait_sec)
        losses.append(float(loss_value))
        bar.update(per_run)

        last = step == total_steps
        epoch_ended = step % steps_per_epoch < per_run  # in the steps of this round
        epoch = step // steps_per_epoch
        line_due = step == first_step + per_run or step % parsed.log_every < per_run or last
        evaluation_due = evaluating and (last or (epoch_ended and parsed.eval_every and epoch % parsed.eval_every == 0))
        save_due = step % parsed.save_every < per_run or last
        if not (line_due or evaluation_due or save_due or per_run > 1 or step % parsed.iterations_per_loop == 0):
            continue
        losses = runtime.meet(stop, *losses)
        log.check_finite(sum(losses), step, newest)
        with throughput.paused():
            if line_due:
                log.event(runlog.TRAIN, step=step, epoch=step / steps_per_epoch, loss=sum(losses) / len(losses), lr=lr,
                          **throughput.recent((total_steps - step) // per_run))
                losses = []
                if data.train is not None:
                    say_problems(data.train)
            if evaluation_due and not stop.exit_code:
                result = evaluate_at(step)
                newest = save(step, result["top1"])
            elif save_due or stop.exit_code:
                newest = save(step)
        if stop.exit_code:
            return stop.exit_code
    bar.close()

    if evaluating and result is None:  # killed between the last checkpoint and its [done] line
        result = evaluate_at(total_steps)
    speed = throughput.total(runtime.ranks)
    if speed:
        speed["ms_per_step"] /= per_run
    runtime.share_statistics(tf.global_variables())
    checksum = runtime.checksum(tf.global_variables(), log)
    log.event(runlog.DONE, step=total_steps, **speed, **({"top1": result["top1"]} if result else {}),
              checksum=checksum, wall_sec=before_sec + time.time() - started,
              peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, status="ok")
    log.close()
    return 0


def synthetic_batch(parsed):
    """Random images and labels: uint8 [batch_size, 224, 224, 3], int32 [batch_size]."""
    import numpy as np
    random = np.random.RandomState(parsed.seed)
    return (random.randint(0, 256, (parsed.batch_size, 224, 224, 3)).astype(np.uint8),
            random.randint(0, parsed.num_classes, parsed.batch_size).astype(np.int32))


def main(argv=None, mode="train"):
    parsed = parse_args(argv, mode)
    try:
        if parsed.mode in TRAINING_MODES:
            return train(parsed)
        import eval as evaluation
        return evaluation.run(parsed)
    except (files.DataError, runlog.NonFiniteLoss, OSError) as error:
        # nothing has begun: what is in the folder stays as it is
        refused = isinstance(error, files.DataError) or parsed.mode not in TRAINING_MODES
        runlog.fail(None if refused else parsed.output_path, str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
