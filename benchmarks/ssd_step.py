#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of SSD300's training step: against a peer program in turns, and on real data against data in memory.

    python benchmarks/ssd_step.py --data_path=DIR --peer="PYTHON torch_peer.py ssd --batch 8 --steps 4"

Runs in turns: our step in float32, our step with allow_mix_precision (bfloat16), the peer. The peer prints JSON
objects with "mode" and "images_per_sec", a last one with "best_eager". Absolute figures drift on a shared machine; the
ratios of one run are what to quote.
"""
import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "SSD-VGG_ID1619_for_TensorFlow")
BLOCK_STEPS, BLOCKS, WARMUP_STEPS = 4, 3, 2


def measure(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks on real data."""
    sys.path[:0] = [FOLDER, ROOT]
    import train
    from common.runtime import Runtime
    parsed = train.parse_args(["--batch_size=%d" % arguments.batch, "--preset=" + arguments.preset,
                               "--precision_mode=" + arguments.measure] +
                              (["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"]))
    data = train.load_data(parsed)
    runtime = Runtime(parsed, large_kernels=True)
    graph = train.build_graph(runtime, parsed, data.num_classes if data else train.SYNTHETIC_CLASSES, False)
    session = runtime.tf.Session(config=runtime.session_config())
    session.run(runtime.tf.global_variables_initializer())
    if data:
        with train.training_batches(parsed, data, runtime, 0, 1) as batches:
            in_memory = tuple(array.copy() for array in next(batches)[1])
    else:
        in_memory = train.synthetic_batch(parsed)
    step_sec, block_sec = [], {"in_memory": [], "from_data": []}

    def step(batch):
        before = time.perf_counter()
        session.run([graph.confidence, graph.localisation, graph.update],
                    dict(zip((graph.images, graph.class_ids, graph.offsets, graph.rate), batch + (1e-6,))))
        return time.perf_counter() - before

    for _ in range(WARMUP_STEPS):
        step(in_memory)
    for block in range(BLOCKS):
        before = time.perf_counter()
        step_sec += [step(in_memory) for _ in range(BLOCK_STEPS)]
        block_sec["in_memory"].append(time.perf_counter() - before)
        if data:  # the workers live only here: what they make ahead must not slow the steps in memory
            first = block * (BLOCK_STEPS + 1)
            with train.training_batches(parsed, data, runtime, first, first + 100) as batches:
                step(next(batches)[1])
                before = time.perf_counter()
                for _ in range(BLOCK_STEPS):
                    step(next(batches)[1])
                block_sec["from_data"].append(time.perf_counter() - before)
    figures = {name: BLOCK_STEPS * arguments.batch / statistics.median(seconds)
               for name, seconds in block_sec.items() if seconds}
    print(json.dumps(dict(figures, step=arguments.batch / statistics.median(step_sec),
                          compute_dtype=runtime.compute_dtype.name,
                          peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def json_lines(command):
    """Runs a command and reads the lines of its output that are JSON objects."""
    said = subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().splitlines()
    return [json.loads(line) for line in said if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="Pascal VOC; random images without it")
    parser.add_argument("--peer", help="command to run in turns with our steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--preset", default="vgg300")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    ours = [[sys.executable, __file__, "--measure=" + mode, "--batch=%d" % arguments.batch,
             "--preset=" + arguments.preset] + (["--data_path=" + arguments.data_path] if arguments.data_path else [])
            for mode in ("force_fp32", "allow_mix_precision")]
    ratios = {}
    for number in range(1, arguments.rounds + 1):
        float32, mixed = (json_lines(command)[-1] for command in ours)
        figures = {"float32 step": float32["step"], "%s step" % mixed["compute_dtype"]: mixed["step"]}
        found = {"%s step / float32 step" % mixed["compute_dtype"]: mixed["step"] / float32["step"]}
        if arguments.data_path:
            found.update({"%s from data / in memory" % one["compute_dtype"]: one["from_data"] / one["in_memory"]
                          for one in (float32, mixed)})
        if arguments.peer:
            lines = json_lines(shlex.split(arguments.peer))
            peer_float32 = max(line["images_per_sec"] for line in lines if "bf16" not in line.get("mode", "bf16"))
            best = lines[-1]["best_eager"]
            figures.update({"peer's best fp32": peer_float32, "peer's best eager": best})
            found.update({"float32 step / peer's best fp32": float32["step"] / peer_float32,
                          "%s step / peer's best eager" % mixed["compute_dtype"]: mixed["step"] / best})
        print("round %d, images/s: %s; peak memory %d MB in float32, %d MB in %s" % (
            number, ", ".join("%s %.2f" % item for item in figures.items()), float32["peak_rss_mb"],
            mixed["peak_rss_mb"], mixed["compute_dtype"]), flush=True)
        for name, ratio in found.items():
            ratios.setdefault(name, []).append(ratio)
    print("%-40s %6s %6s %6s" % ("%s, batch %d, %d rounds" % (arguments.preset, arguments.batch, arguments.rounds),
                                 "median", "least", "most"))
    for name, values in ratios.items():
        print("%-40s %6.2f %6.2f %6.2f" % (name, statistics.median(values), min(values), max(values)))


if __name__ == "__main__":
    main()
