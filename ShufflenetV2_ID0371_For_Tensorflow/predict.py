#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Says what is on pictures.

    python predict.py PICTURES                                      by the run in test/output/0
    python predict.py --checkpoint=RUN_OR_FILE a.jpg FOLDER         by another run, a checkpoint, torchvision's weights
    python predict.py --model=EXPORT FOLDER                         by an exported model

Prints a table; --output_path gets predictions.csv, predictions.json and a contact sheet of what the network saw.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import arguments  # noqa: E402
import pretrained  # noqa: E402
from common import flags, pictures, predictions, runlog  # noqa: E402


def parse_args(argv=None):
    parser = flags.Parser(prog="predict.py", description=__doc__.split("\n")[0])
    flags.add_predict_group(parser, flags.default_output_path(HERE))
    arguments.add_class_names(parser)
    flags.add_device_group(parser, "force_fp32")
    return parser.parse_args(argv)


def run(parsed):
    """Classifies the pictures; returns the exit code. Raises DataError.

    Args:
      parsed: of parse_args.
    """
    pictures.find(parsed.pictures)
    found = None if parsed.model else pretrained.find(parsed.checkpoint, parsed.best)
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)
    tf = runtime.tf
    tf.reset_default_graph()
    import input_pipeline
    import model
    if parsed.model:
        from common import export
        exported = export.open_export(tf, parsed.model, model.NAME)
        classes = exported.description["classes"]
        shorter_px = (exported.description.get("preprocessing") or {}).get("shorter_side_px")
        infer, about = exported.run, {"export": parsed.model}
    else:
        classes, shorter_px, infer = open_weights(runtime, parsed, *found)
        about = {"checkpoint": found[0], "step": found[2].get("step")}
    return predictions.classify(
        parsed, picture_reader(tf, input_pipeline, shorter_px), lambda images: infer(images)[model.OUTPUTS[0]], classes,
        dict(about, model=model.NAME))


def open_weights(runtime, parsed, where, weights, state):
    """Names of the classes, shorter_px of input_pipeline.decode, and function(images) -> {output: array}."""
    import eval as evaluation
    import input_pipeline
    import model
    tf = runtime.tf
    if "network" not in state:
        state = dict(pretrained.described(where, pretrained.values(tf, where, weights, averaged=False)), **state)
    width, variant = state["depth_multiplier"], state["variant"]
    images, outputs = model.inference(state["num_classes"], width, variant)
    session = tf.Session(config=runtime.session_config())
    evaluation.restore_best(tf, session, where, weights)
    return (pretrained.class_names(parsed.class_names, state, state["num_classes"]),
            input_pipeline.shorter_px_of(variant, width), lambda batch: session.run(outputs, {images: batch}))


def picture_reader(tf, input_pipeline, shorter_px):
    """A function: bytes of a picture file -> uint8 [224, 224, 3], as evaluation sees it; raises BadImage."""
    import records
    with tf.Graph().as_default() as graph:
        jpeg, window = tf.placeholder(tf.string, []), tf.placeholder(tf.int32, [4])
        image = input_pipeline.decode(tf, jpeg, window, tf.constant(False), None, shorter_px is not None, shorter_px)
    session = tf.Session(graph=graph)

    def read(data):
        data, _ = pictures.usable_jpeg(data)
        try:
            return session.run(image, {jpeg: data, window: input_pipeline.centre_window(
                *records.jpeg_size(data), shorter_px=shorter_px)})
        except (tf.errors.OpError, ValueError) as error:
            raise pictures.BadImage(str(error).split("\n")[0]) from error
    return read


def main(argv=None):
    return runlog.guarded(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
