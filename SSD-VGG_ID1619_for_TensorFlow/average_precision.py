# SPDX-License-Identifier: Apache-2.0
"""Average precision by the rule of the Pascal VOC development kit, and COCO's.

VOC: of one class, all detections of all images are gone through by falling confidence. A detection belongs to the
object of its class that it overlaps most. With an overlap (IoU) of at least 0.5 it is a true positive, or a false one
when the object has been found before; objects marked difficult count neither way. Everingham et al. 2010, section 4.2,
and the kit's VOCevaldet.m, where of two equal overlaps the first object wins.
"""
import contextlib
import io
from collections import namedtuple

import numpy as np

import ssdutils

_ELEVEN_RECALLS = np.linspace(0, 1, 11)
FALSE, TRUE, IGNORED = 0, 1, 2  # what a detection is; the last: of an object marked difficult

Result = namedtuple("Result", "ap_area ap_11_point map_area map_11_point objects curves")
Result.__doc__ = """AP of every class by both rules, float64 [C], NaN for a class without objects; their means over the
other classes, float (NaN when there are none); objects that count, int64 [C]; for each class with objects
{class id: (recall, precision, confidence)}, float64 [K], after each detection by falling confidence.

Area: the area under the curve, VOC 2010 to 2012. 11-point: the mean of 11 precisions, VOC 2007 to 2009."""


def judge(boxes_xyxy, class_ids, confidences, truth_boxes_xyxy, truth_class_ids, difficult, iou_threshold=0.5):
    """Says which detections of an image find which of its objects; both kinds of boxes in the same unit.

    Args:
      boxes_xyxy float [K, 4], class_ids int [K], confidences float [K]: detections in any order.
      truth_boxes_xyxy float [G, 4], truth_class_ids int [G], difficult bool [G]: the objects.
      iou_threshold: overlap from which an object is found.
    Returns:
      int8 [K], FALSE, TRUE or IGNORED; bool [G], whether an object is found.
    """
    class_ids, truth_class_ids = np.asarray(class_ids, int), np.asarray(truth_class_ids, int)
    verdicts, found = np.full(len(class_ids), FALSE, np.int8), np.zeros(len(truth_class_ids), bool)
    if len(class_ids) and len(truth_class_ids):
        # float64, or half an object would count as found or not by the rounding of the last digit.
        overlap = ssdutils.iou(np.asarray(boxes_xyxy, np.float64), np.asarray(truth_boxes_xyxy, np.float64))
        overlap[class_ids[:, None] != truth_class_ids] = -1
        best, order = overlap.argmax(1), np.argsort(-np.asarray(confidences), kind="stable")
        for detection in order[overlap.max(1)[order] >= iou_threshold].tolist():
            one = best[detection]
            verdicts[detection] = IGNORED if difficult[one] else FALSE if found[one] else TRUE
            found[one] = True
    return verdicts, found


class AveragePrecision:
    """Collects detections image by image.

    Args:
      num_classes: int, without the background.
      iou_threshold: overlap from which an object is found.
    """

    def __init__(self, num_classes, iou_threshold=0.5):
        self._iou_threshold = iou_threshold
        self._objects = np.zeros(num_classes, np.int64)
        self._class_ids, self._confidences, self._verdicts = [], [], []

    def add(self, boxes_xyxy, class_ids, confidences, truth_boxes_xyxy, truth_class_ids, difficult):
        """Counts one image; arguments as for judge()."""
        truth_class_ids, difficult = np.asarray(truth_class_ids, int), np.asarray(difficult, bool)
        self._objects += np.bincount(truth_class_ids[~difficult], minlength=len(self._objects))
        # An object is contended for within its image only, so its first detection here is its first of all.
        self._verdicts.append(judge(boxes_xyxy, class_ids, confidences, truth_boxes_xyxy, truth_class_ids, difficult,
                                    self._iou_threshold)[0])
        self._class_ids.append(np.asarray(class_ids, int))
        self._confidences.append(np.asarray(confidences, np.float64))

    def result(self):
        """Result over everything that was added."""
        class_ids, confidences, verdicts = (np.concatenate(parts) if parts else np.zeros(0) for parts in (
            self._class_ids, self._confidences, self._verdicts))
        (ap_area, ap_11_point), curves = np.full((2, len(self._objects)), np.nan), {}
        for class_id in np.flatnonzero(self._objects).tolist():
            mine = np.flatnonzero((class_ids == class_id) & (verdicts != IGNORED))
            mine = mine[np.argsort(-confidences[mine], kind="stable")]
            true = np.cumsum(verdicts[mine] == TRUE)
            recall, precision = true / self._objects[class_id], true / np.arange(1, len(true) + 1)
            ap_area[class_id], ap_11_point[class_id] = area(recall, precision), eleven_point(recall, precision)
            curves[class_id] = recall, precision, confidences[mine]
        counts = self._objects > 0
        means = [float(np.mean(ap[counts])) if counts.any() else float("nan") for ap in (ap_area, ap_11_point)]
        return Result(ap_area, ap_11_point, means[0], means[1], self._objects.copy(), curves)


CocoResult = namedtuple("CocoResult", "ap ap_by_class ap_50 ap_75 ap_small ap_medium ap_large")
CocoResult.__doc__ = """AP, float, and of every class, float64 [C]; at IoU 0.5 and 0.75; of objects below 32^2 pixels,
up to 96^2, and above. NaN without objects."""


class CocoPrecision:
    """COCO's AP, by pycocotools: the mean over IoU 0.5, 0.55 ... 0.95, of at most 100 detections an image.

    Args:
      num_classes: int, without the background.
    """

    def __init__(self, num_classes):
        self._num_classes, self._images = num_classes, 0
        self._objects, self._detections = [], []

    def add(self, size_px, boxes_xyxy, class_ids, confidences, truth_boxes_xyxy, truth_class_ids, difficult):
        """Counts one image of (width, height) pixels; boxes relative to it, else as for judge(). COCO has no difficult
        objects: they are taken for crowds, which count neither way."""
        self._images += 1
        for annotations, name, boxes, ids, values in (
                (self._objects, "iscrowd", truth_boxes_xyxy, truth_class_ids, np.asarray(difficult, int)),
                (self._detections, "score", boxes_xyxy, class_ids, np.asarray(confidences, float))):
            boxes_px = np.asarray(boxes, float).reshape(-1, 4) * (tuple(size_px) * 2)
            for (left, top, right, bottom), class_id, value in zip(boxes_px.tolist(), ids, values.tolist()):
                annotations.append({
                    "id": len(annotations) + 1, "image_id": self._images, "category_id": int(class_id), "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                    name: value})

    def result(self):
        """CocoResult over everything that was added."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            both = COCO(), COCO()
            for one, annotations in zip(both, (self._objects, self._detections)):
                one.dataset = {"images": [{"id": number} for number in range(1, self._images + 1)],
                               "annotations": annotations,
                               "categories": [{"id": number} for number in range(self._num_classes)]}
                one.createIndex()
            evaluation = COCOeval(*both, iouType="bbox")
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][..., -1]  # [IoU, recall, class, size]; -1 without objects
        by_class = [_mean(precision[:, :, class_id, 0]) for class_id in range(self._num_classes)]
        return CocoResult(_mean(precision[..., 0]), np.array(by_class), _mean(precision[0, ..., 0]),
                          _mean(precision[5, ..., 0]), *(_mean(precision[..., size]) for size in (1, 2, 3)))


def _mean(precision):
    there = precision[precision > -1]
    return float(there.mean()) if len(there) else float("nan")


def area(recall, precision):
    """Area under precision over recall, precision being the best at this recall or a larger one.

    Args:
      recall, precision: float [K], after each detection, by falling confidence.
    Returns:
      float.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0], recall])) * envelope))


def eleven_point(recall, precision):
    """Mean of the best precision at recalls of at least 0, 0.1, ... 1; arguments as for area."""
    # A recall of 0.3 computed as 3 / 10 must reach the 0.3 of the list.
    return float(np.mean([precision[recall >= least - 1e-9].max(initial=0) for least in _ELEVEN_RECALLS]))
