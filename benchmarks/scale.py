#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What grows with a cluster and with ImageNet, measured without either: drawn pictures, ranks that idle.

    python benchmarks/scale.py --only=input,records,ranks

    input    pictures/s a core of ShuffleNet's training input, 500x375 JPEGs as large as ImageNet's; processor time
    records  1.28 million small records: to open, to shuffle an epoch, to be at its middle, to read; 1.3 GB of disk
    ranks    64 ranks that do nothing, by the launcher: to start, to stop, to end when one is killed

README.md beside this file says what the output means.
"""
import argparse
import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

import in_turns

FOLDER = "ShufflenetV2_ID0371_For_Tensorflow"
JPEG_SIZE_PX = (500, 375)  # ImageNet's mean; such a file has 110 KB
BATCH = 64

STUB = '''
import os, signal, sys, time
from common import flags
def parse_args(argv=None):
    parser = flags.Parser()
    flags.add_run_group(parser, epochs=1, batch_size=1, precision_mode="force_fp32")
    return parser.parse_args(argv)
def find_data(parsed):
    return None
if __name__ == "__main__":
    parsed = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with open(os.path.join(parsed.output_path, "pid-" + os.environ["RANK_ID"]), "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
'''


def wait(name, value, unit="s"):
    return {"wait": name, "value": value, "unit": unit}


@contextlib.contextmanager
def clock():
    """Yields a list that gets the seconds of the block."""
    seconds, before = [], time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - before)


def draw_jpeg(random):
    """A JPEG of ImageNet's mean dimensions and of about its mean number of bytes: smooth shapes under fine grain."""
    import cv2
    import numpy as np
    coarse = random.randint(0, 256, (6, 8, 3)).astype(np.float32)
    picture = cv2.resize(coarse, JPEG_SIZE_PX, interpolation=cv2.INTER_CUBIC)
    picture += random.normal(0, 20, picture.shape)
    return cv2.imencode(".jpg", picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def write_shards(folder, payloads, shards, per_shard):
    """A folder as create_tfrecords.py leaves it, whose records are the payloads [(bytes, label), ...] in turns."""
    import numpy as np

    import create_tfrecords
    import records
    framed, names, written = [records.frame(payload) for payload, _ in payloads], [], []
    for shard in range(shards):
        numbers = [(shard * per_shard + place) % len(payloads) for place in range(per_shard)]
        content = b"".join(framed[number] for number in numbers)
        lengths = np.array([len(framed[number]) for number in numbers])
        index = np.stack([np.cumsum(lengths) - lengths + records.HEADER_BYTES,
                          lengths - records.HEADER_BYTES - records.FOOTER_BYTES,
                          [payloads[number][1] for number in numbers]], 1)
        names.append("train-%05d-of-%05d.tfrecords" % (shard, shards))
        with open(os.path.join(folder, names[-1]), "wb") as file:
            file.write(content)
        written.append({"images": per_shard, "bytes": len(content), "bad": [], "index": index,
                        "sha256": hashlib.sha256(content).hexdigest()})
    classes = ["n%08d" % label for label in range(1 + max(label for _, label in payloads))]
    create_tfrecords._finish(folder, names, written, classes, "drawn", 0)
    return len(classes)


def measure_input(quick):
    """Pictures per second of processor time, from shards in memory to batches of 224 x 224, with the default flags."""
    in_turns.use_folder(FOLDER)
    import numpy as np

    import arguments
    import input_pipeline
    import records
    from common.runtime import open_runtime
    parsed = arguments.parse_args(["--synthetic", "--batch_size=%d" % BATCH])
    random = np.random.RandomState(0)
    jpegs = [draw_jpeg(random) for _ in range(BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        classes = write_shards(folder, [(records.encode_example(jpeg, number), number)
                                        for number, jpeg in enumerate(jpegs)], 1, 10 * BATCH)
        shards, tf = input_pipeline.Shards(folder, classes), open_runtime(parsed).tf
        batch, start = input_pipeline.training_data(
            tf, shards, 0, sys.maxsize, BATCH, 1, parsed.colour_jitter > 0, seed=0,
            min_crop_area=parsed.min_crop_area, colour_jitter=parsed.colour_jitter)
        one_core = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        with tf.Session(config=one_core) as session:
            session.run(start)
            for _ in range(8):  # what is read ahead, and checksums of the first reading
                session.run(batch)
            before, batches = time.process_time(), 2 if quick else 30
            for _ in range(batches):
                session.run(batch)
            seconds = time.process_time() - before
    kilobytes = np.mean([len(jpeg) for jpeg in jpegs]) / 1e3
    yield wait("ShuffleNet's training input, %d x %d JPEGs of %.0f KB" % (JPEG_SIZE_PX + (kilobytes,)),
               batches * BATCH / seconds, "pictures/s and core")


def measure_records(quick):
    """Opening, shuffling, resuming and reading of as many records as ImageNet has."""
    in_turns.use_folder(FOLDER)
    import cv2
    import numpy as np

    import input_pipeline
    import records
    count = 12800 if quick else 1280000
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    payloads = [(records.encode_example(jpeg, label), label) for label in range(1000)]

    def memory_mb():
        with open("/proc/self/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2 ** 20

    with tempfile.TemporaryDirectory() as folder:
        shards_count = 1280 // (100 if quick else 1)
        write_shards(folder, payloads, shards_count, count // shards_count)
        before_mb = memory_mb()
        with clock() as opened:
            shards = input_pipeline.Shards(folder, 1000)
        with clock() as shuffled:
            input_pipeline.epoch_order(len(shards), 0, 0)
        steps = len(shards) // (8 * 128)
        with clock() as resumed:  # the first batch of rank 7 in the middle of epoch 200
            input_pipeline.training_batch(shards, 200 * steps + steps // 2, 128, 0, 0.08, 0.4, rank=7, ranks=8)
        with clock() as read:
            for record in input_pipeline.epoch_order(len(shards), 0, 0).tolist():
                shards.read(record)
        after_mb = memory_mb()
        os.remove(os.path.join(folder, "manifest.json"))
        with clock() as scanned:
            input_pipeline.Shards(folder, 1000)
    name = "%.2f million records, " % (count / 1e6)
    yield wait(name + "open by the index", opened[0])
    yield wait(name + "open without manifest, which reads all headers", scanned[0])
    yield wait(name + "shuffle an epoch", shuffled[0])
    yield wait(name + "first batch of 128 in the middle of epoch 200", resumed[0])
    yield wait(name + "read all once, in shuffled order, checksums included", count / read[0], "records/s")
    yield wait(name + "memory of a rank for them", after_mb - before_mb, "MiB")


def measure_ranks(quick):
    """The launcher's seconds with many ranks that do nothing."""
    count = 4 if quick else 64

    def launched(folder):
        output = os.path.join(folder, "output")
        with clock() as seconds:
            launcher = subprocess.Popen(
                [sys.executable, "-m", "launcher", "--case=acc", "--ranks=%d" % count, "train.py",
                 "--output_path=" + output], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=dict(os.environ, PYTHONPATH=in_turns.ROOT))
            paths = [os.path.join(output, "pid-%d" % rank) for rank in range(count)]
            while not all(os.path.exists(path) and os.path.getsize(path) for path in paths):
                if launcher.poll() is not None:
                    raise in_turns.Failed("the launcher ended with exit code %d" % launcher.returncode)
                time.sleep(0.02)
        return launcher, paths, seconds[0]

    for what in ("asked to stop", "a rank killed"):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "train.py"), "w", encoding="utf-8") as file:
                file.write(STUB)
            launcher, paths, started_sec = launched(folder)
            with clock() as seconds:
                if what == "asked to stop":
                    launcher.send_signal(signal.SIGTERM)
                else:
                    with open(paths[-1], encoding="utf-8") as file:
                        os.kill(int(file.read()), signal.SIGKILL)
                launcher.wait()
        if what == "asked to stop":
            yield wait("%d idle ranks, command to all of them running" % count, started_sec)
        yield wait("%d idle ranks, %s to the end of all" % (count, what), seconds[0])


PARTS = {"input": measure_input, "records": measure_records, "ranks": measure_ranks}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few records and ranks: to see that it runs")
    arguments = parser.parse_args()

    def one_round():
        for part in arguments.only.split(","):
            yield from PARTS[part](arguments.quick)

    return in_turns.run_rounds(arguments.rounds, one_round, arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
