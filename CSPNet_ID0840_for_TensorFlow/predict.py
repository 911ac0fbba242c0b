#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Says what is on pictures of any size and format: a table, predictions.csv and .json, a contact sheet.

    python predict.py photo.jpg FOLDER                      by the newest checkpoint of test/output/0
    python predict.py --checkpoint=RUN --best PICTURES
    python predict.py --model=EXPORT PICTURES               by what export_model.py wrote
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

from common import checkpoint, cifar10, flags, pictures, predictions, runlog  # noqa: E402

BATCH_SIZE = 64


def parse_args(argv=None):
    """Flags of the prediction."""
    parser = flags.Parser(prog="predict.py", description="Classifies pictures by a checkpoint of train.py.")
    flags.add_predict_group(parser, flags.default_output_path(HERE))
    flags.add_device_group(parser, precision_mode="allow_fp32_to_fp16")
    return parser.parse_args(argv)


def predict(parsed):
    """Prints the table and writes the files; returns the exit code."""
    pictures.find(parsed.pictures)
    start = None if parsed.model else checkpoint.find_checkpoint(parsed.checkpoint, parsed.best)
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    if parsed.model:
        from common import export
        run, about = export.open_export(tf, parsed.model, "CSPNet")
        return _classify(parsed, lambda images: run(images)["probabilities"], about["classes"],
                         {"model": "CSPNet", "export": parsed.model, "step": about.get("step")})
    from export_model import build
    prefix, state = start
    classes = state.get("classes", list(cifar10.CIFAR10_CLASSES))
    session, images, outputs = build(runtime, prefix, len(classes))
    return _classify(parsed, lambda batch: session.run(outputs["probabilities"], {images: batch}), classes,
                     {"model": "CSPNet", "checkpoint": prefix, "step": state.get("step")})


def _classify(parsed, infer, classes, about):
    return predictions.classify(parsed, lambda data: pictures.square(data, cifar10.IMAGE_PX), infer, classes, about,
                                BATCH_SIZE)


def main(argv=None):
    return runlog.guarded(predict, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
