#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds objects in image files with an exported model: annotated pictures and detections.json.

    python detect.py --model=EXPORT --output_path=OUT a.jpg b.jpg

EXPORT is what export_model.py wrote, or the saved_model/ or frozen_graph.pb in it. detections.json is a list with one
entry a file: image (path), width_px, height_px, detections; each of these has class, confidence and box_xyxy_px (left,
top, right, bottom in pixels of the upright image, from 0, right and bottom just outside).
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import ssdutils  # noqa: E402
from common import files, flags, runlog  # noqa: E402
from common.files import DataError, prepare_output_dir  # noqa: E402
from common.graph_files import FROZEN_GRAPH, SAVED_MODEL  # noqa: E402
from export_model import DESCRIPTION  # noqa: E402

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


def find_model(path):
    """Where an exported model and its description are.

    Args:
      path: the export's folder, or what is named in parse_args.
    Returns:
      (path of the frozen graph or of the SavedModel's folder, description as dict).
    Raises:
      DataError: there is no model, no description, or one of an unknown preset.
    """
    path = os.path.normpath(path)
    folder = path if os.path.isdir(path) and os.path.basename(path) != SAVED_MODEL else os.path.dirname(path)
    candidates = [path] if folder != path else [os.path.join(path, FROZEN_GRAPH), os.path.join(path, SAVED_MODEL)]
    model = next((candidate for candidate in candidates if os.path.isfile(candidate) or os.path.isfile(
        os.path.join(candidate, "saved_model.pb"))), None)
    if model is None:
        raise DataError(path, "%s or %s/" % (FROZEN_GRAPH, SAVED_MODEL), "neither", "make them with export_model.py")
    description = files.read_json(os.path.join(folder, DESCRIPTION)) or {}
    if description.get("preset") not in ssdutils.PRESETS or not {"classes", "input", "output"} <= set(description):
        raise DataError(os.path.join(folder, DESCRIPTION), "preset, classes, input and output of the export",
                        ", ".join(sorted(description)) or "no such file", "keep it as export_model.py wrote it")
    return model, description


def load(tf, session, model, names):
    """Loads a frozen graph or a SavedModel into the session's graph; returns its tensors of these names.

    Raises:
      DataError: the file is damaged, or has no such tensors.
    """
    from google.protobuf.message import DecodeError
    try:
        if os.path.isdir(model):
            tf.saved_model.loader.load(session, [tf.saved_model.tag_constants.SERVING], model)
        else:
            with open(model, "rb") as file:
                tf.import_graph_def(tf.GraphDef.FromString(file.read()), name="")
        return [session.graph.get_tensor_by_name(name) for name in names]
    except (tf.errors.OpError, DecodeError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise DataError(model, "an exported model with %s" % " and ".join(names), str(error).split("\n")[0],
                        "export it again") from error


def detect(parsed):
    """Writes pictures and JSON; returns 1 when an image cannot be read, else 0. Raises DataError."""
    import cv2
    import numpy as np

    from utils import read_image
    model, description = find_model(parsed.model)
    preset = ssdutils.PRESETS[description["preset"]]
    prepare_output_dir(parsed.output_path)
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    tf.reset_default_graph()
    session = tf.Session(config=runtime.session_config())
    image_input, result = load(tf, session, model, [description["input"], description["output"]])
    entries, failed, taken = [], 0, {DETECTIONS_FILE}
    bar = runlog.progress_bar(len(parsed.images), 0)
    bar.unit = "image"
    for first in range(0, len(parsed.images), parsed.batch_size):
        pictures = []
        for path in parsed.images[first:first + parsed.batch_size]:
            try:
                pictures.append((path, read_image(path, upright=True)))
            except (OSError, ValueError) as error:
                failed = 1
                reason = getattr(error, "strerror", None) or "found no image: the file %s" % error
                print("%s: %s" % (path, reason), file=sys.stderr)
        pixels = np.zeros((parsed.batch_size, preset.image_px, preset.image_px, 3), np.uint8)
        for position, (_, image) in enumerate(pictures):
            pixels[position] = cv2.resize(image, (preset.image_px, preset.image_px))
        for (path, image), predictions in zip(pictures, session.run(result, {image_input: pixels})):
            boxes_xyxy, class_ids, confidences = ssdutils.detect(
                predictions[:, :-4], predictions[:, -4:], ssdutils.default_boxes(preset), parsed.confidence)
            boxes_px = boxes_xyxy * (image.shape[1::-1] * 2)
            entries.append(_entry(path, image, boxes_px, class_ids, confidences, description["classes"]))
            if parsed.pictures:
                drawn = _drawn(image, boxes_px, class_ids, confidences, description["classes"])
                cv2.imwrite(os.path.join(parsed.output_path, _free_name(path, taken)), drawn)
            bar.update()
    bar.close()
    files.write_text(os.path.join(parsed.output_path, DETECTIONS_FILE), json.dumps(entries, indent=1))
    for entry in entries:
        shown = ["%s %.2f" % (detection["class"], detection["confidence"]) for detection in entry["detections"]]
        runlog.say("%s: %s" % (entry["image"], ", ".join(shown) or "nothing"))
    runlog.say("written: %s" % parsed.output_path)
    return failed


def _entry(path, image, boxes_px, class_ids, confidences, classes):
    """What detections.json says of an image."""
    return {"image": path, "width_px": image.shape[1], "height_px": image.shape[0], "detections": [
        {"class": classes[class_id], "confidence": round(float(confidence), 4), "box_xyxy_px": box.round(1).tolist()}
        for class_id, confidence, box in zip(class_ids, confidences, boxes_px)]}


def _drawn(image, boxes_px, class_ids, confidences, classes):
    """An image with detections on it."""
    from utils import annotated, class_colours
    colours = class_colours(len(classes))
    captions = ["%s %.2f" % (classes[class_id], confidence) for class_id, confidence in zip(class_ids, confidences)]
    return annotated(image, boxes_px, captions, [colours[class_id] for class_id in class_ids])


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
