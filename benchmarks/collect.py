#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks in turns, round by round, and writes one Markdown table of all of them.

    bash benchmarks/run.sh --peer="PEER_PYTHON torch_peer.py" --cifar10=DIR --voc=DIR

Rows that --output has, with its .json beside it, are replaced where this kind of CPU measures them again.
README.md beside this file says what the flags, the peer and the table mean.
"""
import argparse
import collections
import datetime
import itertools
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
from common.files import read_json, write_text  # noqa: E402
from common.runlog import source_commit  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))

# script: in this folder; data: {its flag: the flag here}, required: of these, the one without which nothing is to do;
# batch, peer_model, peer_steps: of a training step. A peer's steps are fewer than ours where its step is long.
Benchmark = collections.namedtuple("Benchmark", "script data required batch peer_model peer_steps")
PEAK = os.path.join(HERE, "matmul_peak.py")
BENCHMARKS = collections.OrderedDict((
    ("cspnet", Benchmark("cspnet_step.py", {"data_path": "cifar10"}, None, 64, "cspnet", 8)),
    ("cutmix", Benchmark("cutmix_step.py", {"data_path": "cifar10"}, None, 32, "resnet20", 60)),
    ("shufflenet", Benchmark("shufflenet_step.py", {"data_dir": "imagenet"}, None, 64, "shufflenet", 6)),
    ("ssd", Benchmark("ssd_step.py", {"data_path": "voc"}, None, 8, "ssd", 3)),
    ("ssd_input", Benchmark("ssd_input.py", {"data_path": "voc"}, None, None, None, None)),
    ("ranks", Benchmark("ranks_step.py", {}, None, None, None, None)),
    ("waiting", Benchmark("waiting.py", {"cifar10": "cifar10", "voc": "voc"}, None, None, None, None)),
    ("create_tfrecords", Benchmark("shufflenet_step.py", {"create": "imagenet"}, "imagenet", None, None, None)),
))


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_of(name, arguments):
    """The command of one round of a benchmark."""
    benchmark = BENCHMARKS[name]
    command = [sys.executable, os.path.join(HERE, benchmark.script)] + ["--rounds=1"] + ["--quick"] * arguments.quick
    for flag, ours in benchmark.data.items():
        if getattr(arguments, ours):
            command.append("--%s=%s" % (flag, getattr(arguments, ours)))
    if benchmark.peer_model:
        command.append("--batch=%d" % benchmark.batch)
        if arguments.peer:
            command.append("--peer=%s %s --batch %d --steps %d --threads %d%s" % (
                arguments.peer, benchmark.peer_model, benchmark.batch, 1 if arguments.quick else benchmark.peer_steps,
                cores(), " --compile" * (arguments.compile and not arguments.quick)))
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


def peak(quick):
    """What matmul_peak.py says now: (record, failed)."""
    found, failed = run("peak", [sys.executable, PEAK] + ["--quick"] * quick)
    return found[-1], failed


def flags_of_cpu():
    """What /proc/cpuinfo says of the first core: {name: text}; {} where there is no such file."""
    if not os.path.exists("/proc/cpuinfo"):
        return {}
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        pairs = [line.split(":", 1) for line in itertools.takewhile(str.strip, lines)]
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def kind_of(cpu):
    """A kind of CPU by its maker and its best unit for products, e.g. "AMD AVX512_BF16"; cpu as of flags_of_cpu()."""
    maker = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}.get(cpu.get("vendor_id"), platform.machine())
    units = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512_BF16"), ("avx512f", "AVX512"), ("avx2", "AVX2"))
    return " ".join([maker] + [name for flag, name in units if flag in cpu.get("flags", "").split()][:1])


def machine(cpu):
    """Rows of what the figures depend on: {name: text}."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2.0 ** 30
    return {"CPU": cpu.get("model name") or platform.processor() or platform.machine(), "cores": "%d" % cores(),
            "memory": "%.0f GiB" % memory_gib}


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


def document(kinds, quick):
    """The Markdown file: what was measured on which kind of CPU and with what, then the tables.

    Args:
      kinds: {kind of CPU: {"facts": {name: text} of its newest run, "records": list of dict of in_turns}}.
    """
    names = list(collections.OrderedDict.fromkeys(name for kind in kinds.values() for name in kind["facts"]))
    lines = [["newest run on"] + list(kinds), ["---"] * (len(kinds) + 1)] + [
        [name] + [kind["facts"].get(name, "-") for kind in kinds.values()] for name in names]
    return "\n".join([
        "# Speed", "", "Written by `bash benchmarks/run.sh`; `benchmarks/README.md` says what it means.", ""] + [
        "| %s |" % " | ".join(line) for line in lines] + [
        "", in_turns.tables([record for kind in kinds.values() for record in kind["records"]], quick), ""])


def merged(old, new):
    """Records of earlier runs and of this one, which replace those of the same name, and failures."""
    names = ("comparison", "wait")
    measured = {record[name] for record in new for name in names if name in record}
    return [record for record in old if "failure" not in record and not any(
        record.get(name) in measured for name in names)] + new


def parse_args(argv=None):
    parser = flags.Parser(prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(BENCHMARKS)
    parser.add_argument("--peer", metavar="COMMAND", help="a program that takes MODEL --batch N --steps N --threads N")
    parser.add_bool(parser, "--compile", True, "the peer's compiled mode, too: minutes more; not with --quick")
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
    parsed.names = [name for name, benchmark in BENCHMARKS.items() if name in wanted and (
        not benchmark.required or getattr(parsed, benchmark.required))]
    if not parsed.only and parsed.imagenet and not os.path.isdir(os.path.join(parsed.imagenet, "train")):
        parsed.names.remove("create_tfrecords")
    return parsed


def main(argv=None):
    arguments = parse_args(argv)
    started, commit, cpu = datetime.datetime.now(datetime.timezone.utc), source_commit(), flags_of_cpu()
    facts = dict(machine(cpu), commit=commit, date=started.strftime("%Y-%m-%d %H:%M UTC"))
    if arguments.peer:
        facts["PyTorch"] = torch_version(arguments.peer)
    output = arguments.output or os.path.join(HERE, "results", "%s-%s%s.md" % (
        started.strftime("%Y-%m-%dT%H%M"), commit, "-quick" if arguments.quick else ""))
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    source = os.path.splitext(output)[0] + ".json"
    kinds = read_json(source) or {}
    own = kinds.setdefault(kind_of(cpu), {"records": []})
    before_this_run = own["records"]

    records, seconds, dead, failed, before = [], {}, set(), False, None
    planned = [(number, name) for number in range(1, arguments.rounds + 1) for name in arguments.names]
    for place, (number, name) in enumerate(planned):
        if name in dead:
            continue
        left = minutes_left(seconds, [later for _, later in planned[place:] if later not in dead])
        print("[%d of %d] round %d of %d: %s%s" % (
            place + 1, len(planned), number, arguments.rounds, name,
            "" if left is None else "; about %.0f minutes left" % left), file=sys.stderr, flush=True)
        begun, is_step = time.monotonic(), BENCHMARKS[name].peer_model is not None
        if is_step and not before:
            before, _ = peak(arguments.quick)
        found, wrong = run(name, command_of(name, arguments))
        after, no_peak = peak(arguments.quick) if is_step else (None, False)
        seconds.setdefault(name, []).append(time.monotonic() - begun)
        if is_step and not no_peak and "peak_gflops" in before:
            facts["TensorFlow"] = after["tensorflow"]
            around = {dtype: [before["peak_gflops"][dtype], rate] for dtype, rate in after["peak_gflops"].items()}
            found = [dict(record, peak_gflops=around) for record in found]
        records += [dict(record, cpu=kind_of(cpu), commit=commit) for record in found + [after] * no_peak]
        before, failed = after, failed or wrong or no_peak
        if wrong and not any("ours" in record or "value" in record for record in found):
            dead.add(name)  # it would fail again
        facts["rounds"] = "%d of %d%s" % (number, arguments.rounds, ", quick: not for quoting" * arguments.quick)
        own.update(facts=facts, records=merged(before_this_run, records))
        text = document(kinds, arguments.quick)
        write_text(source, json.dumps(kinds, indent=1))
        write_text(output, text)  # so that an interrupted run leaves what it has measured
    print(text, end="")
    print("Written to %s after %.1f minutes." % (output, sum(map(sum, seconds.values())) / 60), file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
