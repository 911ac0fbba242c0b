# SPDX-License-Identifier: Apache-2.0
"""A run told on one page: report.md and curves.png from metrics.jsonl.

    python -m common.report RUN [RUN ...]           writes both into each run folder
    python -m common.report --table RUN [RUN ...]   prints one Markdown table row a run
"""
import json
import os
import sys

from common import flags, runlog
from common.checkpoint import FLAGS_FILE, read_json, write_text

_ACCURACIES = [("top1", "top-1"), ("map", "mAP")]  # the figure of an [eval] line that a run is judged by


def read_metrics(output_path):
    """The events of a run, each step's once: what a resumed run did again replaces what was lost.

    Args:
      output_path: run folder.
    Returns:
      {event: [fields, ...]} in the order of steps; a line that a kill cut short is left out.
    """
    events = {event: {} for event in runlog.EVENTS}
    with open(os.path.join(output_path, runlog.METRICS_FILE), encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            keyed_by_step = fields["event"] in (runlog.TRAIN, runlog.EVAL, runlog.SAVE)
            events[fields["event"]][fields["step"] if keyed_by_step else number] = fields
    return {event: [found[key] for key in sorted(found)] for event, found in events.items()}


def table(output_paths):
    """Markdown table of runs: model, device, batch, images/s, accuracy, minutes, where the curves are."""
    runs = [(path, read_metrics(path)) for path in output_paths]
    accuracies = _accuracies(events for _, events in runs)
    rows = ["| model | device | batch x ranks | images/s | %s | minutes | curves |" % " | ".join(
        title for _, title in accuracies), "| --- | --- | --- | --- |" + " --- |" * len(accuracies) + " --- | --- |"]
    for path, events in runs:
        run = events[runlog.RUN][-1] if events[runlog.RUN] else {}
        done = events[runlog.DONE][-1] if events[runlog.DONE] else {}
        evaluated = events[runlog.EVAL][-1] if events[runlog.EVAL] else {}
        rows.append("| %s | %s | %s x %s | %s | %s | %s | %s |" % (
            run.get("model", "?"), run.get("device", "?"), run.get("batch_size", "?"), run.get("ranks", "?"),
            _figure(done, "images_per_sec", "%.1f"),
            " | ".join(_figure(evaluated, key, "%.4f") for key, _ in accuracies),
            "%.1f" % (done["wall_sec"] / 60) if done else "unfinished",
            os.path.join(path, "curves.png")))
    return "\n".join(rows)


def write_report(output_path):
    """Writes report.md and, where matplotlib is installed, curves.png.

    Returns:
      The paths written.
    """
    events = read_metrics(output_path)
    written = []
    picture = draw_curves([output_path], os.path.join(output_path, "curves.png"))
    if picture:
        written.append(picture)
    run = events[runlog.RUN][-1] if events[runlog.RUN] else {}
    row = table([output_path]).replace(output_path + os.sep, "")
    lines = ["# %s on %s" % (run.get("model", "run"), run.get("device", "?")), "", row, ""]
    if picture:
        lines += ["![loss, accuracy and images/s](curves.png)", ""]
    if events[runlog.EVAL]:
        keys = [key for key in events[runlog.EVAL][-1] if key not in ("time", "event")]
        lines += ["## Evaluations", "", "| %s |" % " | ".join(keys), "|" + " --- |" * len(keys)]
        lines += ["| %s |" % " | ".join(_short(fields.get(key, "")) for key in keys) for fields in events[runlog.EVAL]]
        lines.append("")
    if run:
        lines += ["## Run", ""]
        lines += ["- %s: %s" % (key, value) for key, value in run.items() if key not in ("time", "event")]
        lines += ["- started %d time(s)" % len(events[runlog.RUN]), ""]
    for title, event in (("Warnings", runlog.WARN), ("Failures", runlog.FAIL)):
        if events[event]:
            lines += ["## %s" % title, ""] + ["- %s" % fields.get("message", "") for fields in events[event]] + [""]
    recorded = read_json(os.path.join(output_path, FLAGS_FILE)) or {}
    if recorded:
        lines += ["## Flags", "", "```"] + ["--%s=%s" % item for item in sorted(recorded.items())] + ["```", ""]
    report = os.path.join(output_path, "report.md")
    write_text(report, "\n".join(lines))
    return [report] + written


def draw_curves(output_paths, picture):
    """Draws loss, accuracy and images/s over the steps of one or more runs into a PNG.

    Returns:
      `picture`, or None where matplotlib is not installed or nothing was logged.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    runs = [(path, read_metrics(path)) for path in output_paths]
    if not any(events[runlog.TRAIN] for _, events in runs):
        return None
    figure = Figure(figsize=(13, 3.8), dpi=100)
    FigureCanvasAgg(figure)
    curves = [("loss", "loss")] + [(title, key) for key, title in _accuracies(events for _, events in runs)] + [
        ("images / s", "images_per_sec")]
    for place, (title, key) in enumerate(curves):
        axes = figure.add_subplot(1, len(curves), place + 1)
        for index, (path, events) in enumerate(runs):
            name = "" if len(runs) == 1 else os.path.basename(os.path.normpath(path)) + " "
            for event, style, label in ((runlog.TRAIN, "-", "train"), (runlog.EVAL, "o--", "evaluation")):
                points = [(fields["step"], fields[key]) for fields in events[event] if key in fields]
                if points:
                    steps, values = zip(*points)
                    axes.plot(steps, values, style, color="C%d" % index, alpha=1.0 if event == runlog.EVAL else 0.6,
                              label=name + label, linewidth=1.3, markersize=4)
                    if event == runlog.EVAL and key != "loss":
                        axes.annotate(_short(values[-1]), (steps[-1], values[-1]), textcoords="offset points",
                                      xytext=(-4, 6), ha="right", fontsize=8)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if key != "loss":
            axes.set_ylim(bottom=0)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.tight_layout()
    temporary = "%s.tmp-%d.png" % (picture, os.getpid())
    figure.savefig(temporary)
    os.replace(temporary, picture)
    return picture


def _accuracies(events_of_runs):
    """[(key, title)] of the accuracies that occur in the runs; top-1 where there is none yet."""
    evaluated = [fields for events in events_of_runs for fields in events[runlog.EVAL]]
    return [pair for pair in _ACCURACIES if any(pair[0] in fields for fields in evaluated)] or _ACCURACIES[:1]


def _figure(fields, key, form):
    return form % fields[key] if key in fields else "-"


def _short(value):
    return "%.4g" % value if isinstance(value, float) else str(value)


def main(argv=None):
    parser = flags.Parser(prog="python -m common.report", description=__doc__.split("\n")[0])
    parser.add_bool(parser, "--table", False, help="print a table instead of writing report.md and curves.png")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, e.g. <model folder>/test/output/0")
    parsed = parser.parse_args(argv)
    for path in parsed.runs:
        if not os.path.isfile(os.path.join(path, runlog.METRICS_FILE)):
            parser.error("%s: found no %s, expected a run folder" % (path, runlog.METRICS_FILE))
    if parsed.table:
        print(table(parsed.runs))
    else:
        for path in parsed.runs:
            print("\n".join(write_report(path)))


if __name__ == "__main__":
    sys.exit(main())
