#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of ShuffleNetV2's training step: against a peer program in turns, from JPEG shards against in memory, and of
create_tfrecords.py.

    python benchmarks/shufflenet_step.py --data_dir=DIR --peer="PYTHON torch_peer.py shufflenet --batch 64 --steps 6"
    python benchmarks/shufflenet_step.py --create=IMAGES

DIR holds train_shards/; IMAGES holds train/<class>/*.JPEG. The peer's last line of output must be a JSON object with
"best_eager" in images/s. Absolute figures drift on a shared machine; the ratios of one run are what to quote.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "ShufflenetV2_ID0371_For_Tensorflow")
BLOCK_STEPS, BLOCKS, WARMUP_STEPS = 15, 4, 5
CREATE_IMAGES = 10000


def measure(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks from shards."""
    sys.path[:0] = [FOLDER, ROOT]
    import train
    from common.runtime import Runtime
    from create_tfrecords import read_manifest
    from input_pipeline import Shards
    parsed = train.parse_args(["--batch_size=%d" % arguments.batch, "--depth_multiplier=" + arguments.width,
                               "--precision_mode=" + arguments.precision_mode, "--synthetic"])
    shards = None
    if arguments.data_dir:
        folder = os.path.join(arguments.data_dir, "train_shards")
        shards = Shards(folder, (read_manifest(folder) or {"num_classes": parsed.num_classes})["num_classes"])
        for record in range(len(shards)):  # from memory, as every epoch after the first reads them
            shards.read(record)
    runtime = Runtime(parsed)
    tf = runtime.tf
    steps = BLOCK_STEPS * BLOCKS
    graph = train.build_graph(runtime, parsed, train.Data(shards, None), 0, steps)
    session = tf.Session(config=runtime.session_config())
    session.run(tf.global_variables_initializer())
    in_memory = train.synthetic_batch(parsed)
    step_sec, block_sec, wait_sec = [], {"in_memory": [], "from_shards": []}, 0.0

    def step(batch):
        before = time.perf_counter()
        session.run([graph.loss, graph.update], {graph.images: batch[0], graph.labels: batch[1], graph.rate: 1e-3})
        return time.perf_counter() - before

    for _ in range(WARMUP_STEPS):
        step(in_memory)
    if shards:
        session.run(graph.next_batch[1])
    for _ in range(BLOCKS):
        before = time.perf_counter()
        step_sec += [step(in_memory) for _ in range(BLOCK_STEPS)]
        middle = time.perf_counter()
        block_sec["in_memory"].append(middle - before)
        if shards:
            for _ in range(BLOCK_STEPS):
                asked = time.perf_counter()
                batch = session.run(graph.next_batch[0])
                wait_sec += time.perf_counter() - asked
                step(batch)
            block_sec["from_shards"].append(time.perf_counter() - middle)
    figures = {name: BLOCK_STEPS * arguments.batch / statistics.median(seconds)
               for name, seconds in block_sec.items() if seconds}
    if shards:
        figures["data_wait"] = wait_sec / sum(block_sec["from_shards"])
    print(json.dumps(dict(figures, step=arguments.batch / statistics.median(step_sec))))


def measure_create(images, workers):
    """Images/s of create_tfrecords.py over CREATE_IMAGES images: those of a folder that need no repair, repeated."""
    sys.path[:0] = [FOLDER, ROOT]
    import create_tfrecords
    import explore_imagenet
    with tempfile.TemporaryDirectory() as folder:
        found = explore_imagenet.class_folders(os.path.join(images, "train"), [])
        whole = []
        for path, class_id in found:
            with open(path, "rb") as file:
                if not create_tfrecords.usable_jpeg(file.read())[1]:
                    whole.append((path, class_id, explore_imagenet.just_name(path)))
        rows = (whole * (CREATE_IMAGES // len(whole) + 1))[:CREATE_IMAGES]
        table, labels = os.path.join(folder, "training_metadata.csv"), os.path.join(folder, "labels.json")
        explore_imagenet._write_table(table, ("path", "wordnet_id", "just_name"), rows)
        with open(labels, "w", encoding="utf-8") as file:
            json.dump(explore_imagenet.class_labels(found, []), file)
        started = time.perf_counter()
        create_tfrecords.create(table, folder, labels, num_shards=64, workers=workers)
        seconds = time.perf_counter() - started
    print("create_tfrecords: %d images in %.1f s with %d processes: %.0f images/s" % (
        len(rows), seconds, workers, len(rows) / seconds))


def last_json(command):
    """Runs a command and reads its last line of output as JSON."""
    return json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder with train_shards/")
    parser.add_argument("--peer", help="command to run in turns with our step")
    parser.add_argument("--create", metavar="IMAGES", help="measure create_tfrecords.py on this image folder instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", default="0.5")
    parser.add_argument("--precision_mode", default="allow_fp32_to_fp16")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    if arguments.create:
        return measure_create(arguments.create, arguments.workers)
    ours = [sys.executable, __file__, "--measure"] + [word for word in sys.argv[1:] if not word.startswith("--peer")]
    print("%5s %14s %14s %6s %18s %10s" % ("round", "ours images/s", "peer images/s", "ratio", "shards / in memory",
                                           "data_wait"))
    ratios, shares = [], []
    for number in range(1, arguments.rounds + 1):
        figures = last_json(ours)
        if arguments.data_dir:
            shares.append(figures["from_shards"] / figures["in_memory"])
        peer = last_json(shlex.split(arguments.peer))["best_eager"] if arguments.peer else None
        if peer:
            ratios.append(figures["step"] / peer)
        print("%5d %14.1f %14s %6s %18s %10s" % (
            number, figures["step"], "%.1f" % peer if peer else "-", "%.2f" % ratios[-1] if peer else "-",
            "%.3f" % shares[-1] if shares else "-", "%.3f" % figures["data_wait"] if shares else "-"), flush=True)
    print("%sx, batch %d, median of %d rounds%s%s" % (
        arguments.width, arguments.batch, arguments.rounds,
        ": %.2f x the peer's best eager mode" % statistics.median(ratios) if ratios else "",
        "; %.3f of the in-memory speed from shards" % statistics.median(shares) if shares else ""))


if __name__ == "__main__":
    main()
