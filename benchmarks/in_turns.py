# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: timing and counting in one process, processes in turns, records and their table.

A record is one figure of one round, a dict that is printed as one line of JSON:

    comparison, batch, precision   what was measured, "float32" or "bfloat16" or ""
    ours, other                    images/s; other is absent where there is nothing to compare with
    other_name                     what the other is, e.g. the peer's mode
    multiply_adds                  of one image's forward pass, where the record is of a training step
    peak_gflops                    {precision: GFLOP/s of a large product, right before and right after it}
    cpu, commit                    kind of processor, and of which source; collect.py adds them
    data_wait                      share of the time on data that went by waiting for batches
    peak_rss_mb                    largest memory of our process, in MiB
    failure                        a sentence, instead of the figure that is missing

What is no comparison but waited for, or done at a speed of its own: wait, value and unit, instead of the first five.
"""
import argparse
import collections
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Steps before the clock starts; blocks, each of so many steps on one batch in memory and as many on data.
Plan = collections.namedtuple("Plan", "warmup_steps blocks block_steps")
QUICK_PLAN = Plan(1, 1, 2)
COLUMNS = ("comparison", "CPU", "batch", "precision", "ours, images/s", "other, images/s", "ratio", "spread",
           "ours, share of peak", "other, share of peak", "peak, GFLOP/s", "memory, MiB", "commit")
WAIT_COLUMNS = ("waited for", "CPU", "median", "spread", "unit", "commit")
DEFAULT = "default"  # of --measure: the precision that the model's scripts choose; its other values name one
_PREFETCHED_BATCHES = 5  # at most so many wait before a block on data begins: they must not count

# Forward, gradient by the inputs, gradient by the weights; a multiply-add is two operations.
FLOPS_PER_MULTIPLY_ADD = 3 * 2


class Failed(Exception):
    """A command did not give its figures; the text says which and why."""


def parser(doc, batch):
    """ArgumentParser with the flags of every step benchmark."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)
    made.add_argument("--peer", help="command to run in turns with ours")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--batch", type=int, default=batch)
    made.add_argument("--quick", action="store_true", help="a few steps: to see that it runs, not for figures")
    made.add_argument("--measure", help=argparse.SUPPRESS)
    return made


def use_folder(name):
    """Makes a model folder and `common` importable."""
    sys.path[:0] = [os.path.join(ROOT, name), ROOT]


def multiply_adds(tensor):
    """Multiply-adds of the convolutions and matrix products that a graph's tensor depends on; an int.

    Shapes must be static. Elementwise work is not counted, and neither are gradients: they come after a loss.
    """
    found, waiting, total = set(), [tensor.op], 0
    while waiting:
        operation = waiting.pop()
        if operation in found:
            continue
        found.add(operation)
        waiting += [source.op for source in operation.inputs]
        if operation.type in ("Conv2D", "DepthwiseConv2dNative"):
            kernel = operation.inputs[1].shape.as_list()
            inputs = kernel[2] if operation.type == "Conv2D" else 1
            total += operation.outputs[0].shape.num_elements() * kernel[0] * kernel[1] * inputs
        elif operation.type == "MatMul":
            shape = operation.inputs[0].shape.as_list()
            total += operation.outputs[0].shape.num_elements() * shape[0 if operation.get_attr("transpose_a") else 1]
    return total


def time_steps(step, in_memory, batch, plan, data=None):
    """Speed of a training step, in images/s.

    Args:
      step: function of one batch of `batch` images; it returns when the step is done.
      in_memory: a batch.
      plan: Plan.
      data: function of a block's number -> context manager that gives an iterator of batches; None for no data.
    Returns:
      dict: step (of the median step), in_memory (of the median block); if there is data also from_data (as in_memory)
      and data_wait, the share of the time on data that went by waiting for batches.
    """
    def seconds_of(step, batch):
        before = time.perf_counter()
        step(batch)
        return time.perf_counter() - before

    for _ in range(plan.warmup_steps):
        step(in_memory)
    step_sec, memory_sec, data_sec, wait_sec = [], [], [], []
    for block in range(plan.blocks):
        times = [seconds_of(step, in_memory) for _ in range(plan.block_steps)]
        step_sec += times
        memory_sec.append(sum(times))
        if data:
            with data(block) as batches:
                for _ in range(_PREFETCHED_BATCHES):
                    next(batches)
                block_sec = 0.0
                for _ in range(plan.block_steps):
                    asked = time.perf_counter()
                    following = next(batches)
                    wait_sec.append(time.perf_counter() - asked)
                    block_sec += wait_sec[-1] + seconds_of(step, following)
                data_sec.append(block_sec)
    figures = {"step": batch / statistics.median(step_sec),
               "in_memory": batch * plan.block_steps / statistics.median(memory_sec)}
    if data:
        figures.update(from_data=batch * plan.block_steps / statistics.median(data_sec),
                       data_wait=sum(wait_sec) / sum(data_sec))
    return figures


def report(figures, batch, compute_dtype, loss):
    """Prints the figures of a step, its precision, its work and this process' largest memory as one JSON object."""
    print(json.dumps(dict(figures, compute_dtype=compute_dtype.name, multiply_adds=multiply_adds(loss) // batch,
                          peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def json_lines(command):
    """Runs a command; the lines of its output that are JSON objects. Failed, with the reason, if it fails."""
    name = " ".join(map(os.path.basename, command[:2]))
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Failed("%s: %s" % (name, error)) from error
    if done.returncode:
        raise Failed("%s: %s" % (name, last_words(done.stderr.decode(errors="replace"), done.returncode)))
    lines = [json.loads(line) for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    if not lines:
        raise Failed("%s: expected lines of JSON; found none" % name)
    return lines


def last_words(stderr, code):
    """Why a process failed: the last line that it wrote, or its exit code."""
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    return said[-1] if said else "exit code %d" % code


def run_peer(command, batch):
    """Images/s of each mode that a peer prints, {mode: images/s}; Failed when it has none, or another batch."""
    modes = {}
    for line in json_lines(shlex.split(command)):
        if line.get("batch", batch) != batch:
            raise Failed("--peer: expected batch %d, as ours; found %s; give both the same" % (batch, line["batch"]))
        if "mode" in line and "images_per_sec" in line:
            modes[line["mode"]] = line["images_per_sec"]
    if not modes:
        raise Failed("--peer: expected lines with \"mode\" and \"images_per_sec\"; found none")
    return modes


def compare_steps(arguments, script, model, data, more=None):
    """Runs a model's step and the peer's in turns, prints their records and the table.

    Args:
      arguments: namespace of parser().
      script: path of the benchmark; with --measure=default and --measure=force_fp32 it prints what report() does.
      model: name in the records.
      data: what the figures from data are of, e.g. "CIFAR-10".
      more: function of (ours, figures in the default precision) -> records, for what only this benchmark has; ours is
        the function --measure -> figures.
    Returns:
      exit code: 1 when something failed.
    """
    def ours(mode):
        return json_lines([sys.executable, script] + sys.argv[1:] + ["--measure=" + mode])[-1]

    def one_round():
        default = ours(DEFAULT)
        lowered = default["compute_dtype"] != "float32"
        float32 = ours("force_fp32") if lowered else default
        modes, failure = {}, None
        if arguments.peer:
            try:
                modes = run_peer(arguments.peer, arguments.batch)
            except Failed as error:
                failure = str(error)

        def record(what, figures, key="step", **fields):
            return dict({"comparison": "%s, %s" % (model, what), "batch": arguments.batch,
                         "precision": figures["compute_dtype"], "ours": figures[key]}, **fields)

        def step_record(what, figures, peer_modes):
            fields = {"multiply_adds": figures["multiply_adds"], "peak_rss_mb": figures["peak_rss_mb"]}
            if peer_modes:
                best = max(peer_modes, key=peer_modes.get)
                fields.update(other=peer_modes[best], other_name=best)
            elif failure:
                fields["failure"] = failure
            return record(what, figures, **fields)

        eager = {mode: rate for mode, rate in modes.items() if "compiled" not in mode}
        yield step_record("step, both in float32", float32,
                          {mode: rate for mode, rate in eager.items() if "bf16" not in mode})
        if lowered or modes:
            yield step_record("step, both in their best mode", default, eager)
        if len(modes) > len(eager):
            yield step_record("step, against the best compiled mode", default,
                              {mode: rate for mode, rate in modes.items() if mode not in eager})
        if lowered:
            yield record("step, %s against float32" % default["compute_dtype"], default, other=float32["step"],
                         other_name="ours in float32")
        if "from_data" in default:
            yield record("training from %s against in memory" % data, default, "from_data",
                         other=default["in_memory"], other_name="ours in memory", data_wait=default["data_wait"])
        if more:
            yield from more(ours, default)

    return run_rounds(arguments.rounds, one_round, arguments.quick)


def run_rounds(rounds, one_round, quick=False):
    """Prints the records of every round as they come, then their table; returns the exit code."""
    records = []
    try:
        for _ in range(rounds):
            for record in one_round():
                print(json.dumps(record), flush=True)
                records.append(record)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print("\n" + tables(records, quick))
    return int(any("failure" in record for record in records))


def tables(records, quick=False):
    """Markdown: a table of comparisons and one of what is waited for, medians, with the kinds of CPU side by side.

    Args:
      records: list of dict, see above.
      quick: the figures are marked as such.
    """
    return "\n\n".join(_table(key, columns, cells, records, " (quick)" * quick) for key, columns, cells in (
        ("comparison", COLUMNS, _cells), ("wait", WAIT_COLUMNS, _wait_cells)) if any(key in row for row in records))


def _table(key, columns, cells, records, mark):
    grouped = collections.OrderedDict()
    for record in records:
        if key in record:
            rows = grouped.setdefault(record[key], collections.OrderedDict())
            rows.setdefault((record.get("cpu", "-"), record.get("precision")), []).append(record)
    lines = [columns, ["---"] * len(columns)]
    for name, rows in grouped.items():
        lines += [[name + mark, cpu] + cells(of_one) + [", ".join(_each(of_one, "commit")) or "-"]
                  for (cpu, _), of_one in rows.items()]
    return "\n".join("| %s |" % " | ".join(line) for line in lines)


def _each(rows, key):
    """The different values of a field, in their order."""
    return list(collections.OrderedDict.fromkeys(row[key] for row in rows if key in row))


def _spread(values):
    return "%.3g to %.3g (%d)" % (min(values), max(values), len(values)) if values else "-"


def _wait_cells(rows):
    values = [row["value"] for row in rows if "value" in row]
    failures = ["failed: " + row["failure"].replace("|", "/") for row in rows if "failure" in row]
    return ["%.3g" % statistics.median(values) if values else "-", " ".join([_spread(values)] + failures[:1]),
            rows[-1].get("unit", "-")]


def _cells(rows):
    def median(values):
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def shown(value, form):
        return "-" if value is None else form % value

    def share(row, rate, of):
        """Of the peak in a precision that images/s reach; the peak is the mean of before and after."""
        work, peaks = row.get("multiply_adds"), row.get("peak_gflops", {}).get(of)
        if not (rate and work and peaks):
            return None
        return rate * work * FLOPS_PER_MULTIPLY_ADD / (statistics.mean(peaks) * 1e9)

    precision = rows[-1].get("precision", "")
    ours, other = median([row.get("ours") for row in rows]), median([row.get("other") for row in rows])
    ratios = [row["ours"] / row["other"] for row in rows if row.get("ours") and row.get("other")]
    failures = [row["failure"].replace("|", "/") for row in rows if "failure" in row]
    names, peaks = _each(rows, "other_name"), [
        peak for row in rows for peak in row.get("peak_gflops", {}).get(precision, ()) if "multiply_adds" in row]
    other_text = shown(other, "%.1f") + (" (%s)" % ", ".join(names) if names else "")
    return [shown(median([row.get("batch") for row in rows]), "%d"), precision or "-", shown(ours, "%.1f"),
            " ".join(([other_text] if other or not failures else []) + ["failed: " + text for text in failures[:1]]),
            shown(median(ratios), "%.2f"), _spread(ratios),
            shown(median([share(row, row.get("ours"), precision) for row in rows]), "%.3g"),
            shown(median([share(row, row.get("other"), "bfloat16" if "bf16" in row.get("other_name", "") else "float32")
                          for row in rows]), "%.3g"),
            "%.0f to %.0f" % (min(peaks), max(peaks)) if peaks else "-",
            shown(median([row.get("peak_rss_mb") for row in rows]), "%.0f")]
