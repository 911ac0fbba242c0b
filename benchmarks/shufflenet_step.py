#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of ShuffleNetV2's training step: against a peer program in turns, from JPEG shards against in memory, and of
create_tfrecords.py.

    python benchmarks/shufflenet_step.py --data_dir=DIR --peer="PYTHON torch_peer.py shufflenet --batch 64 --steps 6"
    python benchmarks/shufflenet_step.py --create=IMAGES

DIR holds train_shards/, or train/<class>/*.JPEG, which are made into shards first; IMAGES holds the latter. README.md
beside this file says what a peer prints and what the output means.
"""
import contextlib
import json
import os
import sys
import tempfile
import time

import in_turns

FOLDER = "ShufflenetV2_ID0371_For_Tensorflow"
PLAN = in_turns.Plan(warmup_steps=5, blocks=4, block_steps=15)
CREATE_IMAGES, QUICK_CREATE_IMAGES = 10000, 500


def measure(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks from shards."""
    in_turns.use_folder(FOLDER)
    import prepare
    import train
    from common.runtime import open_runtime
    from create_tfrecords import read_manifest
    from input_pipeline import Shards
    default = arguments.measure == in_turns.DEFAULT
    parsed = train.parse_args(["--batch_size=%d" % arguments.batch, "--depth_multiplier=" + arguments.width,
                               "--synthetic"] + ([] if default else ["--precision_mode=" + arguments.measure]))
    shards = None
    if arguments.data_dir and default:
        folder, _ = prepare.find_shards(arguments.data_dir, os.path.join(in_turns.ROOT, FOLDER, "data"), "train", True)
        shards = Shards(folder, (read_manifest(folder) or {"num_classes": parsed.num_classes})["num_classes"])
        for record in range(len(shards)):  # from memory, as every epoch after the first reads them
            shards.read(record)
    runtime = open_runtime(parsed)
    tf = runtime.tf
    graph = train.build_graph(runtime, parsed, train.Data(shards, None), 0, sys.maxsize)
    session = tf.Session(config=runtime.session_config())
    session.run(tf.global_variables_initializer())

    def step(batch):
        session.run([graph.loss, graph.update], {graph.images: batch[0], graph.labels: batch[1], graph.rate: 1e-3})

    batches = iter(lambda: session.run(graph.next_batch[0]), None)
    if shards:
        session.run(graph.next_batch[1])
    plan = in_turns.QUICK_PLAN if arguments.quick else PLAN
    figures = in_turns.time_steps(step, train.synthetic_batch(parsed), arguments.batch, plan,
                                  (lambda _: contextlib.nullcontext(batches)) if shards else None)
    in_turns.report(figures, arguments.batch, tf.float32 if runtime.device == "cpu" else runtime.compute_dtype,
                    graph.loss)


def measure_create(images, workers, count):
    """Record of create_tfrecords.py over `count` images: those of a folder that need no repair, repeated."""
    in_turns.use_folder(FOLDER)
    import create_tfrecords
    import explore_imagenet
    with tempfile.TemporaryDirectory() as folder:
        found = explore_imagenet.class_folders(os.path.join(images, "train"), [])
        whole = []
        for path, class_id in found:
            with open(path, "rb") as file:
                if not create_tfrecords.usable_jpeg(file.read())[1]:
                    whole.append((path, class_id, explore_imagenet.just_name(path)))
        rows = (whole * (count // len(whole) + 1))[:count]
        table, labels = os.path.join(folder, "training_metadata.csv"), os.path.join(folder, "labels.json")
        explore_imagenet._write_table(table, ("path", "wordnet_id", "just_name"), rows)
        with open(labels, "w", encoding="utf-8") as file:
            json.dump(explore_imagenet.class_labels(found, []), file)
        started = time.perf_counter()
        create_tfrecords.create(table, folder, labels, num_shards=64, workers=workers)
        seconds = time.perf_counter() - started
    return {"comparison": "create_tfrecords.py, %d processes" % workers, "ours": len(rows) / seconds}


def main():
    parser = in_turns.parser(__doc__, batch=64)
    parser.add_argument("--data_dir", help="ImageNet; without it nothing is read from shards")
    parser.add_argument("--create", metavar="IMAGES", help="measure create_tfrecords.py on this image folder instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of --create")
    parser.add_argument("--width", default="0.5")
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    if arguments.create:
        images = QUICK_CREATE_IMAGES if arguments.quick else CREATE_IMAGES
        return in_turns.run_rounds(
            arguments.rounds, lambda: [measure_create(arguments.create, arguments.workers, images)], arguments.quick)
    return in_turns.compare_steps(arguments, __file__, "ShuffleNetV2 %sx" % arguments.width, "JPEG shards")


if __name__ == "__main__":
    sys.exit(main())
