# SPDX-License-Identifier: Apache-2.0
"""Average precision by the rule of the Pascal VOC development kit.

Of one class, all detections of all images are gone through by falling confidence. A detection belongs to the object of
its class that it overlaps most. With an overlap (IoU) of at least 0.5 it is a true positive, or a false one when the
object has been found before; objects marked difficult count neither way. Everingham et al. 2010, section 4.2, and the
kit's VOCevaldet.m, where of two equal overlaps the first object wins.
"""
from collections import namedtuple

import numpy as np

import ssdutils

_ELEVEN_RECALLS = np.linspace(0, 1, 11)
_FALSE, _TRUE, _IGNORED = 0, 1, 2

Result = namedtuple("Result", "ap_area ap_11_point map_area map_11_point objects")
Result.__doc__ = """AP of every class by both rules, float64 [C], NaN for a class without objects; their means over the
other classes, float (NaN when there are none); objects that count, int64 [C].

Area: the area under the curve, VOC 2010 to 2012. 11-point: the mean of 11 precisions, VOC 2007 to 2009."""


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
        """Counts one image; both kinds of boxes in the same unit.

        Args:
          boxes_xyxy float [K, 4], class_ids int [K], confidences float [K]: detections in any order.
          truth_boxes_xyxy float [G, 4], truth_class_ids int [G], difficult bool [G]: the objects.
        """
        truth_class_ids, difficult = np.asarray(truth_class_ids, int), np.asarray(difficult, bool)
        self._objects += np.bincount(truth_class_ids[~difficult], minlength=len(self._objects))
        # An object is contended for within its image only, so its first detection here is its first of all.
        order = np.argsort(-np.asarray(confidences), kind="stable")
        class_ids = np.asarray(class_ids, int)[order]
        verdicts = np.full(len(order), _FALSE, np.int8)
        if len(order) and len(truth_class_ids):
            # float64, or half an object would count as found or not by the rounding of the last digit.
            overlap = ssdutils.iou(np.asarray(boxes_xyxy, np.float64)[order], np.asarray(truth_boxes_xyxy, np.float64))
            overlap[class_ids[:, None] != truth_class_ids] = -1
            best = overlap.argmax(1)
            taken = set()
            for detection in np.flatnonzero(overlap.max(1) >= self._iou_threshold).tolist():
                if difficult[best[detection]]:
                    verdicts[detection] = _IGNORED
                elif best[detection] not in taken:
                    verdicts[detection] = _TRUE
                    taken.add(best[detection])
        self._class_ids.append(class_ids)
        self._confidences.append(np.asarray(confidences, np.float64)[order])
        self._verdicts.append(verdicts)

    def result(self):
        """Result over everything that was added."""
        class_ids, confidences, verdicts = (np.concatenate(parts) if parts else np.zeros(0) for parts in (
            self._class_ids, self._confidences, self._verdicts))
        ap_area, ap_11_point = np.full((2, len(self._objects)), np.nan)
        for class_id in np.flatnonzero(self._objects):
            mine = (class_ids == class_id) & (verdicts != _IGNORED)
            is_true = verdicts[mine][np.argsort(-confidences[mine], kind="stable")] == _TRUE
            recall = np.cumsum(is_true) / self._objects[class_id]
            precision = np.cumsum(is_true) / np.arange(1, len(is_true) + 1)
            ap_area[class_id], ap_11_point[class_id] = area(recall, precision), eleven_point(recall, precision)
        counts = self._objects > 0
        means = [float(np.mean(ap[counts])) if counts.any() else float("nan") for ap in (ap_area, ap_11_point)]
        return Result(ap_area, ap_11_point, means[0], means[1], self._objects.copy())


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
