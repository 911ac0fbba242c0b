#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of SSD's input and detection on one core, in processor time: waiting for other programs does not count.

    python benchmarks/ssd_input.py --data_path=DIR

DIR holds a VOCdevkit tree. Input: decoding, augmentation and matching of its 500x375 JPEGs that have three boxes or
more, with the first three. Detection: decoding and non-maximum suppression of one image of 8,732 boxes and 20 classes,
all scores above the confidence of 0.01. README.md beside this file says what the output means.
"""
import argparse
import os
import sys
import tempfile
import time

import in_turns

in_turns.use_folder("SSD-VGG_ID1619_for_TensorFlow")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

import ssdutils  # noqa: E402
import transforms  # noqa: E402

SIZE_PX = (500, 375)


def measure_input(data_path, boxes, preset, images):
    """Record of images/s of one core, with milliseconds by part."""
    import process_dataset
    from training_data import TrainingData
    with tempfile.TemporaryDirectory() as folder:
        data = TrainingData(process_dataset.process(data_path, os.path.join(folder, "processed")))
    chosen = [index for index in range(data.num_train)
              if data.size_px(index, "train") == SIZE_PX and len(data.objects_px(index, "train")[1]) >= boxes]
    if not chosen:
        sys.exit("%s: expected images of %d x %d with %d boxes; found none; try --boxes=1." % ((data_path,) + SIZE_PX
                                                                                          + (boxes,)))
    defaults = ssdutils.default_boxes(preset)
    parts, marks = {"decoding": 0.0, "augmentation": 0.0, "matching": 0.0}, []
    for number in range(images + len(chosen)):
        if number == len(chosen):  # the first round fills the caches
            parts = dict.fromkeys(parts, 0.0)
        marks = [time.process_time()]
        image = data.image(chosen[number % len(chosen)], "train")
        marks.append(time.process_time())
        boxes_px, class_ids, _ = data.objects_px(chosen[number % len(chosen)], "train")
        image, kept_boxes, kept = transforms.augment(image, boxes_px[:boxes], preset.image_px,
                                                     np.random.RandomState([0, number]))
        marks.append(time.process_time())
        ssdutils.targets(ssdutils.xyxy_to_cxcywh(kept_boxes), class_ids[kept], defaults, data.num_classes)
        marks.append(time.process_time())
        for part, before, after in zip(parts, marks, marks[1:]):
            parts[part] += after - before
    return {"comparison": "SSD %s, input on one core, %d x %d with %d boxes" % ((preset.name,) + SIZE_PX + (boxes,)),
            "ours": images / sum(parts.values()),
            "milliseconds": {part: 1000 * seconds / images for part, seconds in parts.items()}}


def measure_detection(preset, repetitions):
    """Records of images/s of one core, for scattered boxes and for boxes that cover each other."""
    defaults, random = ssdutils.default_boxes(preset), np.random.RandomState(0)
    for name, spread in (("scattered", 1.0), ("not moved", 0.0)):
        logits = random.normal(0, 0.3, (len(defaults), 21))
        scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
        offsets = random.normal(0, spread, (len(defaults), 4)).astype(np.float32)
        milliseconds = []
        for _ in range(repetitions):
            before = time.process_time()
            boxes, _, _ = ssdutils.detect(scores, offsets, defaults)
            milliseconds.append(1000 * (time.process_time() - before))
        yield {"comparison": "SSD %s, detection on one core, %d boxes of %d classes, %s" % (
                   preset.name, len(defaults), logits.shape[1] - 1, name),
               "ours": 1000 / np.median(milliseconds), "milliseconds": np.median(milliseconds),
               "above_confidence_fraction": (scores[:, :-1] > 0.01).mean(), "kept": len(boxes)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="folder with a VOCdevkit tree; without it only detection is measured")
    parser.add_argument("--boxes", type=int, default=3, help="objects of an image")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few images: to see that it runs, not for figures")
    parser.add_argument("--preset", choices=sorted(ssdutils.PRESETS), default="vgg300")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    preset = ssdutils.PRESETS[arguments.preset]

    def one_round():
        if arguments.data_path:
            images = 5 if arguments.quick else arguments.images
            yield measure_input(arguments.data_path, arguments.boxes, preset, images)
        yield from measure_detection(preset, 3 if arguments.quick else 50)

    return in_turns.run_rounds(arguments.rounds, one_round, arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
