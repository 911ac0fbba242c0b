#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What --freeze=N saves of CSPNet's training step: seconds of a step by N, in turns.

    python benchmarks/freeze_step.py --freeze 0 2 4
"""
import argparse
import statistics
import time

import in_turns

STEPS = 5  # a turn


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--freeze", type=int, nargs="+", default=[0, 2, 4], help="of these the first is compared with")
    parser.add_argument("--batch_size", type=int, default=64)
    arguments = parser.parse_args()
    in_turns.use_folder("CSPNet_ID0840_for_TensorFlow")
    import train
    from common.runtime import open_runtime
    steps = {}
    for frozen in arguments.freeze:
        parsed = train.parse_args(["--synthetic", "--freeze=%d" % frozen, "--batch_size=%d" % arguments.batch_size])
        data = train.load_data(parsed)
        runtime = open_runtime(parsed)
        graph = train.build_graph(runtime, parsed)
        session = runtime.tf.Session(config=runtime.session_config())
        session.run(runtime.tf.global_variables_initializer())
        feed = {graph.images: data.train_images[:arguments.batch_size], graph.rate: 1e-3,
                graph.labels: data.train_labels[:arguments.batch_size]}
        steps[frozen] = lambda session=session, graph=graph, feed=feed: session.run([graph.loss, graph.update], feed)
        steps[frozen](), steps[frozen]()
    wall_sec, cpu_sec = ({frozen: [] for frozen in steps} for _ in range(2))
    for _ in range(arguments.rounds):
        for frozen, step in steps.items():
            before = time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                step()
            wall_sec[frozen].append((time.perf_counter() - before[0]) / STEPS)
            cpu_sec[frozen].append((time.process_time() - before[1]) / STEPS)
    first = arguments.freeze[0]
    for frozen in steps:
        shares = [statistics.median(mine / of_first for mine, of_first in zip(times[frozen], times[first]))
                  for times in (wall_sec, cpu_sec)]
        print("freeze=%d: %.3f s a step, %.2f of the first; processor time %.3f s, %.2f" % (
            frozen, statistics.median(wall_sec[frozen]), shares[0], statistics.median(cpu_sec[frozen]), shares[1]))


if __name__ == "__main__":
    main()
