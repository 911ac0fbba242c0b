#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a checkpoint for other programs: SavedModel, frozen graph, ONNX, model.json (common/export.py).

    python export_model.py --checkpoint=test/output/0 --best --export_dir=EXPORT

Input: images, uint8 [N, 32, 32, 3], RGB. Outputs: scores and probabilities, float32 [N, classes].
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
from common import checkpoint, cifar10, files, flags, runlog  # noqa: E402

PREPROCESSING = {"colours": "RGB, upright as EXIF says", "crop": "central square",
                 "resize_px": [cifar10.IMAGE_PX, cifar10.IMAGE_PX], "resample": "bicubic, antialiased",
                 "values": "0 to 255, as they are; the network standardises them"}


def parse_args(argv=None):
    """Flags of the export."""
    parser = flags.Parser(prog="export_model.py", description="Exports a checkpoint of train.py.")
    flags.add_checkpoint_group(parser, flags.default_output_path(HERE))
    parser.add_argument("--export_dir", type=flags.output_path,
                        help="new folder for the model; default export/ in the run folder of train.py")
    flags.add_device_group(parser, precision_mode="must_keep_origin_dtype")
    parsed = parser.parse_args(argv)
    parsed.export_dir = parsed.export_dir or os.path.join(flags.default_output_path(HERE), "export")
    return parsed


def build(runtime, prefix, classes):
    """The network at inference with the weights of a checkpoint.

    Returns:
      (session, placeholder uint8 [N, 32, 32, 3], {"scores", "probabilities": float32 [N, classes]}).
    """
    tf = runtime.tf
    from common import graph_files
    from models import cspdarknet53
    tf.reset_default_graph()
    images = tf.placeholder(tf.uint8, [None, cspdarknet53.IMAGE_PX, cspdarknet53.IMAGE_PX, 3], "images")
    scores = tf.identity(cspdarknet53.logits(images, False, classes), "scores")
    session = tf.Session(config=runtime.session_config())
    graph_files.restore_averaged(tf, session, prefix)
    return session, images, {"scores": scores, "probabilities": tf.nn.softmax(scores, name="probabilities")}


def export(parsed):
    """Writes the folder; returns 0."""
    files.check_new_folder(parsed.export_dir, "--export_dir")
    prefix, state = checkpoint.find_checkpoint(parsed.checkpoint, parsed.best)
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    from common.export import example_images, export_session
    classes = state.get("classes", list(cifar10.CIFAR10_CLASSES))
    session, images, outputs = build(runtime, prefix, len(classes))
    export_session(runtime.tf, session, parsed.export_dir, images, outputs, example_images(cifar10.IMAGE_PX), {
        "model": "CSPNet", "classes": classes, "preprocessing": PREPROCESSING, "checkpoint": prefix,
        "step": state.get("step")})
    return 0


def main(argv=None):
    return runlog.guarded(export, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
