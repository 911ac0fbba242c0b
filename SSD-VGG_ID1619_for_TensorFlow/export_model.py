#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a checkpoint as a SavedModel and as a frozen graph, for detect.py and for serving.

    python export_model.py --checkpoint=test/output/0 --best --export_dir=EXPORT

EXPORT gets saved_model/, frozen_graph.pb, model.json (classes, preset, how to read the result) and
default_boxes_cxcywh.npy. Tensors: image_input:0, float32 [B, P, P, 3], BGR 0 to 255; result/result:0, float32
[B, N, C + 1 + 4], confidences with the background last, then offsets.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import layouts  # noqa: E402
import ssdutils  # noqa: E402
import weights  # noqa: E402
from common import files, flags, graph_files, runlog  # noqa: E402

INPUT, OUTPUT = "image_input", "result/result"
DESCRIPTION, DEFAULT_BOXES = "model.json", "default_boxes_cxcywh.npy"


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


def export(parsed):
    """Writes the folder; returns 0."""
    import numpy as np

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

    graph_files.export(tf, session, folder, {INPUT: image_input}, {"result": result})
    np.save(os.path.join(folder, DEFAULT_BOXES), ssdutils.default_boxes(preset))
    files.write_text(os.path.join(folder, DESCRIPTION), json.dumps({
        "model": "SSD-VGG", "preset": preset.name, "image_px": preset.image_px, "classes": classes,
        "input": INPUT + ":0", "input_colours": "BGR, 0 to 255", "mean_bgr": layouts.mean_bgr(source.colours),
        "colours": "those of %s: the mean is taken off inside" % source.colours, "output": OUTPUT + ":0",
        "output_rows": "one a box of %s" % DEFAULT_BOXES,
        "output_columns": "confidence of each class, of the background, then the four offsets",
        "offsets": "((cx, cy) - default (cx, cy)) / default (w, h) * 10, log((w, h) / default (w, h)) * 5",
        "checkpoint": source.path, "step": source.state.get("step")}, indent=1))
    print("input: %s float32 [B, %d, %d, 3] BGR; output: %s" % (INPUT, preset.image_px, preset.image_px, OUTPUT))
    for name in (DESCRIPTION, DEFAULT_BOXES):
        print("exported: %s" % os.path.join(folder, name))
    return 0


def main(argv=None):
    return runlog.guarded(export, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
