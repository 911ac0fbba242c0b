#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of SSD's input and detection on one core, in processor time: waiting for other programs does not count.

    python benchmarks/ssd_input.py --data_path=DIR

DIR holds a VOCdevkit tree. Input: decoding, augmentation and matching of its 500x375 JPEGs that have three boxes or
more, with the first three. Detection: decoding and non-maximum suppression of one image of 8,732 boxes and 20 classes,
all scores above the confidence of 0.01.
"""
import argparse
import os
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "SSD-VGG_ID1619_for_TensorFlow"), ROOT]

import cv2  # noqa: E402
import numpy as np  # noqa: E402

import ssdutils  # noqa: E402
import transforms  # noqa: E402

SIZE_PX = (500, 375)


def measure_input(data_path, boxes, preset, images):
    """Prints images/s of one core, by part."""
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
    print("input, %s, %d images of %d x %d, %d boxes: %.0f images/s per core (%s)" % (
        (preset.name, images) + SIZE_PX + (boxes, images / sum(parts.values()), ", ".join(
            "%s %.2f ms" % (part, 1000 * seconds / images) for part, seconds in parts.items()))), flush=True)


def measure_detection(preset, rounds=50):
    """Prints milliseconds for one image, for scattered boxes and for boxes that cover each other."""
    defaults, random = ssdutils.default_boxes(preset), np.random.RandomState(0)
    for name, spread in (("scattered", 1.0), ("as they are", 0.0)):
        logits = random.normal(0, 0.3, (len(defaults), 21))
        scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
        offsets = random.normal(0, spread, (len(defaults), 4)).astype(np.float32)
        milliseconds = []
        for _ in range(rounds):
            before = time.process_time()
            boxes, _, _ = ssdutils.detect(scores, offsets, defaults)
            milliseconds.append(1000 * (time.process_time() - before))
        print("detection, %s, %d x 21 scores, %.0f %% above 0.01, default boxes %s: median %.1f ms, %d kept" % (
            preset.name, len(defaults), 100 * (scores[:, :-1] > 0.01).mean(), name, np.median(milliseconds),
            len(boxes)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", help="folder with a VOCdevkit tree; without it only detection is measured")
    parser.add_argument("--boxes", type=int, default=3, help="objects of an image")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--preset", choices=sorted(ssdutils.PRESETS), default="vgg300")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    preset = ssdutils.PRESETS[arguments.preset]
    if arguments.data_path:
        measure_input(arguments.data_path, arguments.boxes, preset, arguments.images)
    measure_detection(preset)


if __name__ == "__main__":
    main()
