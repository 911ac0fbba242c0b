#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of CutMix's training: against a peer program, against the published way of writing it, and of tf.data.

    python benchmarks/cutmix_step.py --data_path=DIR --peer="PYTHON torch_peer.py resnet20 --batch 32 --steps 60"

The published way is Keras' fit, Adam, one crop and one pad per image in tf.data, unfused batch normalisation. README.md
beside this file says what a peer prints and what the output means.
"""
import contextlib
import json
import sys
import time

import in_turns

MODEL, FOLDER = "CutMix's ResNet-20", "cutmix_ID2502_for_TensorFlow2.X"
PLAN = in_turns.Plan(warmup_steps=10, blocks=4, block_steps=40)
RECIPE = ["--optimizer=sgd", "--alpha=1", "--cutmix_probability=0.5", "--crop_and_flip"]  # of test/train_full_1p.sh
PUBLISHED = "published"  # of --measure


def measure_ours(arguments, plan):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks from tf.data."""
    in_turns.use_folder(FOLDER)
    import train
    from common.runtime import open_runtime
    default = arguments.measure == in_turns.DEFAULT
    parsed = train.parse_args(
        RECIPE + ["--batch_size=%d" % arguments.batch,
                  "--precision_mode=" + ("allow_mix_precision" if default else arguments.measure)] +
        (["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"]))
    data = train.load_data(parsed)
    runtime = open_runtime(parsed, keras=True)
    import input_pipeline
    tf = runtime.tf
    training = train.build_training(runtime, parsed)
    batches = iter(input_pipeline.training_batches(data.train_images, data.train_labels, 10, parsed, 0))
    in_memory, rate = next(batches), tf.constant(1e-3)

    def step(batch):
        float(training.step(*batch, rate))

    scores = tf.function(lambda images: training.network(images, training=True)).get_concrete_function(in_memory[0])
    in_turns.report(in_turns.time_steps(step, in_memory, arguments.batch, plan,
                                        (lambda _: contextlib.nullcontext(batches)) if default else None),
                    arguments.batch, runtime.compute_dtype, scores.outputs[0])


def measure_published(arguments, plan):
    """Prints one JSON object: images/s of Keras' fit with CutMix image by image, as keras.io's example has it."""
    in_turns.use_folder(FOLDER)
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
    steps = plan.block_steps * plan.blocks
    model.fit(batches, epochs=2, steps_per_epoch=steps, callbacks=[clock], verbose=0)  # the first one compiles
    print(json.dumps({"images_per_sec": steps * arguments.batch / (marks[1] - marks[0])}))


def against_published(ours, default):
    """Record of training from tf.data, augmentation included, against Keras' fit in float32 doing the same."""
    yield {"comparison": MODEL + ", training against the published way", "precision": default["compute_dtype"],
           "ours": default["from_data"], "other": ours(PUBLISHED)["images_per_sec"], "other_name": "Keras' fit"}


def main():
    parser = in_turns.parser(__doc__, batch=32)
    parser.add_argument("--data_path", help="CIFAR-10; random images without it")
    arguments = parser.parse_args()
    if arguments.measure:
        measure = measure_published if arguments.measure == PUBLISHED else measure_ours
        return measure(arguments, in_turns.QUICK_PLAN if arguments.quick else PLAN)
    return in_turns.compare_steps(arguments, __file__, MODEL, "CIFAR-10" if arguments.data_path else "random images",
                                  against_published)


if __name__ == "__main__":
    sys.exit(main())
