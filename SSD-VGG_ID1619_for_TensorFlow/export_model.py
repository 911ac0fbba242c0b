#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a checkpoint as SavedModel, frozen graph and, where it can be had, ONNX: for detect.py and for others.

    python export_model.py --checkpoint=test/output/0 --best --export_dir=EXPORT

EXPORT is what common/export.py writes, with default_boxes_cxcywh.npy; model.json says how to read the result. Tensors:
image_input:0, float32 [B, P, P, 3], BGR 0 to 255; result/result:0, float32 [B, N, C + 1 + 4], confidences with the
background last, then offsets.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import layouts  # noqa: E402
import ssdutils  # noqa: E402
import weights  # noqa: E402
from common import export, files, flags, runlog  # noqa: E402

NAME, INPUT, DEFAULT_BOXES = "SSD-VGG", "image_input", "default_boxes_cxcywh.npy"


def parse_args(argv=None):
    """Flags of the export."""
    parser = flags.Parser(prog="export_model.py", description="Exports a checkpoint of train.py.")
    flags.add_checkpoint_group(parser, flags.default_output_path(HERE))
    parser.add_argument("--preset", choices=sorted(ssdutils.PRESETS),
                        help="of a checkpoint that does not say; then vgg300 without it")
    weights.add_colours(parser)
    parser.add_argument("--export_dir", type=flags.output_path,
                        help="new folder for the model; default export/ in the run folder of train.py")
    flags.add_device_group(parser, precision_mode="must_keep_origin_dtype")
    parsed = parser.parse_args(argv)
    parsed.export_dir = parsed.export_dir or os.path.join(flags.default_output_path(HERE), "export")
    return parsed


def write_export(parsed):
    """Writes the folder; returns 0."""
    folder = parsed.export_dir
    files.check_new_folder(folder, "--export_dir")
    source = weights.find(parsed.checkpoint, parsed.best, parsed.colours)
    preset = ssdutils.PRESETS[weights.preset_of(source, parsed.preset)]
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    classes = weights.class_names(tf, source)
    import ssdvgg
    tf.reset_default_graph()
    image_input = tf.placeholder(tf.float32, [None, preset.image_px, preset.image_px, 3], INPUT)
    result = ssdvgg.result(*ssdvgg.predictions(image_input, preset, len(classes),
                                               **weights.network_options(source)))
    session = tf.Session(config=runtime.session_config())
    weights.restore(tf, session, source, preset.name)

    export.export_session(
        tf, session, folder, image_input, {"result": result}, export.example_images(preset.image_px).astype("float32"),
        {"model": NAME, "preset": preset.name, "classes": classes,
         "preprocessing": {"image_px": preset.image_px, "colours": "BGR", "range": [0, 255], "mean": "taken off inside",
                           "mean_bgr": layouts.mean_bgr(source.colours), "weights_of": source.colours},
         "output_rows": "one a box of %s" % DEFAULT_BOXES,
         "output_columns": "confidence of each class, of the background, then the four offsets",
         "offsets": "((cx, cy) - default (cx, cy)) / default (w, h) * 10, log((w, h) / default (w, h)) * 5",
         "checkpoint": source.path, "step": source.state.get("step")},
        [(DEFAULT_BOXES, ssdutils.default_boxes(preset))])
    return 0


def main(argv=None):
    return runlog.guarded(write_export, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
