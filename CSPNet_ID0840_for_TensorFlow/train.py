#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains CSPDarknet-53 on CIFAR-10 (Wang et al. 2020, arXiv:1911.11929).

    bash test/train_full_1p.sh --data_path=DIR            50 epochs with the recipe of the README
    python train.py --data_path=DIR --epochs=50           the documented hyper-parameters

Reads top to bottom: flags, data, graph, loop. What it prints and leaves on disk: README, "Run folder".
"""
import collections
import json
import os
import resource
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

from common import checkpoint, cifar10, files, flags, runlog  # noqa: E402

EVAL_BATCH_SIZE = 250


def parse_args(argv=None):
    """Flags of this folder; the defaults are the documented ones."""
    parser = flags.Parser(prog="train.py", description="Trains CSPDarknet-53 on CIFAR-10.")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--LEARNING_RATE", type=flags.number(above=0), default=1e-3, help="rate after warm-up")
    recipe.add_argument("--MOMENTUM", type=flags.number(at_least=0, below=1), default=0.9, help="Nesterov momentum")
    recipe.add_argument("--LAMBDA", type=flags.number(at_least=0), default=5e-4, help="weight decay of kernels")
    recipe.add_argument("--schedule", choices=("cosine", "constant"), default="cosine", help="rate after warm-up")
    recipe.add_argument("--warmup_steps", type=flags.integer(0), default=500, help="linear warm-up")
    parser.add_bool(recipe, "--augment", True, help="random crop and mirror")
    flags.add_run_group(parser, epochs=50, batch_size=64, precision_mode="allow_mix_precision",
                        spelling={"log_every": "--DISPLAY_STEP", "eval_every": "--VAL_EPOCH"})
    parser.add_argument("--SUMMARY", type=flags.output_path, help="TensorBoard folder; default tb in the run folder")
    parsed = parser.parse_args(argv)
    parsed.output_path = parsed.output_path or flags.default_output_path(HERE)
    parsed.SUMMARY = parsed.SUMMARY or os.path.join(parsed.output_path, "tb")
    return parsed


def find_data(parsed):
    """Where the data is: --data_path, else dataset/ when something lies there, None with --synthetic.

    Raises:
      DataError: there is no CIFAR-10; says what to give.
    """
    if parsed.synthetic:
        return None
    default = os.path.join(HERE, "dataset")
    filled = any(name.startswith("cifar-10") for name in os.listdir(default)) if os.path.isdir(default) else False
    return cifar10.find_cifar10(parsed.data_path or (default if filled else None))


def load_data(parsed):
    """The data set of the flags: CIFAR-10, or 2,048 random images with --synthetic."""
    path = find_data(parsed)
    return cifar10.load_cifar10(path) if path else cifar10.random_cifar10(2048, 500, parsed.seed)


Graph = collections.namedtuple("Graph", "images labels rate loss update eval_images eval_scores")


def build_graph(runtime, parsed):
    """The training step and the evaluation, on one set of variables.

    Returns:
      Graph: placeholders images uint8 [batch_size, 32, 32, 3], labels int32 [batch_size], rate float32 [];
      loss float32 [] (cross-entropy alone: the weight decay is in the gradients), update (operation);
      eval_images uint8 [EVAL_BATCH_SIZE, 32, 32, 3], eval_scores float32 [EVAL_BATCH_SIZE, 10].
    """
    tf = runtime.tf
    from models import cspdarknet53
    tf.reset_default_graph()
    tf.set_random_seed(parsed.seed)
    image_shape = [cspdarknet53.IMAGE_PX, cspdarknet53.IMAGE_PX, 3]
    images = tf.placeholder(tf.uint8, [parsed.batch_size] + image_shape, "images")
    labels = tf.placeholder(tf.int32, [parsed.batch_size], "labels")
    rate = tf.placeholder(tf.float32, [], "learning_rate")
    scores = cspdarknet53.logits(images, True, runtime.compute_dtype, runtime.fuse)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores))
    optimizer = runtime.wrap_optimizer(tf.train.MomentumOptimizer(rate, parsed.MOMENTUM, use_nesterov=True))
    gradients = [(gradient + parsed.LAMBDA * variable if len(variable.shape) > 1 else gradient, variable)
                 for gradient, variable in optimizer.compute_gradients(loss)]
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        update = optimizer.apply_gradients(gradients, global_step=tf.train.get_or_create_global_step())
    eval_images = tf.placeholder(tf.uint8, [EVAL_BATCH_SIZE] + image_shape, "eval_images")
    eval_scores = cspdarknet53.logits(eval_images, False)  # float32: the figure must not depend on the hardware
    return Graph(images, labels, rate, loss, update, eval_images, eval_scores)


def train(parsed):
    """Runs the training; returns the exit code. Raises DataError and NonFiniteLoss, which main() reports."""
    # Data, before the run folder is touched
    started = time.time()
    data = load_data(parsed)

    # Run folder
    continued = checkpoint.open_run(parsed.output_path, vars(parsed))
    files.prepare_output_dir(parsed.output_path)
    store = checkpoint.CheckpointStore(parsed.output_path)
    restored = checkpoint.find_start(store, continued, parsed.resume)

    # Device
    from common.runtime import Runtime  # imports TensorFlow, so only once flags and data are known to be right
    runtime = Runtime(parsed)
    first_step = runtime.of_rank_0(restored[1].get("step", 0) if restored else 0)
    images_per_step = parsed.batch_size * runtime.ranks
    steps_per_epoch = len(data.train_images) // images_per_step
    if steps_per_epoch == 0:
        raise files.DataError("--batch_size", "at most the %d training images of the data" %
                                  len(data.train_images), "%d images a step" % images_per_step, "give a smaller one")
    total_steps = parsed.train_steps or parsed.epochs * steps_per_epoch

    # Graph
    tf = runtime.tf
    from models import cspdarknet53
    from utils import learning_rate, metrics, predict, prefetch, training_batch
    graph = build_graph(runtime, parsed)
    saver = tf.train.Saver(max_to_keep=0)

    # Session
    session = runtime.open_session()
    session.run(tf.global_variables_initializer())
    if restored:
        runtime.restore(saver, session, restored[0])
    runtime.broadcast(session)
    if runtime.rank == 0:
        files.write_text(os.path.join(parsed.output_path, checkpoint.FLAGS_FILE),
                              json.dumps(vars(parsed), indent=1, sort_keys=True))
    log = runlog.RunLog(parsed.output_path, runtime.rank, runtime.tensorboard(parsed.SUMMARY))
    log.event(runlog.RUN, model="CSPNet", network=cspdarknet53.NAME, batch_size=parsed.batch_size,
              images=len(data.train_images), steps=total_steps, first_step=first_step, seed=parsed.seed,
              precision_mode=parsed.precision_mode, commit=runlog.source_commit(),
              parameters=sum(variable.shape.num_elements() for variable in tf.trainable_variables()),
              **runtime.describe(parsed.LEARNING_RATE))
    for message in runtime.warnings:
        log.warn(message)

    def save(step, metric=None):
        runtime.share_statistics(tf.global_variables())
        if runtime.rank != 0:
            return None
        state = {"step": step, "network": cspdarknet53.NAME, "wall_sec": before_sec + time.time() - started}
        path = store.save(state, lambda prefix: runtime.save(saver, session, prefix), metric)
        log.event(runlog.SAVE, step=step, path=path)
        return path

    def evaluate_at(step):
        runtime.share_statistics(tf.global_variables())
        images, labels = (part[runtime.rank::runtime.ranks] for part in (data.test_images, data.test_labels))
        scores = predict(session, graph.eval_scores, graph.eval_images, images)
        result = runtime.mean(metrics(scores, labels), len(labels))
        log.event(runlog.EVAL, step=step, epoch=step / steps_per_epoch, images=len(data.test_labels), **result)
        return result

    # Loop
    stop = checkpoint.StopRequest(runtime.ranks)
    throughput = runlog.Throughput(images_per_step)
    before_sec = restored[1].get("wall_sec", 0.0) if continued and restored else 0.0
    newest = restored[0] if restored else None
    result, recent_losses = None, []
    bar = runlog.progress_bar(total_steps, first_step)
    batches = prefetch(lambda step: training_batch(data.train_images, data.train_labels, step, parsed.batch_size,
                                                   parsed.seed, parsed.augment, runtime.rank, runtime.ranks),
                       first_step, total_steps)
    for step in range(first_step + 1, total_steps + 1):  # `step` steps are done when this round ends
        asked = time.perf_counter()
        batch_images, batch_labels = next(batches)
        data_wait_sec = time.perf_counter() - asked
        lr = learning_rate(step - 1, total_steps, parsed.LEARNING_RATE, parsed.schedule, parsed.warmup_steps)
        loss_value, _ = session.run([graph.loss, graph.update],
                                    {graph.images: batch_images, graph.labels: batch_labels, graph.rate: lr})
        loss_value, = runtime.meet(stop, loss_value)
        throughput.step(data_wait_sec)
        recent_losses.append(loss_value)
        log.check_finite(loss_value, step, newest)
        bar.update()

        last = step == total_steps
        epoch_ended = step % steps_per_epoch == 0
        epoch = step // steps_per_epoch
        evaluation_due = last or (epoch_ended and parsed.eval_every and epoch % parsed.eval_every == 0)
        with throughput.paused():
            if step == first_step + 1 or step % parsed.log_every == 0 or last:
                log.event(runlog.TRAIN, step=step, epoch=step / steps_per_epoch,
                          loss=sum(recent_losses) / len(recent_losses), lr=lr, **throughput.recent(total_steps - step))
                recent_losses = []
            if evaluation_due and not stop.exit_code:
                result = evaluate_at(step)
                newest = save(step, result["top1"])
            elif step % parsed.save_every == 0 or stop.exit_code:
                newest = save(step)
        if stop.exit_code:
            return stop.exit_code
    bar.close()

    if result is None:  # killed between the last checkpoint and its [done] line
        result = evaluate_at(total_steps)
    checksum = runtime.checksum(tf.global_variables(), log)
    log.event(runlog.DONE, step=total_steps, **throughput.total(runtime.ranks), top1=result["top1"], checksum=checksum,
              wall_sec=before_sec + time.time() - started,
              peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, status="ok")
    return 0


def main(argv=None):
    parsed = parse_args(argv)
    try:
        return train(parsed)
    except (files.DataError, runlog.NonFiniteLoss, OSError) as error:
        refused = isinstance(error, files.DataError)  # nothing has begun: what is in the folder stays as it is
        runlog.fail(None if refused else parsed.output_path, str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
