#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds objects in pictures.

    python predict.py PICTURES                                      by the run in test/output/0
    python predict.py --checkpoint=RUN_OR_FILE a.jpg FOLDER         by another run, a checkpoint, PyTorch's SSD300
    python predict.py --model=EXPORT FOLDER                         by an exported model

Prints a table; --output_path gets predictions.csv, predictions.json, every picture with its boxes and a sheet of them.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import detect  # noqa: E402
import ssdutils  # noqa: E402
import weights  # noqa: E402
from common import flags, pictures, predictions, runlog  # noqa: E402
from common.files import prepare_output_dir  # noqa: E402
from export_model import NAME  # noqa: E402

PICTURES_FOLDER = "pictures"
BATCH_SIZE, SHOWN = 8, 64


def parse_args(argv=None):
    """Flags of the prediction."""
    parser = flags.Parser(prog="predict.py", description=__doc__.split("\n")[0])
    flags.add_predict_group(parser, flags.default_output_path(HERE))
    parser.add_argument("--confidence", type=flags.number(above=0, below=1), default=0.5,
                        help="from which a detection counts")
    parser.add_argument("--preset", choices=sorted(ssdutils.PRESETS),
                        help="of a checkpoint that does not say; then vgg300 without it")
    weights.add_colours(parser)
    parser.set_defaults(top=ssdutils.MAX_DETECTIONS)
    flags.add_device_group(parser, precision_mode="must_keep_origin_dtype")
    return parser.parse_args(argv)


def predict(parsed):
    """Writes what is found; returns 0, or 1 when no file could be read. Raises DataError."""
    paths = pictures.find(parsed.pictures)
    source = None if parsed.model else weights.find(parsed.checkpoint, parsed.best, parsed.colours)
    folder = prepare_output_dir(os.path.join(prepare_output_dir(parsed.output_path), PICTURES_FOLDER))
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    if parsed.model:
        description, run = detect.open_model(runtime.tf, parsed.model)
        classes, preset, about = description["classes"], description["preset"], {"export": parsed.model}
    else:
        classes, preset, run = open_weights(runtime, source, parsed.preset)
        about = {"checkpoint": source.path, "step": source.state.get("step")}
    found, passed_over, shown, taken = [], [], [], set()
    for one in detect.find_objects(paths, ssdutils.PRESETS[preset], run, parsed.confidence, BATCH_SIZE):
        if len(one) == 2:
            passed_over.append(one)
            continue
        drawn = detect.write_picture(folder, one, classes, taken)
        found.append((one.path, guesses(one, classes)[:parsed.top]))
        shown += [drawn[..., ::-1]] if len(shown) < SHOWN else []
    print(predictions.table(found, passed_over))
    predictions.write(parsed.output_path, found, passed_over, dict(about, model=NAME, classes=list(classes)))
    if found:
        sheet = os.path.join(parsed.output_path, predictions.SHEET)
        pictures.contact_sheet(sheet, shown, [os.path.basename(path) for path, _ in found[:SHOWN]], most=SHOWN)
        print("contact sheet: %s\npictures: %s" % (sheet, folder))
    return 0 if found else 1


def open_weights(runtime, source, preset):
    """The network with these weights.

    Args:
      runtime: of runtime.open_runtime.
      source: weights.Source.
      preset: what --preset says, or None.
    Returns:
      (names of the classes, name of the preset, function: uint8 [B, P, P, 3] BGR -> result of ssdvgg.result).
    """
    import ssdvgg
    tf, preset = runtime.tf, weights.preset_of(source, preset)
    classes = weights.class_names(tf, source)
    tf.reset_default_graph()
    side_px = ssdutils.PRESETS[preset].image_px
    images = tf.placeholder(tf.uint8, [None, side_px, side_px, 3], "image_input")
    result = ssdvgg.result(*ssdvgg.predictions(images, ssdutils.PRESETS[preset], len(classes),
                                               **weights.network_options(source)))
    session = tf.Session(config=runtime.session_config())
    weights.restore(tf, session, source, preset)
    return classes, preset, lambda pixels: session.run(result, {images: pixels})


def guesses(found, classes):
    """What predictions.json says of a detect.Found: list of {"class", "probability", "left", "top", "right", "bottom"},
    the last four in pixels of the upright picture."""
    edges = ("left", "top", "right", "bottom")
    return [dict({"class": classes[class_id], "probability": round(float(confidence), 6)},
                 **dict(zip(edges, box.round(1).tolist())))
            for class_id, confidence, box in zip(found.class_ids, found.confidences, found.boxes_xyxy_px)]


def main(argv=None):
    return runlog.guarded(predict, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
