#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks in turns, round by round, and writes one Markdown table of all of them.

    bash benchmarks/run.sh --peer="PEER_PYTHON torch_peer.py" --cifar10=DIR --voc=DIR

README.md beside this file says what the flags, the peer and the table mean.
"""
import argparse
import collections
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time

import in_turns

sys.path.insert(0, in_turns.ROOT)

from common import flags  # noqa: E402
from common.files import write_text  # noqa: E402
from common.runlog import source_commit  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
PEAK = "peak"

# script: in this folder; data: {its flag: the flag here}, required: of these, the one without which nothing is to do;
# batch, peer_model, peer_steps: of a training step. A peer's steps are fewer than ours where its step is long.
Benchmark = collections.namedtuple("Benchmark", "script data required batch peer_model peer_steps")
BENCHMARKS = collections.OrderedDict((
    (PEAK, Benchmark("matmul_peak.py", {}, None, None, None, None)),
    ("cspnet", Benchmark("cspnet_step.py", {"data_path": "cifar10"}, None, 64, "cspnet", 8)),
    ("cutmix", Benchmark("cutmix_step.py", {"data_path": "cifar10"}, None, 32, "resnet20", 60)),
    ("shufflenet", Benchmark("shufflenet_step.py", {"data_dir": "imagenet"}, None, 64, "shufflenet", 6)),
    ("ssd", Benchmark("ssd_step.py", {"data_path": "voc"}, None, 8, "ssd", 3)),
    ("ssd_input", Benchmark("ssd_input.py", {"data_path": "voc"}, None, None, None, None)),
    ("ranks", Benchmark("ranks_step.py", {}, None, None, None, None)),
    ("create_tfrecords", Benchmark("shufflenet_step.py", {"create": "imagenet"}, "imagenet", None, None, None)),
))


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_of(name, arguments):
    """The command of one round of a benchmark."""
    benchmark = BENCHMARKS[name]
    command = [sys.executable, os.path.join(HERE, benchmark.script)] + ["--quick"] * arguments.quick
    if name != PEAK:
        command.append("--rounds=1")
    for flag, ours in benchmark.data.items():
        if getattr(arguments, ours):
            command.append("--%s=%s" % (flag, getattr(arguments, ours)))
    if benchmark.peer_model:
        command.append("--batch=%d" % benchmark.batch)
        if arguments.peer:
            command.append("--peer=%s %s --batch %d --steps %d --threads %d" % (
                arguments.peer, benchmark.peer_model, benchmark.batch, 1 if arguments.quick else benchmark.peer_steps,
                cores()))
    return command


def run(name, command):
    """Runs one round of a benchmark.

    Returns:
      (records, failed): failed is true when something went wrong; records then hold a row that says what.
    """
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    records = [json.loads(line) for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    if done.returncode and not any("failure" in record for record in records):
        records.append({"comparison": name,
                        "failure": in_turns.last_words(done.stderr.decode(errors="replace"), done.returncode)})
    return records, done.returncode != 0


def minutes_left(seconds, planned):
    """Minutes that the planned benchmarks will take.

    Args:
      seconds: {name: list of the seconds that its rounds took}.
      planned: names; one that has not run yet counts like the mean of those that have.
    Returns:
      float; None when nothing has run.
    """
    means = {name: sum(each) / len(each) for name, each in seconds.items()}
    if not means:
        return None
    mean = sum(means.values()) / len(means)
    return sum(means.get(name, mean) for name in planned) / 60


def machine():
    """Rows of what the figures depend on: (name, text)."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2.0 ** 30
    return [("CPU", model), ("cores", "%d" % cores()), ("memory", "%.0f GiB" % memory_gib)]


def torch_version(peer):
    """The version of PyTorch that a peer's Python has; "unknown" when the command does not tell."""
    words = shlex.split(peer)
    python = next((word for word in words if os.path.basename(word).startswith("python")), None)
    if not python:
        return "unknown"
    ask = "import importlib.metadata; print(importlib.metadata.version('torch'))"
    try:
        return subprocess.check_output([python, "-c", ask], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def document(records, facts, rounds_done, quick):
    """The Markdown file: what it was measured on and with, then the table.

    Args:
      records: list of dict of in_turns, those of the peak among them.
      facts: list of (name, text).
      rounds_done: text, e.g. "2 of 3".
    """
    peaks = collections.OrderedDict()
    for record in records:
        for dtype, rate in record.get("peak_gflops", {}).items():
            peaks[dtype] = max(rate, peaks.get(dtype, 0.0))
    versions = sorted({record["tensorflow"] for record in records if "tensorflow" in record})
    facts = facts + [("TensorFlow", ", ".join(versions) or "unknown")] + [
        ("4096 x 4096 product in %s" % dtype, "%.0f GFLOP/s" % rate) for dtype, rate in sorted(peaks.items())] + [
        ("rounds", rounds_done + (", quick: not for quoting" if quick else ""))]
    return "\n".join(["| | |", "| --- | --- |"] + ["| %s | %s |" % fact for fact in facts] + [
        "", in_turns.table([record for record in records if "comparison" in record], peaks, quick), ""])


def parse_args(argv=None):
    parser = flags.Parser(prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(name for name in BENCHMARKS if name != PEAK)
    parser.add_argument("--peer", metavar="COMMAND", help="a program that takes MODEL --batch N --steps N --threads N")
    parser.add_argument("--cifar10", metavar="DIR", help="CIFAR-10; random images without it")
    parser.add_argument("--imagenet", metavar="DIR", help="folder with train_shards/, or with train/<class>/*.JPEG, "
                        "which also create_tfrecords needs")
    parser.add_argument("--voc", metavar="DIR", help="folder with a VOCdevkit tree")
    parser.add_argument("--only", metavar="NAME,...", help="some of: " + names)
    parser.add_argument("--rounds", type=flags.integer(1), default=3, help="default 3")
    parser.add_argument("--quick", action="store_true", help="one round of few steps: to see that it runs")
    parser.add_argument("--output", metavar="FILE", help="default results/<date>-<commit>.md in this folder")
    parsed = parser.parse_args(argv)
    wanted = parsed.only.split(",") if parsed.only else list(BENCHMARKS)
    for name in wanted:
        if name not in BENCHMARKS:
            parser.error("--only: found '%s', expected some of %s" % (name, names))
        required = BENCHMARKS[name].required
        if parsed.only and required and not getattr(parsed, required):
            parser.error("--only: %s needs --%s" % (name, required))
    if parsed.quick:
        parsed.rounds = 1
    for flag in ("cifar10", "imagenet", "voc"):
        path = getattr(parsed, flag)
        if path and not os.path.exists(path):
            parser.error("--%s: found nothing at %s, expected the data" % (flag, path))
    parsed.names = [name for name, benchmark in BENCHMARKS.items() if name == PEAK or (
        name in wanted and (not benchmark.required or getattr(parsed, benchmark.required)))]
    if not parsed.only and parsed.imagenet and not os.path.isdir(os.path.join(parsed.imagenet, "train")):
        parsed.names.remove("create_tfrecords")
    return parsed


def main(argv=None):
    arguments = parse_args(argv)
    started, commit = datetime.datetime.now(datetime.timezone.utc), source_commit()
    facts = machine() + [("commit", commit), ("date", started.strftime("%Y-%m-%d %H:%M UTC"))]
    if arguments.peer:
        facts.append(("PyTorch", torch_version(arguments.peer)))
    output = arguments.output or os.path.join(HERE, "results", "%s-%s%s.md" % (
        started.strftime("%Y-%m-%dT%H%M"), commit, "-quick" if arguments.quick else ""))
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)

    records, seconds, dead, failed = [], {}, set(), False
    planned = [(number, name) for number in range(1, arguments.rounds + 1) for name in arguments.names]
    for place, (number, name) in enumerate(planned):
        if name in dead:
            continue
        left = minutes_left(seconds, [later for _, later in planned[place:] if later not in dead])
        print("[%d of %d] round %d of %d: %s%s" % (
            place + 1, len(planned), number, arguments.rounds, name,
            "" if left is None else "; about %.0f minutes left" % left), file=sys.stderr, flush=True)
        before = time.monotonic()
        found, wrong = run(name, command_of(name, arguments))
        seconds.setdefault(name, []).append(time.monotonic() - before)
        records += found
        failed |= wrong
        if wrong and not any("ours" in record for record in found):
            dead.add(name)  # it would fail again
        text = document(records, facts, "%d of %d" % (number, arguments.rounds), arguments.quick)
        write_text(output, text)  # so that an interrupted run leaves what it has measured
    print(text, end="")
    print("Written to %s after %.1f minutes." % (output, sum(map(sum, seconds.values())) / 60), file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
