# SPDX-License-Identifier: Apache-2.0
"""Detections as the files that the Pascal VOC development kit and its evaluation server read; AP as a table and as
curves."""
import os

import numpy as np

from common.files import write_text

_MOST_CURVES = 20
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


def table(classes, result, coco=None):
    """AP of every class and their mean as text.

    Args:
      classes: names.
      result: average_precision.Result.
      coco: average_precision.CocoResult, for one more column.
    """
    columns = {"AP (area)": result.ap_area.tolist() + [result.map_area],
               "AP (11-point)": result.ap_11_point.tolist() + [result.map_11_point]}
    if coco:
        columns["AP (COCO)"] = coco.ap_by_class.tolist() + [coco.ap]
    width = max(len(name) for name in tuple(classes) + ("class",))
    form = "%%-%ds %%8s" % width + " %13s" * len(columns)
    lines = [form % (("class", "objects") + tuple(columns))]
    for name, objects, *values in zip(tuple(classes) + ("mAP",), result.objects.tolist() + [result.objects.sum()],
                                      *columns.values()):
        lines.append(form % ((name, objects) + tuple("-" if np.isnan(one) else "%.4f" % one for one in values)))
    return "\n".join(lines)


def draw_curves(classes, result, confidence, picture):
    """Draws precision over recall of every class, of more than 20 of those with the lowest AP, as a PNG.

    Args:
      classes: names.
      result: average_precision.Result.
      confidence: a dot shows where the detections of at least this end.
      picture: path to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    from utils import class_colours, font_path
    worst = sorted(result.curves, key=lambda class_id: result.ap_area[class_id])[:_MOST_CURVES]
    figure = Figure(figsize=(9, 6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    for place, class_id in enumerate(reversed(worst)):
        (recall, precision, confidences), name = result.curves[class_id], classes[class_id].replace("$", r"\$")
        colour = [part / 255 for part in reversed(class_colours(_MOST_CURVES)[place])]
        axes.plot(recall, precision, "--" if place % 2 else "-", color=colour, linewidth=1.3,
                  label="%.3f %s" % (result.ap_area[class_id], name))
        shown = np.count_nonzero(confidences >= confidence)
        if shown:
            axes.plot(recall[shown - 1], precision[shown - 1], "o", color=colour, markersize=5)
    axes.set_title("mAP %.4f (area), %.4f (11-point); dots: confidence %g" % (
        result.map_area, result.map_11_point, confidence))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if worst:
        axes.legend(title="AP (area)" + ", the lowest of %d" % len(classes) * (len(result.curves) > len(worst)),
                    loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
                    prop=FontProperties(fname=font_path("".join(classes)), size=9))
    figure.savefig(picture, bbox_inches="tight")
