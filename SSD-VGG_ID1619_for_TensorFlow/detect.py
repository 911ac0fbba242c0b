#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds objects in image files with an exported model: annotated pictures and detections.json.

    python detect.py --model=EXPORT --output_path=OUT a.jpg b.jpg

EXPORT is what export_model.py wrote, or the saved_model/ or frozen_graph.pb in it. detections.json is a list with one
entry a file: image (path), width_px, height_px, detections; each of these has class, confidence and box_xyxy_px (left,
top, right, bottom in pixels of the upright image, from 0, right and bottom just outside).
"""
import collections
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import ssdutils  # noqa: E402
from common import export, files, flags, progress, runlog  # noqa: E402
from common.files import DataError, prepare_output_dir  # noqa: E402
from export_model import NAME  # noqa: E402

DETECTIONS_FILE = "detections.json"


def parse_args(argv=None):
    """Flags of the detection."""
    parser = flags.Parser(prog="detect.py", description="Finds objects in image files with an exported model.")
    parser.add_argument("--model", type=flags.input_path, required=True,
                        help="folder of export_model.py, or saved_model/ or frozen_graph.pb in it")
    parser.add_argument("--output_path", type=flags.output_path, default="detections",
                        help="folder for the pictures and %s" % DETECTIONS_FILE)
    parser.add_argument("--confidence", type=flags.number(above=0, below=1), default=0.5,
                        help="from which a detection counts")
    parser.add_argument("--batch_size", type=flags.integer(1), default=8, help="images per forward pass")
    parser.add_bool(parser, "--pictures", True, help="write annotated pictures")
    parser.add_argument("images", nargs="+", type=flags.input_path, help="image files")
    flags.add_device_group(parser, precision_mode="must_keep_origin_dtype")
    return parser.parse_args(argv)


def open_model(tf, path):
    """Opens an export.

    Args:
      tf: tensorflow.compat.v1.
      path: the export's folder, or what is named in parse_args.
    Returns:
      (description, the dict of model.json; function: [B, P, P, 3] BGR -> float32 [B, N, C + 1 + 4] of ssdvgg.result).
    Raises:
      DataError: there is no model, no description, or one of an unknown preset.
    """
    path = os.path.normpath(path)
    inside = os.path.basename(path) == export.SAVED_MODEL or os.path.isfile(path)
    folder = os.path.dirname(path) if inside else path
    if os.path.basename(path) != export.SAVED_MODEL:
        exported = export.open_export(tf, folder, NAME)
        description, run = exported
    else:
        description = export.describe(folder, NAME)
        run = export.run_saved_model(tf, path, description)
    if description.get("preset") not in ssdutils.PRESETS:
        raise DataError(os.path.join(folder, export.DESCRIPTION), "preset, one of %s" % ", ".join(
            sorted(ssdutils.PRESETS)), description.get("preset"), "keep it as export_model.py wrote it")
    return description, lambda images: run(images)["result"]


Found = collections.namedtuple("Found", "path image boxes_xyxy_px class_ids confidences")
Found.__doc__ = """What a network finds in a picture: uint8 [H, W, 3] BGR, upright; float32 [K, 4] in its pixels, which
count from 0, right and bottom just outside; int32 [K]; float32 [K], falling."""


def find_objects(paths, preset, run, confidence, batch_size=8):
    """Finds objects in picture files, by batches of one size.

    Args:
      paths: list of str.
      preset: ssdutils.Preset.
      run: as from open_model.
      confidence: float, from which a detection counts.
      batch_size: int.
    Yields:
      Found, or (path, reason) for a file that cannot be read.
    """
    import cv2
    import numpy as np

    from utils import read_image
    bar = progress.bar(len(paths), "detecting")
    for first in range(0, len(paths), batch_size):
        pictures = []
        for path in paths[first:first + batch_size]:
            try:
                pictures.append((path, read_image(path, upright=True)))
            except (OSError, ValueError) as error:
                yield path, getattr(error, "strerror", None) or "found no image: the file %s" % error
        pixels = np.zeros((batch_size, preset.image_px, preset.image_px, 3), np.uint8)
        for position, (_, image) in enumerate(pictures):
            pixels[position] = cv2.resize(image, (preset.image_px, preset.image_px))
        for (path, image), result in zip(pictures, run(pixels) if pictures else ()):
            boxes_xyxy, class_ids, confidences = ssdutils.detect(
                result[:, :-4], result[:, -4:], ssdutils.default_boxes(preset), confidence)
            yield Found(path, image, boxes_xyxy * (image.shape[1::-1] * 2), class_ids, confidences)
            bar.update()
    bar.close()


def detect(parsed):
    """Writes pictures and JSON; returns 1 when an image cannot be read, else 0. Raises DataError."""
    prepare_output_dir(parsed.output_path)
    from common.runtime import open_runtime
    tf = open_runtime(parsed).tf
    description, run = open_model(tf, parsed.model)
    classes, entries, failed, taken = description["classes"], [], 0, {DETECTIONS_FILE}
    for found in find_objects(parsed.images, ssdutils.PRESETS[description["preset"]], run, parsed.confidence,
                              parsed.batch_size):
        if len(found) == 2:
            failed = 1
            print("%s: %s" % found, file=sys.stderr)
            continue
        entries.append(_entry(found, classes))
        if parsed.pictures:
            write_picture(parsed.output_path, found, classes, taken)
    files.write_text(os.path.join(parsed.output_path, DETECTIONS_FILE), json.dumps(entries, indent=1))
    for entry in entries:
        shown = ["%s %.2f" % (detection["class"], detection["confidence"]) for detection in entry["detections"]]
        runlog.say("%s: %s" % (entry["image"], ", ".join(shown) or "nothing"))
    runlog.say("written: %s" % parsed.output_path)
    return failed


def _entry(found, classes):
    """What detections.json says of an image."""
    return {"image": found.path, "width_px": found.image.shape[1], "height_px": found.image.shape[0], "detections": [
        {"class": classes[class_id], "confidence": round(float(confidence), 4), "box_xyxy_px": box.round(1).tolist()}
        for class_id, confidence, box in zip(found.class_ids, found.confidences, found.boxes_xyxy_px)]}


def write_picture(folder, found, classes, taken):
    """Draws a Found into a file of its name; returns the drawing, uint8 [H, W, 3] BGR.

    Args:
      taken: set of names that are in the folder; gets this one.
    """
    import cv2

    from utils import annotated, class_colours
    colours = class_colours(len(classes))
    captions = ["%s %.2f" % (classes[class_id], confidence)
                for class_id, confidence in zip(found.class_ids, found.confidences)]
    drawn = annotated(found.image, found.boxes_xyxy_px, captions, [colours[class_id] for class_id in found.class_ids])
    cv2.imwrite(os.path.join(folder, _free_name(found.path, taken)), drawn)
    return drawn


def _free_name(path, taken):
    """A file name for an annotated picture that no other one has."""
    stem, number = os.path.splitext(os.path.basename(path))[0], 1
    name = stem + ".jpg"
    while name in taken:
        number += 1
        name = "%s-%d.jpg" % (stem, number)
    taken.add(name)
    return name


def main(argv=None):
    return runlog.guarded(detect, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
