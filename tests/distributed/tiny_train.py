# SPDX-License-Identifier: Apache-2.0
"""A training script of one small layer with a moving mean, with the loop of the model folders.

PAUSE_SEC in the environment says how long a step takes at least: no flag, so a run may be continued with another one.
"""
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from common import checkpoint, files, flags, runlog  # noqa: E402

IMAGES, FEATURES = 64, 8


def parse_args(argv=None):
    parser = flags.Parser(prog="train.py")
    flags.add_run_group(parser, epochs=1, batch_size=4, precision_mode="force_fp32")
    parser.add_argument("--same_data", action="store_true", help="every rank sees rank 0's examples")
    parser.add_argument("--nan_at", type=int, help="the step at which rank 1 sees a NaN")
    parsed = parser.parse_args(argv)
    parsed.output_path = os.path.abspath(parsed.output_path)
    return parsed


def find_data(parsed):
    pass


def batch_of(step, parsed, rank, ranks):
    """float32 [B, FEATURES], float32 [B]: a function of the step; an epoch is IMAGES // (B * ranks) steps."""
    import numpy as np
    if parsed.same_data:
        rank, ranks = 0, 1
    epoch, place = divmod(step, IMAGES // (parsed.batch_size * ranks))
    order = np.random.RandomState([parsed.seed, epoch]).permutation(IMAGES)
    chosen = order[(place * ranks + rank) * parsed.batch_size:][:parsed.batch_size]
    inputs = np.random.RandomState(0).normal(size=[IMAGES, FEATURES]).astype(np.float32)[chosen]
    return inputs, inputs.sum(1)


def train(parsed):
    started = time.time()
    continued = checkpoint.open_run(parsed.output_path, vars(parsed))
    files.prepare_output_dir(parsed.output_path)
    store = checkpoint.CheckpointStore(parsed.output_path)
    restored = checkpoint.find_start(store, continued, parsed.resume)
    from common.runtime import Runtime
    runtime = Runtime(parsed)
    first_step = runtime.of_rank_0(restored[1]["step"] if restored else 0)
    tf = runtime.tf
    tf.set_random_seed(parsed.seed)
    inputs = tf.placeholder(tf.float32, [parsed.batch_size, FEATURES])
    targets = tf.placeholder(tf.float32, [parsed.batch_size])
    weights = tf.get_variable("weights", [FEATURES, 1], tf.float32, tf.random_normal_initializer(), use_resource=True)
    moving = tf.get_variable("moving_mean", [FEATURES], tf.float32, tf.zeros_initializer(), trainable=False,
                             use_resource=True)
    loss = tf.reduce_mean((tf.matmul(inputs, weights)[:, 0] - targets) ** 2)
    optimizer = runtime.wrap_optimizer(tf.train.MomentumOptimizer(0.01, 0.9))
    with tf.control_dependencies([moving.assign_sub(0.1 * (moving - tf.reduce_mean(inputs, 0)))]):
        update = optimizer.apply_gradients(optimizer.compute_gradients(loss),
                                           global_step=tf.train.get_or_create_global_step())
    saver = tf.train.Saver(max_to_keep=0)
    session = runtime.open_session()
    session.run(tf.global_variables_initializer())
    if restored:
        runtime.restore(saver, session, restored[0])
    elif runtime.rank > 0:  # what rank 0 sends must not depend on equal seeds
        session.run(weights.assign(weights + runtime.rank))
    runtime.broadcast(session)
    if runtime.rank == 0:
        files.write_text(os.path.join(parsed.output_path, checkpoint.FLAGS_FILE), json.dumps(vars(parsed)))
    log = runlog.RunLog(parsed.output_path, runtime.rank)
    log.event(runlog.RUN, model="Tiny", batch_size=parsed.batch_size, steps=parsed.train_steps, first_step=first_step,
              **runtime.describe(0.01))
    for message in runtime.warnings:
        log.warn(message)
    stop = checkpoint.StopRequest(runtime.ranks)

    def save(step):
        runtime.share_statistics(tf.global_variables())
        if runtime.rank == 0:
            store.save({"step": step}, lambda prefix: runtime.save(saver, session, prefix))
            log.event(runlog.SAVE, step=step)

    for step in range(first_step + 1, parsed.train_steps + 1):
        features, wanted = batch_of(step - 1, parsed, runtime.rank, runtime.ranks)
        if step == parsed.nan_at and runtime.rank == 1:
            features = features * float("nan")
        value, _ = session.run([loss, update], {inputs: features, targets: wanted})
        value, = runtime.meet(stop, value)
        log.check_finite(value, step, None)
        time.sleep(float(os.environ.get("PAUSE_SEC", 0)))
        if step % parsed.save_every == 0 or stop.exit_code or step == parsed.train_steps:
            save(step)
        if step % parsed.log_every == 0:
            log.event(runlog.TRAIN, step=step, loss=value)
        if stop.exit_code:
            return stop.exit_code
    checksum = runtime.checksum(tf.global_variables(), log)
    log.event(runlog.DONE, step=parsed.train_steps, checksum=checksum, wall_sec=time.time() - started, status="ok")
    return 0


def main(argv=None):
    parsed = parse_args(argv)
    try:
        return train(parsed)
    except (files.DataError, runlog.NonFiniteLoss, OSError) as error:
        runlog.fail(parsed.output_path, str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
