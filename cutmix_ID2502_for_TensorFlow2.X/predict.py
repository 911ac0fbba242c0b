#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Says what is on pictures of any size and format: a table, predictions.csv and .json, a contact sheet.

    python predict.py photo.jpg FOLDER                      by the newest checkpoint of test/output/0
    python predict.py --checkpoint=RUN --best PICTURES
    python predict.py --model=EXPORT PICTURES               by export/ of a finished run, or export_model.py's
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import model_files  # noqa: E402
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
    prefix, state = (None, {}) if parsed.model else checkpoint.find_checkpoint(parsed.checkpoint, parsed.best)
    from common.runtime import open_runtime
    tf = open_runtime(parsed, keras=True).tf
    if parsed.model:
        from common import export
        state, run = export.open_export(tf.compat.v1, parsed.model, "CutMix")
        source = {"export": parsed.model}

        def infer(images):
            return run(images)["probabilities"]
    else:
        import resnet
        state.setdefault("classes", list(cifar10.CIFAR10_CLASSES))
        network = resnet.resnet20(classes=len(state["classes"]))
        model_files.load_weights(network, prefix + ".h5")
        source = {"checkpoint": prefix}

        def infer(images):
            return tf.nn.softmax(network(images, training=False)).numpy()

    return predictions.classify(parsed, lambda data: pictures.square(data, cifar10.IMAGE_PX), infer, state["classes"],
                                dict(source, model="CutMix", step=state.get("step")), BATCH_SIZE)


def main(argv=None):
    return runlog.guarded(predict, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
