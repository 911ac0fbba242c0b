#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of CutMix's training: against a peer program, against the published way of writing it, and of tf.data.

    python benchmarks/cutmix_step.py --data_path=DIR --peer="PYTHON torch_peer.py resnet20 --batch 32 --steps 60"

Runs in turns: our step in float32, our step in the default precision, the published way (Keras' fit, Adam, one crop and
one pad per image in tf.data, unfused batch normalisation), the peer. The peer prints JSON objects with "mode" and
"images_per_sec". Absolute figures drift on a shared machine; the ratios of one run are what to quote.
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
FOLDER = os.path.join(ROOT, "cutmix_ID2502_for_TensorFlow2.X")
BLOCK_STEPS, BLOCKS = 50, 4
RECIPE = ["--optimizer=sgd", "--alpha=1", "--cutmix_probability=0.5", "--crop_and_flip"]  # of test/train_full_1p.sh


def measure_ours(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks from tf.data."""
    sys.path[:0] = [FOLDER, ROOT]
    import train
    from common.runtime import Runtime
    parsed = train.parse_args(RECIPE + ["--batch_size=%d" % arguments.batch, "--precision_mode=" + arguments.measure] +
                              (["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"]))
    data = train.load_data(parsed)
    runtime = Runtime(parsed, keras=True)
    import input_pipeline
    training = train.build_training(runtime, parsed)
    batches = iter(input_pipeline.training_batches(data.train_images, data.train_labels, 10, parsed, 0))
    in_memory, rate = next(batches), runtime.tf.constant(1e-3)
    step_sec, block_sec = [], {"in_memory": [], "from_data": []}

    def step(batch):
        before = time.perf_counter()
        float(training.step(*batch, rate))
        return time.perf_counter() - before

    for _ in range(10):
        step(in_memory)
    for _ in range(BLOCKS):
        before = time.perf_counter()
        step_sec += [step(in_memory) for _ in range(BLOCK_STEPS)]
        block_sec["in_memory"].append(time.perf_counter() - before)
        for _ in range(5):  # what was prefetched meanwhile
            next(batches)
        before = time.perf_counter()
        for _ in range(BLOCK_STEPS):
            step(next(batches))
        block_sec["from_data"].append(time.perf_counter() - before)
    figures = {name: BLOCK_STEPS * arguments.batch / statistics.median(seconds) for name, seconds in block_sec.items()}
    print(json.dumps(dict(figures, step=arguments.batch / statistics.median(step_sec),
                          compute_dtype=runtime.compute_dtype.name)))


def measure_published(arguments):
    """Prints one JSON object: images/s of Keras' fit with CutMix image by image, as keras.io's example has it."""
    sys.path[:0] = [FOLDER, ROOT]
    import train
    parsed = train.parse_args(["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"])
    data = train.load_data(parsed)
    import tensorflow as tf
    keras = tf.keras

    def mix(one, other):
        (image, label), (image2, label2) = one, other
        gamma = tf.random.gamma([2], 0.25)
        side = tf.cast(32.0 * tf.sqrt(1.0 - tf.math.divide_no_nan(gamma[0], gamma[0] + gamma[1])), tf.int32) // 2
        centre = tf.random.uniform([2], 0, 32, tf.int32)
        first, last = tf.clip_by_value(centre - side, 0, 31), tf.clip_by_value(centre + side, 0, 32)
        size = tf.maximum(last - first, 1)

        def box_of(source):
            cropped = tf.image.crop_to_bounding_box(source, first[0], first[1], size[0], size[1])
            return tf.image.pad_to_bounding_box(cropped, first[0], first[1], 32, 32)
        share = tf.cast(size[0] * size[1], tf.float32) / 1024.0
        return image - box_of(image) + box_of(image2), (1.0 - share) * label + share * label2

    def prepared(image, label):
        return tf.image.resize(image, (32, 32)) / 255.0, tf.one_hot(label, 10)

    def shuffled():
        images = tf.data.Dataset.from_tensor_slices((data.train_images, data.train_labels))
        return images.shuffle(1024).map(prepared, num_parallel_calls=tf.data.AUTOTUNE)

    def convolution(x, channels, kernel_px, stride=1):
        return keras.layers.Conv2D(channels, kernel_px, stride, padding="same", kernel_initializer="he_normal",
                                   kernel_regularizer=keras.regularizers.l2(1e-4))(x)

    def normalised(x):
        return keras.layers.BatchNormalization()(x)

    inputs = keras.Input([32, 32, 3])
    x = keras.layers.ReLU()(normalised(convolution(inputs, 16, 3)))
    for channels in (16, 32, 64):
        for block in range(3):
            stride = 2 if channels > 16 and block == 0 else 1
            y = keras.layers.ReLU()(normalised(convolution(x, channels, 3, stride)))
            y = normalised(convolution(y, channels, 3))
            x = keras.layers.ReLU()(keras.layers.add([convolution(x, channels, 1, 2) if stride == 2 else x, y]))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(x))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    mixed = tf.data.Dataset.zip((shuffled(), shuffled())).shuffle(1024).map(mix, num_parallel_calls=tf.data.AUTOTUNE)
    batches = mixed.repeat().batch(arguments.batch).prefetch(tf.data.AUTOTUNE)
    marks = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: marks.append(time.perf_counter()))
    steps = BLOCK_STEPS * BLOCKS
    model.fit(batches, epochs=2, steps_per_epoch=steps, callbacks=[clock], verbose=0)  # the first one compiles
    print(json.dumps({"images_per_sec": steps * arguments.batch / (marks[1] - marks[0])}))


def json_lines(command):
    """Runs a command and reads the lines of its output that are JSON objects."""
    said = subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().splitlines()
    return [json.loads(line) for line in said if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="CIFAR-10; random images without it")
    parser.add_argument("--peer", help="command to run in turns with ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return (measure_published if arguments.measure == "published" else measure_ours)(arguments)

    def ours(what):
        words = [word for word in sys.argv[1:] if not word.startswith("--peer")]
        return json_lines([sys.executable, __file__, "--measure=" + what] + words)[-1]

    ratios = {}
    for number in range(1, arguments.rounds + 1):
        float32, default, published = ours("force_fp32"), ours("allow_mix_precision"), ours("published")
        figures = {"float32 step": float32["step"], default["compute_dtype"] + " step": default["step"],
                   "training": default["from_data"], "published": published["images_per_sec"]}
        found = {"training from tf.data / on one batch in memory": default["from_data"] / default["in_memory"],
                 "training / published way": default["from_data"] / published["images_per_sec"],
                 "training in float32 / published way": float32["from_data"] / published["images_per_sec"]}
        if arguments.peer:
            peer = {line["mode"]: line["images_per_sec"] for line in json_lines(shlex.split(arguments.peer))
                    if "mode" in line}
            peer_float32 = max(rate for mode, rate in peer.items() if "bf16" not in mode)
            figures.update({"peer's best fp32": peer_float32, "peer's best": max(peer.values())})
            found.update({"float32 step / peer's best fp32": float32["step"] / peer_float32,
                          "default step / peer's best fp32": default["step"] / peer_float32,
                          "default step / peer's best": default["step"] / max(peer.values())})
        print("round %d, images/s: %s" % (number, ", ".join("%s %.0f" % item for item in figures.items())), flush=True)
        for name, ratio in found.items():
            ratios.setdefault(name, []).append(ratio)
    title = "batch %d, %d rounds" % (arguments.batch, arguments.rounds)
    print("%-48s %6s %6s %6s" % (title, "median", "least", "most"))
    for name, values in ratios.items():
        print("%-48s %6.2f %6.2f %6.2f" % (name, statistics.median(values), min(values), max(values)))


if __name__ == "__main__":
    main()
