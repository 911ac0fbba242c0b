#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of CSPNet's training step: against a peer program in turns, and on real data against data in memory.

    python benchmarks/cspnet_step.py --data_path=DIR --peer="PYTHON torch_peer.py cspnet --batch 64 --steps 8"

README.md beside this file says what a peer prints and what the output means.
"""
import contextlib
import sys

import in_turns

PLAN = in_turns.Plan(warmup_steps=5, blocks=4, block_steps=10)


def measure(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks on data."""
    in_turns.use_folder("CSPNet_ID0840_for_TensorFlow")
    import train
    from common.runtime import open_runtime
    from utils import prefetch, training_batch
    default = arguments.measure == in_turns.DEFAULT
    parsed = train.parse_args(
        ["--batch_size=%d" % arguments.batch,
         "--precision_mode=" + ("allow_mix_precision" if default else arguments.measure)] +
        (["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"]))
    data = train.load_data(parsed)
    runtime = open_runtime(parsed)
    graph = train.build_graph(runtime, parsed)
    session = runtime.tf.Session(config=runtime.session_config())
    session.run(runtime.tf.global_variables_initializer())

    def batch(number):
        return training_batch(data.train_images, data.train_labels, number, parsed.batch_size, 0, True)

    def step(batch):
        session.run([graph.loss, graph.update], {graph.images: batch[0], graph.labels: batch[1], graph.rate: 1e-3})

    plan = in_turns.QUICK_PLAN if arguments.quick else PLAN
    with prefetch(batch, 0, sys.maxsize) as batches:
        in_turns.report(in_turns.time_steps(step, batch(0), arguments.batch, plan,
                                            (lambda _: contextlib.nullcontext(batches)) if default else None),
                        arguments.batch, runtime.compute_dtype, graph.loss)


def main():
    parser = in_turns.parser(__doc__, batch=64)
    parser.add_argument("--data_path", help="CIFAR-10; random images without it")
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    return in_turns.compare_steps(arguments, __file__, "CSPNet",
                                  "CIFAR-10" if arguments.data_path else "random images")


if __name__ == "__main__":
    sys.exit(main())
