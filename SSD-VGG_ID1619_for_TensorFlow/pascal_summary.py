# SPDX-License-Identifier: Apache-2.0
"""Detections as the files that the Pascal VOC development kit and its evaluation server read, and AP as a table."""
import os

import numpy as np

from common.files import write_text

FILE_NAME = "comp4_det_test_%s.txt"  # comp4: detection, trained on any data but the test data


class PascalSummary:
    """Collects detections image by image and writes one file for each class.

    A line is image id, confidence, xmin, ymin, xmax, ymax in pixels that count from 1, the last one included.

    Args:
      classes: names, in the order of the class ids.
    """

    def __init__(self, classes):
        self._lines = [[] for _ in classes]
        self._classes = classes

    def add(self, image_id, size_px, boxes_xyxy, class_ids, confidences):
        """Adds one image.

        Args:
          image_id: its file name without extension.
          size_px: (width, height) of the image on disk.
          boxes_xyxy float [K, 4] relative to the image, class_ids int [K], confidences float [K].
        """
        boxes_px = np.asarray(boxes_xyxy, np.float64) * (tuple(size_px) * 2) + [1, 1, 0, 0]
        for box, class_id, confidence in zip(boxes_px.tolist(), class_ids, confidences):
            self._lines[class_id].append("%s %.6f %.3f %.3f %.3f %.3f\n" % ((image_id, confidence) + tuple(box)))

    def write(self, folder):
        """Writes the files, an empty one for a class without detections; returns their paths."""
        os.makedirs(folder, exist_ok=True)
        paths = [os.path.join(folder, FILE_NAME % name.replace("/", "%2F")) for name in self._classes]
        for path, lines in zip(paths, self._lines):
            write_text(path, "".join(lines))
        return paths


def table(classes, result):
    """AP of every class and their mean as text.

    Args:
      classes: names.
      result: average_precision.Result.
    """
    width = max(len(name) for name in tuple(classes) + ("class",))
    lines = ["%-*s %8s %9s %12s" % (width, "class", "objects", "AP (area)", "AP (11-point)")]
    for row in zip(classes, result.objects, result.ap_area, result.ap_11_point):
        lines.append("%-*s %8d %9s %12s" % ((width,) + row[:2] + tuple(
            "-" if np.isnan(value) else "%.4f" % value for value in row[2:])))
    lines.append("%-*s %8d %9.4f %12.4f" % (width, "mAP", result.objects.sum(), result.map_area, result.map_11_point))
    return "\n".join(lines)
