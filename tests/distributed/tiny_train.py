# SPDX-License-Identifier: Apache-2.0
"""A training script of one small layer with a moving mean.

PAUSE_SEC in the environment says how long a step takes at least: no flag, so a run may be continued with another one.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from common import flags, runlog  # noqa: E402
from common.run import Run  # noqa: E402

IMAGES, FEATURES = 64, 8
RATE = 0.002  # far from its end after some dozens of steps: runs that differ have different weights


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
    with Run(parsed, IMAGES) as run:
        runtime = run.open_runtime()
        tf = runtime.tf
        from common import graph_files
        tf.set_random_seed(parsed.seed)
        inputs = tf.placeholder(tf.float32, [parsed.batch_size, FEATURES])
        targets = tf.placeholder(tf.float32, [parsed.batch_size])
        weights = tf.get_variable("weights", [FEATURES, 1], tf.float32, tf.random_normal_initializer(),
                                  use_resource=True)
        moving = tf.get_variable("moving_mean", [FEATURES], tf.float32, tf.zeros_initializer(), trainable=False,
                                 use_resource=True)
        loss = tf.reduce_mean((tf.matmul(inputs, weights)[:, 0] - targets) ** 2)
        optimizer = runtime.wrap_optimizer(tf.train.MomentumOptimizer(RATE, 0.9))
        with tf.control_dependencies([moving.assign_sub(0.1 * (moving - tf.reduce_mean(inputs, 0)))]):
            update = optimizer.apply_gradients(optimizer.compute_gradients(loss),
                                               global_step=tf.train.get_or_create_global_step())
        saver = tf.train.Saver(max_to_keep=0)
        session = runtime.open_session()
        session.run(tf.global_variables_initializer())
        if run.restored:
            graph_files.restore(tf, session, run.restored[0])
        elif run.rank > 0:  # what rank 0 sends must not depend on equal seeds
            session.run(weights.assign(weights + run.rank))
        runtime.broadcast(tf.global_variables())
        run.begin(tf.global_variables(), lambda prefix: graph_files.save(tf, saver, session, prefix), peak_rate=RATE,
                  model="Tiny")
        for step in run.steps():
            features, wanted = batch_of(step - 1, parsed, run.rank, run.ranks)
            if step == parsed.nan_at and run.rank == 1:
                features = features * float("nan")
            value, _ = session.run([loss, update], {inputs: features, targets: wanted})
            time.sleep(float(os.environ.get("PAUSE_SEC", 0)))
            run.ended(step, RATE, loss=value)
    return run.exit_code


def main(argv=None):
    return runlog.guarded(train, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
