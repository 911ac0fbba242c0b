#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of CSPNet's training step: against a peer program in turns, and on real data against data in memory.

    python benchmarks/cspnet_step.py --data_path=DIR --peer="PYTHON torch_peer.py cspnet --batch 64 --steps 8"

The peer's last line of output must be a JSON object with "best_eager" in images/s. Absolute figures drift on a
shared machine; the ratios of one run are what to quote.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "CSPNet_ID0840_for_TensorFlow")
BLOCK_STEPS, BLOCKS = 25, 4


def measure(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks on real data."""
    sys.path[:0] = [FOLDER, ROOT]
    import train
    from common.runtime import Runtime
    from utils import prefetch, training_batch
    parsed = train.parse_args(["--batch_size=%d" % arguments.batch, "--precision_mode=" + arguments.precision_mode] +
                              (["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"]))
    data = train.load_data(parsed)
    runtime = Runtime(parsed)
    graph = train.build_graph(runtime, parsed)
    session = runtime.tf.Session(config=runtime.session_config())
    session.run(runtime.tf.global_variables_initializer())
    in_memory = training_batch(data.train_images, data.train_labels, 0, parsed.batch_size, 0, True)
    step_sec, block_sec = [], {"in_memory": [], "from_data": []}

    def step(batch):
        before = time.perf_counter()
        session.run([graph.loss, graph.update], {graph.images: batch[0], graph.labels: batch[1], graph.rate: 1e-3})
        return time.perf_counter() - before

    for _ in range(5):
        step(in_memory)
    batches = prefetch(lambda number: training_batch(data.train_images, data.train_labels, number, parsed.batch_size,
                                                     0, True), 0, BLOCK_STEPS * BLOCKS)
    for _ in range(BLOCKS):
        before = time.perf_counter()
        step_sec += [step(in_memory) for _ in range(BLOCK_STEPS)]
        middle = time.perf_counter()
        for _ in range(BLOCK_STEPS):
            step(next(batches))
        block_sec["in_memory"].append(middle - before)
        block_sec["from_data"].append(time.perf_counter() - middle)
    figures = {name: BLOCK_STEPS * arguments.batch / statistics.median(seconds) for name, seconds in block_sec.items()}
    print(json.dumps(dict(figures, step=arguments.batch / statistics.median(step_sec),
                          compute_dtype=runtime.compute_dtype.name)))


def last_json(command):
    """Runs a command and reads its last line of output as JSON."""
    return json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="CIFAR-10; random images without it")
    parser.add_argument("--peer", help="command to run in turns with our step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision_mode", default="allow_mix_precision")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    ours = [sys.executable, __file__, "--measure"] + [word for word in sys.argv[1:] if not word.startswith("--peer")]
    print("%5s %14s %14s %6s %16s" % ("round", "ours images/s", "peer images/s", "ratio", "data / in memory"))
    ratios, shares = [], []
    for number in range(1, arguments.rounds + 1):
        figures = last_json(ours)
        shares.append(figures["from_data"] / figures["in_memory"])
        peer = last_json(shlex.split(arguments.peer))["best_eager"] if arguments.peer else None
        if peer:
            ratios.append(figures["step"] / peer)
        print("%5d %14.1f %14s %6s %16.3f" % (number, figures["step"], "%.1f" % peer if peer else "-",
                                              "%.2f" % ratios[-1] if peer else "-", shares[-1]), flush=True)
    print("%s, batch %d, median of %d rounds: %s%.3f of the in-memory speed on %s" % (
        figures["compute_dtype"], arguments.batch, arguments.rounds,
        "%.2f x the peer's best eager mode; " % statistics.median(ratios) if ratios else "", statistics.median(shares),
        "real data" if arguments.data_path else "random images"))


if __name__ == "__main__":
    main()
