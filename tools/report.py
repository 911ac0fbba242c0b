# SPDX-License-Identifier: Apache-2.0
"""A run told on one page, or several compared, from metrics.jsonl and flags.json.

    python -m tools.report RUN                              report.md and curves.png in the run folder
    python -m tools.report RUN RUN [RUN ...] --output=DIR   comparison.md and comparison.png in DIR
    python -m tools.report --table RUN [RUN ...]            prints one Markdown table row a run, writes nothing
"""
import importlib.util
import json
import math
import os
import statistics
import sys
from typing import Any, Dict, List

from common import flags, runlog
from common.checkpoint import FLAGS_FILE
from common.files import read_json, whole_file, write_text

# The figures of an [eval] line that a run is judged by, and other names of curves.
_ACCURACIES = {"top1": "top-1", "map": "mAP"}
_TITLES = dict(_ACCURACIES, loss="loss", images_per_sec="images / s")
# Flags that no difference repeats: two that name the run folder, and one that the table has.
_NO_DIFFERENCE = ("output_path", "SUMMARY", "batch_size")
_IN_TABLE = ("model", "device", "batch_size", "ranks", "first_step")  # fields of [run] that no difference repeats
_NUMBERS = ("step", "epoch", "wall_sec", "loss", "images_per_sec") + tuple(_ACCURACIES)  # where an event has them
_CONFUSION_PNG = "confusion.png"
_LOG_RATIO = 5  # runs whose typical values lie this far apart are drawn on a logarithmic axis


def read_metrics(output_path):
    """The events of a run, each step's once: what a resumed run did again replaces what was lost.

    Args:
      output_path: run folder.
    Returns:
      {event: [fields, ...]} in the order of steps; what is no event, as a line that a kill cut short, is left out.
    """
    events: Dict[str, Dict[Any, dict]] = {event: {} for event in runlog.EVENTS}
    with open(os.path.join(output_path, runlog.METRICS_FILE), encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines):
            try:
                fields = json.loads(line)
                event = fields["event"]
                key = fields["step"] if event in (runlog.TRAIN, runlog.EVAL, runlog.SAVE) else number
                if all(isinstance(fields.get(name, 0), (int, float)) for name in _NUMBERS):
                    events[event][key] = fields
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
    return {event: [by_key[key] for key in sorted(by_key)] for event, by_key in events.items()}


def table(output_paths):
    """Markdown table of runs: model, device, batch, images/s, accuracy, minutes, where the curves are."""
    runs = [read_metrics(path) for path in output_paths]
    return _markdown(_columns(runs) + ["curves"],
                     [row + [os.path.join(path, "curves.png")] for path, row in zip(output_paths, _rows(runs))])


def compare(output_paths):
    """What several runs reached and in what they differ, as Markdown.

    Returns:
      (str, str): a table with a row a run; one with a row for each flag, and each field of [run], whose values are not
      all the same among the runs that have it, and the folders.
    """
    names = short_names(output_paths)
    runs = [read_metrics(path) for path in output_paths]
    differences = _differences(output_paths, runs)
    return _markdown(["run"] + _columns(runs), [[name] + row for name, row in zip(names, _rows(runs))]), "\n".join(
        ["## Differences", "", _markdown([""] + names, differences) if differences else
         "None in flags, software or network.", "", "## Run folders", ""]
        + ["- %s: %s" % pair for pair in zip(names, output_paths)])


def short_names(output_paths):
    """What to call each run: the fewest last parts of its path that no other run has, without an end that all share.

    SSD/test/output/0 and cutmix/test/output/0 are ["SSD", "cutmix"]; with SSD/test/output/0.1 as well, they are
    ["SSD/.../0", "cutmix/.../0", "0.1"].
    """
    paths = [os.path.abspath(path).split(os.sep)[1:] for path in output_paths]
    while len(paths) > 1 and len({path[-1] for path in paths}) == 1 and all(len(path) > 1 for path in paths):
        paths = [path[:-1] for path in paths]
    names = []
    for path in paths:
        ends = [path[-count:] for count in range(1, len(path) + 1)]
        names.append(next((end for end in ends if [other[-len(end):] for other in paths].count(end) == 1), path))
    brief = [name[:1] + ["..."] + name[-1:] if len(name) > 3 else name for name in names]
    distinct = len(set(map(tuple, brief))) == len(brief)
    return [os.sep.join(name) for name in (brief if distinct else names)]


def write_comparison(output_paths, folder):
    """Writes comparison.md and, where matplotlib is installed, comparison.png into a folder; returns their paths."""
    os.makedirs(folder, exist_ok=True)
    picture = draw_curves(output_paths, os.path.join(folder, "comparison.png"))
    reached, differences = compare(output_paths)
    lines = ["# %d runs" % len(output_paths), "", reached, ""]
    if picture:
        lines += ["![loss, accuracy and images/s](comparison.png)", ""]
    return _write(os.path.join(folder, "comparison.md"), lines + [differences, ""]) + picture


def write_report(output_path):
    """Writes report.md, which shows a confusion.png that is there, and curves.png where matplotlib is; the paths."""
    events = read_metrics(output_path)
    picture = draw_curves([output_path], os.path.join(output_path, "curves.png"))
    run = (events[runlog.RUN] or [{}])[-1]
    row = table([output_path]).replace(output_path + os.sep, "")
    lines = ["# %s on %s" % (run.get("model", "run"), run.get("device", "?")), "", row, ""]
    if picture:
        lines += ["![loss, accuracy and images/s](curves.png)", ""]
    if os.path.exists(os.path.join(output_path, _CONFUSION_PNG)):  # drawn by an evaluation with --confusion_png
        lines += ["![confusion matrix](%s)" % _CONFUSION_PNG, ""]
    if events[runlog.EVAL]:
        keys = [key for key in events[runlog.EVAL][-1] if key not in ("time", "event")]
        lines += ["## Evaluations", "", _markdown(keys, [[_short(fields.get(key, "")) for key in keys]
                                                         for fields in events[runlog.EVAL]]), ""]
    if run:
        lines += ["## Run", ""] + ["- %s: %s" % item for item in run.items() if item[0] not in ("time", "event")]
        lines += ["- started %d time(s)" % len(events[runlog.RUN]), ""]
    for title, event in (("Warnings", runlog.WARN), ("Failures", runlog.FAIL)):
        if events[event]:
            lines += ["## %s" % title, ""] + ["- %s" % fields.get("message", "") for fields in events[event]] + [""]
    recorded = read_json(os.path.join(output_path, FLAGS_FILE)) or {}
    if recorded:
        lines += ["## Flags", "", "```"] + ["--%s=%s" % item for item in sorted(recorded.items())] + ["```", ""]
    return _write(os.path.join(output_path, "report.md"), lines) + picture


def _write(page, lines):
    write_text(page, "\n".join(lines))
    return [page]


def draw_curves(output_paths, picture):
    """Draws loss, accuracy and images/s of runs over steps, or over epochs where these differ in their steps.

    Returns:
      [picture], the PNG's path; [] where matplotlib is not installed or nothing was logged.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return []
    runs = [read_metrics(path) for path in output_paths]
    if not any(events[runlog.TRAIN] + events[runlog.EVAL] for events in runs):
        return []
    keys = ["loss"] + _accuracies(runs) + ["images_per_sec"]
    unit = "epoch" if _epochs_differ(runs) else "step"
    names = short_names(output_paths) if len(runs) > 1 else []
    legend_columns = max(1, min(len(names) + 2, 150 // (max(map(len, names + [""])) + 8)))
    legend_rows = math.ceil((len(names) + 2) / legend_columns) if names else 0
    height_in = 3.8 + 0.22 * legend_rows
    figure = Figure(figsize=(4.35 * len(keys), height_in), dpi=100)
    FigureCanvasAgg(figure)
    for place, key in enumerate(keys, 1):
        _draw_curve(figure.add_subplot(1, len(keys), place), runs, key, unit)
    figure.tight_layout(rect=(0, 0.22 * legend_rows / height_in, 1, 1))
    if names:
        figure.legend(handles=_legend(names), loc="lower center", ncol=legend_columns, fontsize=8, frameon=False)
    with whole_file(picture) as temporary:
        figure.savefig(temporary)
    return [picture]


def _draw_curve(axes, runs, key, unit):
    """One figure's values over steps or epochs, of all runs, in training and evaluation."""
    alone, typical = len(runs) == 1, []
    for index, events in enumerate(runs):
        drawn: List[float] = []
        for event, style, label in ((runlog.TRAIN, "-", "train"), (runlog.EVAL, "o--", "evaluation")):
            points = [(fields[unit], fields[key]) for fields in events[event] if key in fields and unit in fields]
            if not points:
                continue
            places, values = zip(*points)
            drawn += values
            axes.plot(places, values, style, color=_colour(index, len(runs)), linewidth=1.3, markersize=4,
                      alpha=1.0 if event == runlog.EVAL else 0.6, label=label)
            if alone and event == runlog.EVAL and key != "loss":
                axes.annotate(_short(values[-1]), (places[-1], values[-1]), textcoords="offset points",
                              xytext=(-4, 6), ha="right", fontsize=8)
        if drawn and min(drawn) > 0:
            typical.append(statistics.median(drawn))
    axes.set_title(_TITLES[key])
    axes.set_xlabel(unit)
    axes.locator_params(axis="x", nbins=6)  # more steps of five digits run into each other
    axes.grid(alpha=0.3)
    if typical and max(typical) > _LOG_RATIO * min(typical) and key not in _ACCURACIES:
        axes.set_yscale("log")
    elif key != "loss":
        top = axes.dataLim.y1 if axes.lines else 0.0
        axes.set_ylim(0, 1.15 * top or 1)  # room for the last value's figure, also where it is the only one
    if alone and axes.lines:
        axes.legend(fontsize=8)


def _legend(names):
    """Below all curves: a colour for each run, and what a line and dots mean."""
    from matplotlib.lines import Line2D
    return [Line2D([], [], color=_colour(index, len(names)), linewidth=3, label=name)
            for index, name in enumerate(names)] + [
                Line2D([], [], color="black", alpha=0.6, linewidth=1.3, label="train"),
                Line2D([], [], color="black", linestyle="--", marker="o", markersize=4, linewidth=1.3,
                       label="evaluation")]


def _colour(index, count):
    from matplotlib import cm
    return "C%d" % index if count <= 10 else cm.turbo(index / (count - 1))


def _epochs_differ(runs):
    """Whether epochs are the better axis: all runs say theirs, and they have different numbers of steps."""
    steps_per_epoch = []
    for events in runs:
        lines = events[runlog.TRAIN] + events[runlog.EVAL]
        ratios = [fields["step"] / fields["epoch"] for fields in lines if fields.get("epoch")]
        if lines and not ratios:
            return False
        steps_per_epoch += [statistics.median(ratios)] if ratios else []
    return bool(steps_per_epoch) and max(steps_per_epoch) > 1.01 * min(steps_per_epoch)


def _columns(runs):
    """Titles of what _rows() says of each run."""
    return ["model", "device", "batch x ranks", "images/s"] + [_TITLES[key] for key in _accuracies(runs)] + ["minutes"]


def _rows(runs):
    """[[str, ...], ...]: what each run reached, in the order of _columns()."""
    rows = []
    for events in runs:
        run, done, evaluated = ((events[event] or [{}])[-1] for event in (runlog.RUN, runlog.DONE, runlog.EVAL))
        minutes = "%.1f" % (done["wall_sec"] / 60) if "wall_sec" in done else "-" if done else "unfinished"
        said = [str(run.get(key, "?")) for key in ("model", "device", "batch_size", "ranks")]
        rows.append(said[:2] + ["%s x %s" % tuple(said[2:]), _figure(done, "images_per_sec", "%.1f")]
                    + [_figure(evaluated, key, "%.4f") for key in _accuracies(runs)] + [minutes])
    return rows


def _differences(output_paths, runs):
    """[[name, value in the first run, ...], ...]: flags, then fields of [run], that runs having them disagree in."""
    saved = [read_json(os.path.join(path, FLAGS_FILE)) for path in output_paths]
    recorded = [{"--" + name: value for name, value in (of_run if isinstance(of_run, dict) else {}).items()
                 if name not in _NO_DIFFERENCE} for of_run in saved]
    said = [{name: value for name, value in (events[runlog.RUN] or [{}])[-1].items()
             if name not in ("time", "event") + _IN_TABLE and "--" + name not in own_flags}
            for events, own_flags in zip(runs, recorded)]
    rows = []
    for of_runs in (recorded, said):
        for name in sorted(set().union(*of_runs)):
            if len({json.dumps(values[name], sort_keys=True) for values in of_runs if name in values}) > 1:
                rows.append([name] + [_short(values[name]) if name in values else "-" for values in of_runs])
    return rows


def _markdown(titles, rows):
    """A Markdown table."""
    return "\n".join("| %s |" % " | ".join(cell.replace("|", "\\|") for cell in cells)
                     for cells in [titles, ["---"] * len(titles)] + rows)


def _accuracies(runs):
    """The keys of _ACCURACIES that occur in the runs; top1 where there is none yet."""
    evaluations = [fields for events in runs for fields in events[runlog.EVAL]]
    return [key for key in _ACCURACIES if any(key in fields for fields in evaluations)] or ["top1"]


def _figure(fields, key, form):
    return form % fields[key] if key in fields else "-"


def _short(value):
    return "%.4g" % value if isinstance(value, float) else str(value)


def main(argv=None):
    """Runs the command line; returns the exit code."""
    parsed, runs = _parse_args(argv)
    try:
        if parsed.table:
            runlog.say(table(runs))
            return 0
        if len(runs) > 1:
            runlog.say("%s\n\n%s\n" % compare(runs))
            written, picture = write_comparison(runs, parsed.output or "."), "comparison.png"
        else:
            written, picture = write_report(runs[0]), "curves.png"
    except OSError as error:
        print("python -m tools.report: %s" % error, file=sys.stderr)
        return 1
    runlog.say("\n".join(written))
    if len(written) < 2:
        runlog.say("%s was not drawn: %s." % (picture, "no step was logged yet" if importlib.util.find_spec(
            "matplotlib") else "matplotlib is not installed"))
    return 0


def _parse_args(argv):
    """(the flags, the run folders)."""
    parser = flags.Parser(prog="python -m tools.report", description=__doc__.split("\n")[0])
    parser.add_bool(parser, "--table", False, help="print a table and write nothing")
    parser.add_argument("--output", type=flags.output_path, metavar="DIR",
                        help="where a comparison's comparison.md and comparison.png go; default the current folder")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, e.g. <model folder>/test/output/0; two or "
                        "more are compared")
    parsed = parser.parse_args(argv)
    runs = [os.path.normpath(path) for path in parsed.runs]
    for place, path in enumerate(runs):
        if not os.path.isfile(os.path.join(path, runlog.METRICS_FILE)):
            parser.error("%s: found no %s, expected a run folder" % (path, runlog.METRICS_FILE))
        if os.path.realpath(path) in map(os.path.realpath, runs[:place]):
            parser.error("%s: found the same run folder twice, expected different ones" % path)
    if parsed.output and (parsed.table or len(runs) == 1):
        parser.error("argument --output: is for a comparison of two or more runs; %s" % (
            "--table writes nothing" if parsed.table else "the report of one run goes into its folder"))
    return parsed, runs


if __name__ == "__main__":
    sys.exit(main())
