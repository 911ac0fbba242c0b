# SPDX-License-Identifier: Apache-2.0
"""Event lines -> summary -> the documented "Final ..." block, ${CaseName}.log and the file of losses."""
import collections
import contextlib
import json
import os
import platform
import re
from typing import Dict, List, Optional, Tuple

from common import runlog
from common.files import write_text

_EVENT = re.compile(r"\[(%s)\] ((?:\w+=(?:\"(?:[^\"\\]|\\.)*\"|\S+) ?)+)" % "|".join(runlog.EVENTS))
_FIELD = re.compile(r"(\w+)=(\"(?:[^\"\\]|\\.)*\"|\S+)")
# Printed by Ascend's adapter in a session when it has compiled a graph. The adapter for eager TensorFlow has no such
# line; there the [run] line's variables_on tells where the weights are, and a step cannot leave them for a CPU.
NPU_COMPILED = "The model has been compiled on the Ascend AI processor"
_NO_EVENT: Tuple[str, Dict[str, str]] = ("", {})

Summary = collections.namedtuple(
    "Summary", "device ranks batch_size images_per_sec sec_per_step loss accuracy losses before_sec finished used_npu")


def parse_line(line):
    """One line of output -> (event, {key: text}), or None when it holds no event.

    Whatever stands before the event does no harm: a progress bar's carriage return, TensorFlow's own words.
    """
    event = _EVENT.search(line)
    if not event:
        return None
    return event.group(1), {key: _unquoted(value) for key, value in _FIELD.findall(event.group(2))}


def _unquoted(value):
    try:
        return json.loads(value) if value.startswith('"') else value
    except ValueError:  # not written by runlog
        return value


def summarize(lines):
    """Reads a run's log.

    Args:
      lines: iterable of str.
    Returns:
      Summary of the last run in it; numbers are float or None where the log has none. `accuracy` is the last
      evaluation's top1 or map; `losses` the training losses as (step, loss), each step once, those of the sessions that
      the last one continued among them; `before_sec` the time that these took; `used_npu` whether the log proves that
      an NPU computed.
    """
    run: Dict[str, str] = {}
    done: Dict[str, str] = {}
    losses: Dict[float, Optional[float]] = {}
    accuracies: List[Tuple[float, Optional[float]]] = []
    used_npu = False
    for line in lines:
        used_npu = used_npu or NPU_COMPILED in line
        event, fields = parse_line(line) or _NO_EVENT
        step = _first_number(fields, "step") or 0.0
        if event == runlog.RUN:
            run, done = fields, {}
            used_npu = used_npu or fields.get("variables_on", "").startswith("NPU:")
            start = _first_number(fields, "first_step")
            if start is not None:  # an evaluation says none; what came after this step is lost
                losses = {step: loss for step, loss in losses.items() if step <= start}
                accuracies = [pair for pair in accuracies if pair[0] <= start]
        elif event == runlog.TRAIN:
            losses[step] = _first_number(fields, "loss")
        elif event == runlog.EVAL:
            accuracies.append((step, _first_number(fields, "top1", "map")))
        elif event == runlog.DONE:
            done = fields
    measured = sorted(pair for pair in losses.items() if pair[1] is not None)
    ms_per_step = _first_number(done, "ms_per_step")
    accuracy = [value for _, value in accuracies if value is not None][-1:]
    return Summary(
        device=run.get("device"), ranks=_integer(run, "ranks", 1), batch_size=_integer(run, "batch_size", 0),
        images_per_sec=_first_number(done, "images_per_sec"),
        sec_per_step=None if ms_per_step is None else ms_per_step / 1000, loss=measured[-1][1] if measured else None,
        accuracy=accuracy[0] if accuracy else None, losses=measured, before_sec=_first_number(run, "before_sec") or 0.0,
        finished=done.get("status") == "ok", used_npu=used_npu)


def final_block(summary, wall_sec):
    """The lines that every documented script ends with."""
    return "\n".join([
        "------------------ Final result ------------------",
        "Final Performance images/sec : %s" % _said(summary.images_per_sec, "%.2f"),
        "Final Performance sec/step : %s" % _said(summary.sec_per_step, "%.4f"),
        "Final Training Duration sec : %d" % round(wall_sec),
        "E2E Training Duration sec : %d" % round(wall_sec),
        "Final Train Accuracy : %s" % _said(summary.accuracy, "%.4f"),
    ])


def write_case_files(output_path, case_name, network, batch_size, summary, wall_sec, sec_per_step=False):
    """Writes ${CaseName}.log (key = value lines) and the losses (one a line) as the published scripts do.

    Args:
      batch_size: what the case calls so: of a card, or of all.
      wall_sec: of all sessions.
      sec_per_step: whether TrainingTime is in seconds and the other file ${CaseName}_loss.txt, instead of milliseconds
        and train_${CaseName}_loss.txt.
    """
    loss_file, scale, form = ("%s_loss.txt", 1, "%.4f") if sec_per_step else ("train_%s_loss.txt", 1000, "%.2f")
    write_text(os.path.join(output_path, loss_file % case_name),
               "".join("%.4f\n" % loss for _, loss in summary.losses))
    step_time = None if summary.sec_per_step is None else scale * summary.sec_per_step
    rows = [
        ("Network", network), ("RankSize", summary.ranks), ("BatchSize", batch_size),
        ("DeviceType", platform.machine()), ("CaseName", case_name),
        ("ActualFPS", _said(summary.images_per_sec, "%.2f", "")), ("TrainingTime", _said(step_time, form, "")),
        ("ActualLoss", _said(summary.loss, "%.4f", "")), ("E2ETrainingTime", "%d" % round(wall_sec)),
        ("TrainAccuracy", _said(summary.accuracy, "%.4f", "")),
    ]
    write_text(os.path.join(output_path, case_name + ".log"), "".join("%s = %s\n" % row for row in rows))


def _first_number(fields, *keys):
    """The value of the first of these keys that has a number; None when none has, as in a line that was cut short."""
    for key in keys:
        with contextlib.suppress(KeyError, ValueError):
            return float(fields[key])
    return None


def _integer(fields, key, default):
    with contextlib.suppress(KeyError, ValueError):
        return int(fields[key])
    return default


def _said(value, form, without="not measured"):
    return without if value is None else form % value
