# SPDX-License-Identifier: Apache-2.0
"""Event lines -> summary -> the documented "Final ..." block, ${CaseName}.log and ${CaseName}_loss.txt."""
import collections
import json
import os
import platform
import re

from common import runlog
from common.files import write_text

_EVENT = re.compile(r"\[(%s)\] ((?:\w+=(?:\"(?:[^\"\\]|\\.)*\"|\S+) ?)+)" % "|".join(runlog.EVENTS))
_FIELD = re.compile(r"(\w+)=(\"(?:[^\"\\]|\\.)*\"|\S+)")
# Printed by Ascend's adapter in a session when it has compiled a graph. The adapter for eager TensorFlow has no such
# line; there the [run] line's variables_on tells where the weights are, and a step cannot leave them for a CPU.
NPU_COMPILED = "The model has been compiled on the Ascend AI processor"

Summary = collections.namedtuple(
    "Summary", "model device ranks batch_size images_per_sec images_per_sec_per_card sec_per_step loss accuracy losses "
               "finished used_npu fail_message")


def parse_line(line):
    """One line of output -> (event, {key: text}), or None when it holds no event.

    Whatever stands before the event does no harm: a progress bar's carriage return, TensorFlow's own words.
    """
    found = _EVENT.search(line)
    if not found:
        return None
    fields = {key: json.loads(value) if value.startswith('"') else value
              for key, value in _FIELD.findall(found.group(2))}
    return found.group(1), fields


def summarize(lines):
    """Reads a run's log.

    Args:
      lines: iterable of str.
    Returns:
      Summary of the last run in it; numbers are float or None where the log has none. `accuracy` is the last
      evaluation's top1 or map; `losses` the training losses as (step, loss), each step once; `used_npu` whether the
      log proves that an NPU computed.
    """
    run, done, accuracy, fail, losses, used_npu = {}, {}, None, None, {}, False
    for line in lines:
        used_npu = used_npu or NPU_COMPILED in line
        event, fields = parse_line(line) or (None, {})
        if event == runlog.RUN:
            run, done, fail = fields, {}, None
            used_npu = used_npu or fields.get("variables_on", "").startswith("NPU:")
        elif event == runlog.TRAIN:
            losses[int(fields["step"])] = float(fields["loss"])
        elif event == runlog.EVAL:
            evaluated = _first_number(fields, "top1", "map")
            accuracy = accuracy if evaluated is None else evaluated
        elif event == runlog.DONE:
            done = fields
        elif event == runlog.FAIL:
            fail = fields.get("message", "")
    ms_per_step = _first_number(done, "ms_per_step")
    ordered = sorted(losses.items())
    return Summary(
        model=run.get("model"), device=run.get("device"), ranks=int(run.get("ranks", 1)),
        batch_size=int(run.get("batch_size", 0)), images_per_sec=_first_number(done, "images_per_sec"),
        images_per_sec_per_card=_first_number(done, "images_per_sec_per_card"),
        sec_per_step=None if ms_per_step is None else ms_per_step / 1000, loss=ordered[-1][1] if ordered else None,
        accuracy=accuracy, losses=ordered, finished=done.get("status") == "ok", used_npu=used_npu, fail_message=fail)


def final_block(summary, wall_sec):
    """The lines that every documented script ends with."""
    return "\n".join([
        "------------------ Final result ------------------",
        "Final Performance images/sec : %s" % _said(summary.images_per_sec, "%.2f"),
        "Final Performance sec/step : %s" % _said(summary.sec_per_step, "%.4f"),
        "E2E Training Duration sec : %d" % round(wall_sec),
        "Final Train Accuracy : %s" % _said(summary.accuracy, "%.4f"),
    ])


def write_case_files(output_path, case_name, network, summary, wall_sec):
    """Writes ${CaseName}.log (key = value lines) and ${CaseName}_loss.txt (one training loss a line)."""
    write_text(os.path.join(output_path, case_name + "_loss.txt"),
               "".join("%.4f\n" % loss for _, loss in summary.losses))
    rows = [
        ("Network", network), ("RankSize", summary.ranks), ("BatchSize", summary.batch_size),
        ("DeviceType", platform.machine()), ("CaseName", case_name),
        ("ActualFPS", _said(summary.images_per_sec, "%.2f")), ("TrainingTime", _said(summary.sec_per_step, "%.4f")),
        ("ActualLoss", _said(summary.loss, "%.4f")), ("E2ETrainingTime", "%d" % round(wall_sec)),
        ("TrainAccuracy", _said(summary.accuracy, "%.4f")),
    ]
    write_text(os.path.join(output_path, case_name + ".log"), "".join("%s = %s\n" % row for row in rows))


def _first_number(fields, *keys):
    for key in keys:
        if key in fields:
            return float(fields[key])
    return None


def _said(value, form):
    return "not measured" if value is None else form % value
