#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on Pascal VOC: AP and curve of every class, result files for the development kit, what went
wrong in which image.

    python infer.py --data_path=DIR --checkpoint=test/output/0 --pictures=20

--checkpoint may also be the path prefix of a checkpoint of the published TensorFlow reference, or SSD300's weights of
torchvision or amdegroot's ssd.pytorch in a file.
"""
import csv
import importlib.util
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
import needs  # noqa: E402,F401

# isort: split
import ssdutils  # noqa: E402
import weights  # noqa: E402
from common import flags, progress, runlog  # noqa: E402
from common.files import DataError, prepare_output_dir, whole_folder  # noqa: E402
from data_queue import BatchQueue  # noqa: E402

CONFIDENCE, IOU = 0.01, 0.5  # of the VOC rule: what is counted as a detection, and what as found
CURVES_FILE, IMAGES_FILE, PICTURES_FOLDER = "precision_recall.png", "images.csv", "pictures"
# BGR, of detections; of objects for "missed". Difficult objects count neither way.
_COLOURS = {"correct": (60, 170, 0), "false": (40, 40, 230), "missed": (0, 190, 255), "difficult": (160, 160, 160)}
_FEW_IMAGES = 100  # fewer than these are not worth starting processes


def parse_args(argv=None):
    """Flags of the evaluation."""
    parser = flags.Parser(prog="infer.py", description="Evaluates a checkpoint of train.py on Pascal VOC.")
    flags.add_checkpoint_group(parser, flags.default_output_path(HERE))
    parser.add_argument("--preset", choices=sorted(ssdutils.PRESETS),
                        help="of a checkpoint that does not say; then vgg300 without it")
    weights.add_colours(parser)
    parser.add_argument("--data_path", type=flags.input_path, help="as for train.py; default data/")
    parser.add_argument("--eval_set", choices=("valid", "train"), default="valid", help="which images")
    parser.add_argument("--eval_images", type=flags.integer(1), help="the first N of them only")
    parser.add_argument("--batch_size", type=flags.integer(1), default=8, help="images per forward pass")
    parser.add_argument("--num_workers", type=flags.integer(0), default=os.cpu_count() or 1,
                        help="processes that read images")
    parser.add_argument("--pictures", type=flags.integer(0), default=0, metavar="N",
                        help="draw the N images with most false and missed boxes")
    parser.add_argument("--confidence", type=flags.number(above=0, below=1), default=0.5,
                        help="from which a detection is drawn; the figures count all above %g" % CONFIDENCE)
    parser.add_bool(parser, "--coco", False, help="COCO's AP, too, by pycocotools")
    parser.add_argument("--output_path", type=flags.output_path,
                        help="folder for result files and pictures; default infer/ in the run folder of train.py")
    flags.add_device_group(parser, precision_mode="must_keep_origin_dtype")
    parsed = parser.parse_args(argv)
    parsed.output_path = parsed.output_path or os.path.join(flags.default_output_path(HERE), "infer")
    return parsed


def detections(session, image_input, result, preset, data, split, images, num_workers, rank=0, ranks=1):
    """Detects in the first `images` images of a split, in batches of one size: the last one is filled up with black.
    Of several ranks each has a stretch of the batches.

    Args:
      session: tf.Session.
      image_input: placeholder uint8 [B, P, P, 3] BGR.
      result: float32 [B, N, C + 1 + 4], of ssdvgg.result.
      preset: ssdutils.Preset.
      data: TrainingData.
      split: "valid" or "train".
      images: int.
      num_workers: processes that read images.
    Yields:
      (index of the image, boxes_xyxy float32 [K, 4] relative to it, class_ids int32 [K], confidences float32 [K]).
    """
    from training_data import EvaluationImages
    batch_size = int(image_input.shape[0])
    boxes = ssdutils.default_boxes(preset)
    steps = -(-images // batch_size)
    first_step, end_step = steps * rank // ranks, steps * (rank + 1) // ranks
    mine = max(0, min(images, end_step * batch_size) - first_step * batch_size)
    with BatchQueue(EvaluationImages(data, preset.image_px, batch_size, split), batch_size, first_step, end_step,
                    num_workers if mine > _FEW_IMAGES else 0) as batches, progress.bar(mine, "evaluating") as bar:
        for step, (pixels,) in batches:
            found = session.run(result, {image_input: pixels})
            first = step * batch_size
            for index, one in zip(range(first, images), found):
                yield (index,) + ssdutils.detect(one[:, :-4], one[:, -4:], boxes, CONFIDENCE)
                bar.update()


def of_all_ranks(found, images, runtime):
    """The detections() of all ranks, in the order of the images; on one rank as they come."""
    if runtime.ranks == 1:
        return found
    import numpy as np
    table = np.zeros([images, ssdutils.MAX_DETECTIONS, 6])  # box, class + 1 (0: no detection), confidence
    for index, boxes_xyxy, class_ids, confidences in found:
        table[index, :len(boxes_xyxy)] = np.column_stack([boxes_xyxy, class_ids + 1, confidences])
    table = runtime.all_sum(table).astype(np.float32)  # each row is zero on all ranks but one
    filled = [rows[rows[:, 4] > 0] for rows in table]
    return [(index, rows[:, :4], rows[:, 4].astype(np.int32) - 1, rows[:, 5]) for index, rows in enumerate(filled)]


def evaluate(found, data, split):
    """average_precision.Result of detections()."""
    from average_precision import AveragePrecision
    precision = AveragePrecision(data.num_classes, IOU)
    for index, boxes_xyxy, class_ids, confidences in found:
        truth = data.truth(index, split)
        precision.add(boxes_xyxy, class_ids, confidences, truth.boxes_xyxy, truth.class_ids, truth.difficult)
    return precision.result()


def figures(result):
    """Fields for an [eval] line: mAP by both of VOC's rules, and what was counted."""
    return {"map": result.map_11_point, "map_area": result.map_area, "objects": int(result.objects.sum()),
            "confidence": CONFIDENCE, "iou": IOU}


def run(parsed):
    """Prints the [eval] line and the table of classes; returns 0."""
    if parsed.coco and importlib.util.find_spec("pycocotools") is None:
        raise DataError("--coco", "the package pycocotools", "no such package", "python -m pip install pycocotools")
    # Data
    import process_dataset
    from average_precision import CocoPrecision
    from pascal_summary import FILE_NAME, PascalSummary, draw_curves, table
    from training_data import TrainingData
    data = TrainingData(process_dataset.prepare(parsed.data_path))
    images = min(data.num_images(parsed.eval_set), parsed.eval_images or sys.maxsize)
    if not images:
        raise DataError(data.folder, "images to evaluate", "none in '%s'" % parsed.eval_set,
                        "process it with --valid_sets, or give --eval_set=train")
    source = weights.find(parsed.checkpoint, parsed.best, parsed.colours)
    preset = ssdutils.PRESETS[weights.preset_of(source, parsed.preset)]
    num_classes, columns = weights.columns(source, data.classes, data.folder)
    prepare_output_dir(parsed.output_path)
    from common.runtime import open_runtime
    runtime = open_runtime(parsed)

    # Graph
    tf = runtime.tf
    import ssdvgg
    tf.reset_default_graph()
    image_input = tf.placeholder(tf.uint8, [parsed.batch_size, preset.image_px, preset.image_px, 3], "image_input")
    result = ssdvgg.result(*ssdvgg.predictions(image_input, preset, num_classes, **weights.network_options(source)))
    result = tf.gather(result, columns, axis=2)
    session = tf.Session(config=runtime.session_config())
    weights.restore(tf, session, source, preset.name)

    # Figures
    summary, coco, judged = PascalSummary(data.classes), CocoPrecision(data.num_classes) if parsed.coco else None, []

    def watched():
        """detections(), each one also written down."""
        for one in detections(session, image_input, result, preset, data, parsed.eval_set, images, parsed.num_workers):
            index, size_px = one[0], data.size_px(one[0], parsed.eval_set)
            summary.add(_name(data, index, parsed), size_px, *one[1:])
            if coco:
                coco.add(size_px, *one[1:], *data.truth(index, parsed.eval_set))
            judged.append((index, _marks(data, parsed, *one)))
            yield one

    found = evaluate(watched(), data, parsed.eval_set)
    by_coco = coco.result() if coco else None
    runlog.RunLog().event(runlog.EVAL, step=source.state.get("step", 0), set=parsed.eval_set, images=images,
                          precision="float32", **figures(found), **_coco_figures(by_coco))
    print(table(data.classes, found, by_coco))
    print("checkpoint: %s" % source.path)
    summary.write(parsed.output_path)
    print("result files: %s" % os.path.join(parsed.output_path, FILE_NAME % "*"))
    draw_curves(data.classes, found, parsed.confidence, os.path.join(parsed.output_path, CURVES_FILE))
    print("curves: %s" % os.path.join(parsed.output_path, CURVES_FILE))
    _show_images(data, parsed, judged)
    return 0


def _name(data, index, parsed):
    return os.path.splitext(os.path.basename(data.image_path(index, parsed.eval_set)))[0]


def _coco_figures(result):
    """Fields for an [eval] line of a CocoResult, those without objects left out."""
    return {} if result is None else {"coco_" + name: value for name, value in result._asdict().items()
                                      if isinstance(value, float) and value == value}


def _marks(data, parsed, index, boxes_xyxy, class_ids, confidences):
    """[(box_xyxy_px, caption, name in _COLOURS)] of the detections that are confident enough, and of missed objects."""
    from average_precision import FALSE, IGNORED, TRUE, judge
    shown = confidences >= parsed.confidence
    boxes_xyxy, class_ids, confidences = boxes_xyxy[shown], class_ids[shown], confidences[shown]
    truth = data.truth(index, parsed.eval_set)
    verdicts, found = judge(boxes_xyxy, class_ids, confidences, *truth, iou_threshold=IOU)
    names, size_px = {TRUE: "correct", FALSE: "false", IGNORED: "difficult"}, data.size_px(index, parsed.eval_set) * 2
    marks = [(box * size_px, "%s %.2f" % (data.classes[class_id], confidence), names[verdict])
             for box, class_id, confidence, verdict in zip(boxes_xyxy, class_ids, confidences, verdicts.tolist())]
    marks += [(box * size_px, data.classes[class_id], "missed") for box, class_id, hard, was_found in zip(*truth, found)
              if not hard and not was_found]
    return [(box_px, caption + (" " + mark) * (mark != "correct"), mark) for box_px, caption, mark in marks]


def _show_images(data, parsed, judged):
    """Writes images.csv, what is right and wrong in every image, the worst first; draws as many as are asked for.

    Args:
      judged: [(index of the image, its _marks())].
    """
    import cv2

    from utils import annotated

    def counts(marks):
        return [sum(name == mark for _, _, mark in marks) for name in _COLOURS]

    judged = sorted(judged, key=lambda one: -sum(counts(one[1])[1:3]))  # false and missed
    path = os.path.join(parsed.output_path, IMAGES_FILE)
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([["image"] + list(_COLOURS)] + [
            [_name(data, index, parsed)] + counts(marks) for index, marks in judged])
    print("images, worst first: %s" % path)
    if not parsed.pictures:
        return
    folder = os.path.join(parsed.output_path, PICTURES_FOLDER)
    with whole_folder(folder, {"made": time.time()}, "SSD-VGG infer.py") as fresh:  # the time: always anew
        for place, (index, marks) in enumerate(judged[:parsed.pictures], 1):
            boxes_px, captions, names = zip(*marks) if marks else ((), (), ())
            drawn = annotated(data.image(index, parsed.eval_set), boxes_px, captions,
                              [_COLOURS[name] for name in names])
            cv2.imwrite(os.path.join(fresh, "%04d-%s.jpg" % (place, _name(data, index, parsed))), drawn)
    print("pictures, worst first; green: correct, red: false, yellow: missed, grey: difficult: %s" % folder)


def main(argv=None):
    return runlog.guarded(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
