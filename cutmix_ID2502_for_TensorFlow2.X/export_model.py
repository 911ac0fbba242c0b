#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a checkpoint for other programs: Keras' hdf5, SavedModel, frozen graph, ONNX, model.json (common/export.py).

    python export_model.py --checkpoint=test/output/0 --best --export_dir=EXPORT

A finished run has the same in its export/. Input: images, uint8 [N, 32, 32, 3], RGB. Outputs: scores and
probabilities, float32 [N, classes].
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import model_files  # noqa: E402
from common import checkpoint, cifar10, files, flags, runlog  # noqa: E402


def parse_args(argv=None):
    """Flags of the export."""
    parser = flags.Parser(prog="export_model.py", description="Exports a checkpoint of train.py.")
    flags.add_checkpoint_group(parser, flags.default_output_path(HERE))
    parser.add_argument("--export_dir", type=flags.output_path, required=True, help="new folder for the model")
    flags.add_device_group(parser, precision_mode="must_keep_origin_dtype")
    return parser.parse_args(argv)


def export(parsed):
    """Writes the folder; returns 0."""
    files.check_new_folder(parsed.export_dir, "--export_dir")
    prefix, state = checkpoint.find_checkpoint(parsed.checkpoint, parsed.best)
    from common.runtime import open_runtime
    tf = open_runtime(parsed, keras=True).tf
    import resnet
    from common.export import tell
    classes = state.get("classes", list(cifar10.CIFAR10_CLASSES))
    network = resnet.resnet20(classes=len(classes))
    model_files.load_weights(network, prefix + ".h5")
    model_files.export(tf, parsed.export_dir, network, {"classes": classes, "checkpoint": prefix,
                                                        "step": state.get("step")})
    tell(parsed.export_dir)
    return 0


def main(argv=None):
    return runlog.guarded(export, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
