#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on all test images: top-1, top-5, accuracy per class, confusion matrix.

    python test.py --data_path=DIR --checkpoint=test/output/0 --confusion_png=confusion.png
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PREPARED = os.path.join(HERE, "data", "prepared")  # train.py's
import needs  # noqa: E402,F401

# isort: split
from common import checkpoint, class_folders, confusion, flags, runlog  # noqa: E402


def parse_args(argv=None):
    """Flags of the evaluation."""
    parser = flags.Parser(prog="test.py", description="Evaluates a checkpoint of train.py on the test images.")
    flags.add_checkpoint_group(parser, flags.default_output_path(HERE))
    parser.add_argument("--data_path", type=flags.input_path, help="as for train.py; default dataset/")
    parser.add_argument("--batch_size", type=flags.integer(1), default=250, help="images per forward pass")
    parser.add_argument("--confusion_png", type=flags.output_path, metavar="FILE.png",
                        help="write the confusion matrix as a picture")
    parser.add_bool(parser, "--tta", False, "also evaluate the mean of an image's and its mirror's scores: top1_tta")
    flags.add_device_group(parser, precision_mode="allow_fp32_to_fp16")
    return parser.parse_args(argv)


def evaluate(parsed):
    """Prints the [eval] line and the table of classes; returns 0."""
    # Data
    if parsed.confusion_png:
        confusion.check_can_draw()
    place = class_folders.find_images(parsed.data_path or os.path.join(HERE, "dataset"), PREPARED)
    prefix, state = checkpoint.find_checkpoint(parsed.checkpoint, parsed.best)
    data = class_folders.load_images(place, state.get("seed", 0))  # what the run held out
    checkpoint.check_classes(prefix, state, data.class_names, "--data_path")
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)

    # Graph
    tf = runtime.tf
    from common import graph_files
    from models import cspdarknet53
    from utils import metrics, predict
    tf.reset_default_graph()
    images = tf.placeholder(tf.uint8, [parsed.batch_size, cspdarknet53.IMAGE_PX, cspdarknet53.IMAGE_PX, 3])
    scores = cspdarknet53.logits(images, False, len(data.class_names))
    session = tf.Session(config=runtime.session_config())
    graph_files.restore_averaged(tf, session, prefix)

    # Figures
    predicted = predict(session, scores, images, data.test_images)
    result = metrics(predicted, data.test_labels)
    if parsed.tta:
        mirrored = predict(session, scores, images, data.test_images[:, :, ::-1])
        result["top1_tta"] = metrics(predicted + mirrored, data.test_labels)["top1"]
    runlog.RunLog().event(runlog.EVAL, step=state.get("step", 0), images=len(data.test_labels), **result)
    print("checkpoint: %s" % prefix)
    confusion.tell(confusion.count(confusion.first_guess(predicted), data.test_labels, len(data.class_names)),
                   data.class_names, parsed.confusion_png)
    return 0


def main(argv=None):
    return runlog.guarded(evaluate, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
