# SPDX-License-Identifier: Apache-2.0
"""What a network says about pictures: a table on the terminal, predictions.csv, predictions.json, a contact sheet."""
import csv
import io
import json
import os
from typing import Any, List

from common import pictures
from common.files import DataError, prepare_output_dir, write_text
from common.lazy import np

CSV, JSON, SHEET = "predictions.csv", "predictions.json", "predictions.png"
_BATCH_SIZE, _SHOWN = 64, 64
_FILE_LENGTH = 40


def classify(parsed, read, infer, classes, about, batch_size=_BATCH_SIZE):
    """Classifies picture files by batches and leaves the results in a folder; a bad file is named and passed over.

    Args:
      parsed: the flags of flags.add_predict_group: pictures, output_path, top.
      read: bytes of a file -> uint8 [H, W, 3], the picture as the network gets it; may raise pictures.BadImage.
      infer: uint8 [n, H, W, 3], n at most batch_size -> float [n, classes], probabilities.
      classes: list of str.
      about: JSON-able dict, what predictions.json says of the network: model, checkpoint, step.
    Returns:
      exit code: 0, or 1 when no file could be read.
    Raises:
      DataError: there is no such file, the results cannot be written, or a probability is no number.
    """
    paths = pictures.find(parsed.pictures)
    folder = prepare_output_dir(parsed.output_path)
    found: List[Any] = []
    passed_over: List[Any] = []
    shown: List[Any] = []  # the first images
    for first in range(0, len(paths), batch_size):
        named, batch = [], []
        for path in paths[first:first + batch_size]:
            try:
                batch.append(read(pictures.read_file(path)))
                named.append(path)
            except pictures.BadImage as reason:
                passed_over.append((path, str(reason)))
        if not batch:
            continue
        for path, image, probabilities in zip(named, batch, infer(np.stack(batch))):
            if not np.isfinite(probabilities).all():
                raise DataError(path, "probabilities from the network", "one that is no number",
                                "give another checkpoint: this one's weights are damaged, or its training diverged")
            found.append((path, guesses(probabilities, classes, parsed.top)))
            shown += [image] if len(shown) < _SHOWN else []
    print(table(found, passed_over))
    write(folder, found, passed_over, dict(about, classes=list(classes)))
    if found:
        labels = ["%s\n%s" % (os.path.basename(_text(path)), said(guess)) for path, (guess, *_) in found[:_SHOWN]]
        pictures.contact_sheet(os.path.join(folder, SHEET), shown, labels, most=_SHOWN)
        print("contact sheet: %s" % os.path.join(folder, SHEET))
    return 0 if found else 1


def guesses(probabilities, classes, top):
    """The likeliest classes of one picture, best first.

    Args:
      probabilities: float [classes].
      classes: list of str; top: int.
    Returns:
      list of {"class": str, "probability": float}.
    """
    order = np.argsort(-np.asarray(probabilities), kind="stable")[:top]
    return [{"class": classes[index], "probability": round(float(probabilities[index]), 6)} for index in order]


def said(guess):
    """A guess in a few words: "cat 0.93"."""
    return "%s %.2f" % (guess["class"], guess["probability"])


def table(found, passed_over):
    """Lines of picture, class, probability and the guesses after the first; then what was passed over, and why.

    Args:
      found: list of (path, list of guesses, best first); a detector's may be empty.
      passed_over: list of (path, reason).
    Returns:
      str.
    """
    rows = [("picture", "class", "probability", "then")]
    for path, of_picture in found:
        best = (of_picture[0]["class"], "%.4f" % of_picture[0]["probability"]) if of_picture else ("nothing", "-")
        rows.append((_short(path),) + best + (", ".join(said(guess) for guess in of_picture[1:4]),))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["%-*s  %-*s  %*s  %s" % (widths[0], row[0], widths[1], row[1], widths[2], row[2], row[3]) for row in rows]
    lines += ["passed over: %s: %s" % (_text(path), reason) for path, reason in passed_over]
    return "\n".join(line.rstrip() for line in lines)


def write(folder, found, passed_over, about):
    """Writes predictions.csv, a line a guess, and predictions.json.

    Args:
      folder: that exists.
      found: list of (path, list of guesses, best first): dicts with "class", "probability" and, of a detector, more,
        alike in all.
      passed_over: list of (path, reason).
      about: JSON-able dict that predictions.json begins with.
    """
    columns = next((list(of_picture[0]) for _, of_picture in found if of_picture), ["class", "probability"])
    lines = io.StringIO()
    sheet = csv.writer(lines, lineterminator="\n")
    sheet.writerow(["file", "rank"] + columns)
    for path, of_picture in found:
        sheet.writerows([_text(path), rank] + [guess[name] for name in columns]
                        for rank, guess in enumerate(of_picture, 1))
    write_text(os.path.join(folder, CSV), lines.getvalue())
    write_text(os.path.join(folder, JSON), json.dumps(dict(
        about, pictures=[{"file": _text(path), "guesses": of_picture} for path, of_picture in found],
        passed_over=[{"file": _text(path), "reason": reason} for path, reason in passed_over]), indent=1))
    for name in (CSV, JSON):
        print("predictions: %s" % os.path.join(folder, name))


def _text(path):
    return os.fsencode(path).decode("utf-8", "replace")  # a file's name need not be text


def _short(path):
    text = _text(path)
    return text if len(text) <= _FILE_LENGTH else "..." + text[3 - _FILE_LENGTH:]
