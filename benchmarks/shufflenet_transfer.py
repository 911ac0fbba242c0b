#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What weights of other classes are worth: ShuffleNetV2 on two classes with few pictures, from them and from scratch.

    python benchmarks/shufflenet_transfer.py --data_dir=IMAGENETTE --output=OUT

IMAGENETTE holds train/ and val/ with class folders. The network learns all classes but two, the last ones by name; then
these two, with 20, 50 and all pictures a class, for equally many steps: from scratch, from the weights, and from the
weights with all but the last stage frozen. Seeds choose the pictures and everything else that is random. What has been
done is not done again: the same command continues. OUT/transfer.md and transfer.png are written anew after each run.
"""
import argparse
import collections
import os
import random
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "ShufflenetV2_ID0371_For_Tensorflow")
sys.path.insert(0, ROOT)

from common import checkpoint, runlog  # noqa: E402
from tools import report  # noqa: E402

NEW_CLASSES = 2
PICTURES = (20, 50, 0)  # a class; 0: all
STARTS = collections.OrderedDict([  # name: flags
    ("from scratch", []),
    ("from the weights", ["--init_from={weights}"]),
    ("from the weights, --freeze=3", ["--init_from={weights}", "--freeze=3"])])
# README's recipe for imagenette; the eight classes learn as long as its first row.
RECIPE = ["--prepare", "--mode=train_and_evaluate", "--decay=cosine", "--weight_decay=5e-4", "--min_crop_area=0.2",
          "--colour_jitter=0.4", "--save_summary_steps=50", "--iterations_per_loop=1"]
BASE = ["--batch_size=32", "--lr=0.05", "--eval_every=10"]
NEW = ["--batch_size=20", "--lr=0.02", "--warmup_epochs=2"]


def classes_of(data_dir):
    """(classes to begin with, new ones), by name."""
    names = sorted(name for name in os.listdir(os.path.join(data_dir, "train")) if not name.startswith("."))
    return names[:-NEW_CLASSES], names[-NEW_CLASSES:]


def link(data_dir, classes, folder, pictures=0, seed=0):
    """Makes `folder` with train/ and val/ of some classes as links; of training so many pictures a class, 0 for all.

    Returns:
      int, training pictures of the class that has fewest.
    """
    counts = []
    for split in ("train", "val"):
        for name in classes:
            source, place = (os.path.join(top, split, name) for top in (os.path.abspath(data_dir), folder))
            files = sorted(os.listdir(source))
            if split == "train":
                files = sorted(random.Random("%d %s" % (seed, name)).sample(files, min(pictures or len(files),
                                                                                      len(files))))
                counts.append(len(files))
            os.makedirs(place, exist_ok=True)
            for file in files:
                if not os.path.lexists(os.path.join(place, file)):
                    os.symlink(os.path.join(source, file), os.path.join(place, file))
    return min(counts)


def train(output, data, words):
    """Runs train.py to its end, or on to it; nothing when it was there."""
    if checkpoint.is_finished(output):
        return
    print("%s: %s" % (os.path.basename(output), " ".join(words)), flush=True)
    command = [sys.executable, "train.py", "--data_dir=" + data, "--log_dir=" + output] + RECIPE + words
    done = subprocess.run(command, cwd=FOLDER, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit("%s ended with exit code %d; the same command continues. It was: %s" % (
            output, done.returncode, " ".join(command)))


def results_of(runs):
    """{(start, pictures): [{step: top-1} of each seed]} of the runs that have ended; `runs`: {run folder: key}."""
    found = collections.OrderedDict()
    for folder, key in runs.items():
        if checkpoint.is_finished(folder):
            evaluations = report.read_metrics(folder)[runlog.EVAL]
            found.setdefault(key, []).append({fields["step"]: fields["top1"] for fields in evaluations})
    return found


def write(output, results, base):
    """transfer.md, a row for each number of pictures, and transfer.png, top-1 over steps."""
    counts = sorted({pictures for _, pictures in results})
    lines = ["Top-1 on the %d pictures of two new classes: mean over seeds (range, seeds); chance is 0.5." %
             base["images"], "", "| pictures a class | %s |" % " | ".join(STARTS), "| --- |" + " --- |" * len(STARTS)]
    for pictures in counts:
        cells = []
        for start in STARTS:
            last = [curve[max(curve)] for curve in results.get((start, pictures), [])]
            cells.append("%.3f (%.3f to %.3f, %d)" % (statistics.mean(last), min(last), max(last), len(last))
                         if last else "")
        lines.append("| %d | %s |" % (pictures, " | ".join(cells)))
    lines += ["", "The weights: top-1 %.3f on the %s classes that they were trained on, commit %s, %.0f minutes." % (
        base["top1"], base["classes"], base["commit"], base["wall_sec"] / 60)]
    with open(os.path.join(output, "transfer.md"), "w", encoding="utf-8") as page:
        page.write("\n".join(lines) + "\n")
    draw(os.path.join(output, "transfer.png"), results, counts)


def draw(picture, results, counts):
    """Top-1 over steps, a panel for each number of pictures; a line is the mean over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(4.2 * len(counts), 3.8), dpi=100)
    FigureCanvasAgg(figure)
    for place, pictures in enumerate(counts, 1):
        axes = figure.add_subplot(1, len(counts), place)
        for start in STARTS:
            curves = results.get((start, pictures), [])
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            if steps:
                axes.plot(steps, [statistics.mean(curve[step] for curve in curves) for step in steps], "o-",
                          markersize=3, label=start)
        axes.set_title("%d pictures a class" % pictures)
        axes.set_xlabel("step")
        axes.set_ylim(0.4, 1.0)
        axes.grid(alpha=0.3)
        if place == 1:
            axes.set_ylabel("top-1 of two new classes")
            axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--base_epochs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=400, help="on the new classes")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    output = os.path.abspath(arguments.output)
    old, new = classes_of(arguments.data_dir)
    weights = os.path.join(output, "weights")
    link(arguments.data_dir, old, os.path.join(output, "data", "old"))
    train(weights, os.path.join(output, "data", "old"), BASE + ["--max_epochs=%d" % arguments.base_epochs])
    events = report.read_metrics(weights)
    base = dict(events[runlog.RUN][-1], **events[runlog.EVAL][-1])
    base["wall_sec"] = events[runlog.DONE][-1]["wall_sec"]
    runs = collections.OrderedDict()
    for seed in range(arguments.seeds):
        for pictures in PICTURES:
            data = os.path.join(output, "data", "new-%s-%d" % (pictures or "all", seed))
            count = link(arguments.data_dir, new, data, pictures, seed)
            steps_per_epoch = max(1, count * NEW_CLASSES // 20)
            for number, (start, flags) in enumerate(STARTS.items()):
                folder = os.path.join(output, "run-%s-%d-%d" % (pictures or "all", seed, number))
                train(folder, data, NEW + [
                    "--max_train_steps=%d" % arguments.steps, "--seed=%d" % seed,
                    "--eval_every=%d" % max(1, arguments.steps // 10 // steps_per_epoch)
                ] + [flag.format(weights=weights) for flag in flags])
                runs[folder] = start, count
                results = results_of(runs)
                base["images"] = report.read_metrics(folder)[runlog.EVAL][-1]["images"]
                write(output, results, base)
    with open(os.path.join(output, "transfer.md"), encoding="utf-8") as page:
        print(page.read(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
