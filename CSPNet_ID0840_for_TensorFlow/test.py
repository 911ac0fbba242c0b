#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on all test images of CIFAR-10: top-1, top-5, accuracy per class, confusion matrix.

    python test.py --data_path=DIR --checkpoint=test/output/0 --confusion_png=confusion.png
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

from common import checkpoint, datacheck, flags, runlog  # noqa: E402


def parse_args(argv=None):
    """Flags of the evaluation."""
    parser = flags.Parser(prog="test.py", description="Evaluates a checkpoint of train.py on CIFAR-10's test images.")
    parser.add_argument("--checkpoint", default=flags.default_output_path(HERE),
                        help="a run folder (its newest checkpoint), one checkpoint's folder, or its path prefix")
    parser.add_bool(parser, "--best", False, help="of a run folder, the checkpoint that evaluated best")
    parser.add_argument("--data_path", type=flags.input_path, help="as for train.py; default dataset/")
    parser.add_argument("--batch_size", type=flags.integer(1), default=250, help="images per forward pass")
    parser.add_argument("--confusion_png", metavar="FILE", help="write the confusion matrix as a picture")
    flags.add_device_group(parser, precision_mode="allow_fp32_to_fp16")
    return parser.parse_args(argv)


def evaluate(parsed):
    """Prints the [eval] line and the table of classes; returns 0. Raises DataError, which main() reports."""
    # Data
    data = datacheck.load_cifar10(parsed.data_path or os.path.join(HERE, "dataset"))
    found = checkpoint.CheckpointStore(parsed.checkpoint).best() if parsed.best else None
    prefix, state = found or checkpoint.find_checkpoint(parsed.checkpoint)
    from common.runtime import Runtime
    runtime = Runtime(parsed)

    # Graph
    tf = runtime.tf
    from models import cspdarknet53
    from utils import confusion_matrix, metrics, predict
    tf.reset_default_graph()
    images = tf.placeholder(tf.uint8, [parsed.batch_size, cspdarknet53.IMAGE_PX, cspdarknet53.IMAGE_PX, 3])
    scores = cspdarknet53.logits(images, False)
    session = tf.Session(config=runtime.session_config())
    runtime.restore(tf.train.Saver(), session, prefix)

    # Figures
    predicted = predict(session, scores, images, data.test_images)
    confusion = confusion_matrix(predicted, data.test_labels, cspdarknet53.CLASSES)
    runlog.RunLog().event(runlog.EVAL, step=state.get("step", 0), images=len(data.test_labels),
                          **metrics(predicted, data.test_labels))
    print("%-12s %6s %6s" % ("class", "images", "top1"))
    for name, row, right in zip(data.class_names, confusion.sum(1), confusion.diagonal()):
        print("%-12s %6d %6s" % (name, row, "%.4f" % (right / row) if row else "-"))
    print("checkpoint: %s" % prefix)
    if parsed.confusion_png:
        draw_confusion_matrix(confusion, data.class_names, parsed.confusion_png)
        print("confusion matrix: %s" % parsed.confusion_png)
    return 0


def draw_confusion_matrix(confusion, class_names, picture):
    """Writes a confusion matrix as a PNG, shaded by the share of each class (row).

    Args:
      confusion: int [classes, classes], rows are true classes.
      class_names: list of str.
      picture: path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    share = confusion / confusion.sum(1, keepdims=True).clip(1)
    figure = Figure(figsize=(7.5, 6.6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, row in enumerate(confusion):
        for taken, count in enumerate(row):
            axes.text(taken, true, str(count), ha="center", va="center", fontsize=8,
                      color="white" if share[true, taken] > 0.5 else "black")
    places = range(len(class_names))
    axes.set_xticks(places)
    axes.set_xticklabels(class_names, rotation=45, ha="right")
    axes.set_yticks(places)
    axes.set_yticklabels(class_names)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title("top-1 %.4f of %d images" % (confusion.trace() / max(confusion.sum(), 1), confusion.sum()))
    figure.tight_layout()
    figure.savefig(picture)


def main(argv=None):
    try:
        return evaluate(parse_args(argv))
    except (datacheck.DataError, OSError) as error:
        runlog.RunLog().event(runlog.FAIL, message=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
