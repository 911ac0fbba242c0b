# SPDX-License-Identifier: Apache-2.0
"""What a classifier takes for what: counts, accuracy of every class, a picture. numpy alone, matplotlib to draw."""
import importlib.util
import os
from typing import Any, List

from common.files import DataError
from common.lazy import np

_MOST_COUNTED, _MOST_NAMED = 30, 100  # classes: more counts, more names cannot be read in a picture
_WORST = 20  # classes that the table has when there are more than _MOST_NAMED
_NAME_LENGTH = 28


def check_can_draw(where="--confusion_png", otherwise="leave --confusion_png out"):
    """Raises DataError where matplotlib is missing: better said before an evaluation than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError(where, "matplotlib, which draws the picture", "no such package",
                        "python -m pip install matplotlib, or " + otherwise)


def first_guess(scores):
    """int64 [N]: the class that scores highest in float [N, classes], the lowest of equal ones; -1 where any is NaN."""
    return np.where(np.isnan(scores).any(1), -1, scores.argmax(1))


def count(taken_for, labels, classes):
    """Counts what was taken for what.

    Args:
      taken_for: int [N], as of first_guess().
      labels: int [N], the true class.
      classes: int.
    Returns:
      int64 [classes, classes + 1]: images of class (row) that were taken for class (column), in the last column those
      that were taken for none: they are images of their class, and never right.
    """
    taken_for = np.asarray(taken_for, np.int64)
    column = np.where(taken_for < 0, classes, taken_for)
    flat = np.asarray(labels, np.int64) * (classes + 1) + column
    return np.bincount(flat, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def table(confusion, class_names):
    """Lines of class, images and top-1; of very many classes those with images alone that did worst, worst first.

    Args:
      confusion: int [classes, classes + 1], of count().
      class_names: list of str.
    Returns:
      str.
    """
    rows: List[Any] = [(name, int(images), right / images if images else None)
            for name, images, right in zip(class_names, confusion.sum(1), confusion.diagonal())]
    title = "class"
    if len(rows) > _MOST_NAMED:
        rows = sorted((row for row in rows if row[1]), key=lambda row: row[2])[:_WORST]
        title = "worst %d of %d classes" % (len(rows), len(class_names))
    width = max(12, len(title), *(len(name) for name, _, _ in rows)) if rows else len(title)
    lines = ["%-*s %6s %6s" % (width, title, "images", "top1")]
    lines += ["%-*s %6d %6s" % (width, name, images, "-" if share is None else "%.4f" % share)
              for name, images, share in rows]
    return "\n".join(lines)


def draw(confusion, class_names, picture):
    """Writes a confusion matrix as a PNG, shaded by the share of each class (row).

    Up to 30 classes have their counts in it, up to 100 their names and accuracies; beyond that a class is a row of
    pixels and the axes bear numbers.

    Args:
      confusion: int [classes, classes + 1], of count().
      class_names: list of str.
      picture: path of the PNG; its folder is made.
    Raises:
      DataError: matplotlib is not installed.
    """
    check_can_draw()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    classes, images = len(confusion), confusion.sum(1)
    taken_for_none = confusion[:, classes:].sum()
    confusion = confusion[:, :classes]
    share = confusion / images[:, None].clip(1)
    counted, named = classes <= _MOST_COUNTED, classes <= _MOST_NAMED
    inches_per_class = 0.52 if counted else 0.17 if named else 0.0105  # the last: a pixel
    side_in = min(20.0, max(3.2, inches_per_class * classes))
    figure = Figure(figsize=(side_in + 3.0, side_in + 1.8), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    # A few of a thousand classes' images, each a hundredth of its row, would be white on a linear scale.
    shades = axes.imshow(share, cmap="Blues", norm=PowerNorm(1.0 if counted else 0.5, 0.0, 1.0), aspect="auto",
                         interpolation="nearest" if side_in < 20.0 else None)
    if counted:
        for true, row in enumerate(confusion):
            for taken, number in enumerate(row):
                axes.text(taken, true, str(number or ""), ha="center", va="center", fontsize=8,
                          color="white" if share[true, taken] > 0.5 else "black")
    if named:
        places, size = range(classes), 10 if counted else 7
        names = [name if len(name) <= _NAME_LENGTH else name[:_NAME_LENGTH - 3] + "..." for name in class_names]
        axes.set_xticks(places)
        axes.set_xticklabels(names, rotation=45 if counted else 90, ha="right" if counted else "center", fontsize=size)
        axes.set_yticks(places)
        axes.set_yticklabels(names, fontsize=size)
        right = axes.twinx()
        right.set_ylim(axes.get_ylim())
        right.set_yticks(places)
        right.set_yticklabels(["%.1f %%" % (100 * share[place, place]) if images[place] else "-" for place in places],
                              fontsize=size)
        right.set_ylabel("right", labelpad=8)
    else:
        figure.colorbar(shades, ax=axes, fraction=0.03, pad=0.02, label="share of the class")
    axes.set_xlabel("taken for" if named else "number of the class taken for")
    axes.set_ylabel("is" if named else "number of the class")
    axes.set_title("top-1 %.4f of %d images%s" % (confusion.trace() / max(images.sum(), 1), images.sum(),
                                                  ", %d with NaN" % taken_for_none if taken_for_none else ""))
    figure.tight_layout()
    os.makedirs(os.path.dirname(os.path.abspath(picture)), exist_ok=True)
    figure.savefig(picture, format="png")


def tell(confusion, class_names, picture):
    """Prints the table and, unless `picture` is None, draws; arguments as for draw()."""
    print(table(confusion, class_names))
    if picture:
        draw(confusion, class_names, picture)
        print("confusion matrix: %s" % picture)
