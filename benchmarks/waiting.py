#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a user waits for besides training: --help, from a command to its first step, resuming, evaluation, preparation.

    python benchmarks/waiting.py --cifar10=DIR --voc=DIR

Each model's script is stopped at its first step and called again; the times are those of the run's own lines.
Random images stand for data that is not given. README.md beside this file says what the output means.
"""
import argparse
import glob
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

import in_turns

# folder, flag of this program for its data, flags of its script; so many steps that the first session does not end
MODELS = {
    "CSPNet": ("CSPNet_ID0840_for_TensorFlow", "cifar10", ["--train_steps=20"]),
    "CutMix": ("cutmix_ID2502_for_TensorFlow2.X", "cifar10", ["--train_steps=100"]),
    "ShuffleNet": ("ShufflenetV2_ID0371_For_Tensorflow", None, ["--train_steps=20", "--batch_size=64"]),
    "SSD": ("SSD-VGG_ID1619_for_TensorFlow", "voc", ["--train_steps=8", "--batch_size=2", "--eval_images=5000",
                                                    "--precision_mode=allow_mix_precision"]),
}


def wait(name, value, unit="s"):
    return {"wait": name, "value": value, "unit": unit}


def seconds_of(command, folder=in_turns.ROOT):
    """How long a command takes; in_turns.Failed when it fails."""
    before = time.time()
    done = subprocess.run(command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise in_turns.Failed("%s: %s" % (
            " ".join(map(os.path.basename, command[:2])),
            in_turns.last_words(done.stderr.decode(errors="replace"), done.returncode)))
    return time.time() - before


def slowest_help():
    """Record of the program of the model folders whose --help takes longest, warm."""
    seconds = {}
    for path in sorted(glob.glob(os.path.join(in_turns.ROOT, "*_for_TensorFlow*", "*.py"))
                       + glob.glob(os.path.join(in_turns.ROOT, "*_For_Tensorflow", "*.py"))):
        with open(path, encoding="utf-8") as file:
            if "__main__" in file.read():
                command = [sys.executable, os.path.basename(path), "--help"]
                seconds[path] = min(seconds_of(command, os.path.dirname(path)) for _ in range(2))
    return wait("--help, the slowest of %d programs" % len(seconds), max(seconds.values()))


class Session:
    """One call of a model's script: marks holds the seconds from it to the first of each event, and to its end.

    Args:
      stop_at: an event after which the script is asked to stop, or None.
    """

    def __init__(self, folder, words, output, stop_at=None):
        started = time.time()
        process = subprocess.Popen(
            ["bash", os.path.join("test", "train_performance_1p.sh")] + words + ["--output_path=" + output],
            cwd=os.path.join(in_turns.ROOT, folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=dict(os.environ, PYTHON=sys.executable))
        said, checked = [], None
        for line in process.stdout:
            said.append(line.decode(errors="replace"))
            checked = checked or ("log: " in said[-1] and time.time() - started)
            if stop_at and "[%s]" % stop_at in said[-1]:
                process.send_signal(signal.SIGTERM)
                stop_at = None
        code = process.wait()
        if code not in (0, 128 + signal.SIGTERM):
            raise in_turns.Failed("%s: %s" % (folder, in_turns.last_words("".join(said), code)))
        self.marks = {"end": time.time() - started, "checked": checked}
        with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as lines:
            self.events = [event for event in map(json.loads, lines) if event["time"] >= started]
        for event in self.events:
            self.marks.setdefault(event["event"], event["time"] - started)

    def seconds_for(self, event):
        """(seconds from the event before to the last of this kind, that one); None when there is none."""
        for before, after in reversed(list(zip(self.events, self.events[1:]))):
            if after["event"] == event:
                return after["time"] - before["time"], after


def measure_model(name, data):
    """Records of a model's two sessions."""
    folder, _, words = MODELS[name]
    words = words + ["--eval_every=0", "--log_every=1", "--data_path=" + data if data else "--synthetic"]
    with tempfile.TemporaryDirectory() as output:
        first = Session(folder, words, output, stop_at="train").marks
        second = Session(folder, words, output)
        report_sec = seconds_of([sys.executable, "-m", "tools.report", output])
        saving_sec, save = second.seconds_for("save")
        saved_mb = sum(os.path.getsize(path) for path in glob.glob(os.path.dirname(save["path"]) + "/*")) / 1e6
    yield wait("%s, command to the launcher's start of train.py" % name, first["checked"])
    yield wait("%s, command to the [run] line" % name, first["run"])
    yield wait("%s, [run] line to the first step" % name, first["train"] - first["run"])
    yield wait("%s, command to the first step when it resumes" % name, second.marks["train"])
    yield wait("%s, [done] line to the end of the script" % name, second.marks["end"] - second.marks["done"])
    yield wait("%s, report and curves by tools.report" % name, report_sec)
    yield wait("%s, checkpoint of %.0f MB" % (name, saved_mb), saving_sec)
    evaluation = second.seconds_for("eval")
    if evaluation:
        yield wait("%s, evaluation of %d pictures" % (name, evaluation[1]["images"]), evaluation[0])


def measure_processing(data, made):
    """Record of process_dataset.py, which makes `made`, in pictures per second of processor time, workers included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds_of([sys.executable, "process_dataset.py", "--data_path=" + data, "--output_path=" + made],
               os.path.join(in_turns.ROOT, MODELS["SSD"][0]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(os.path.join(made, "dataset.json"), encoding="utf-8") as file:
        pictures = sum(split["images"] for split in json.load(file)["splits"].values())
    cpu_sec = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wait("process_dataset.py, %d pictures" % pictures, pictures / cpu_sec, "pictures/s and core")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--cifar10", metavar="DIR", help="CIFAR-10, for CSPNet and CutMix")
    parser.add_argument("--voc", metavar="DIR", help="folder with a VOCdevkit tree, for SSD")
    parser.add_argument("--models", default=",".join(MODELS), help="some of " + ", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one model on random images: to see that it runs")
    arguments = parser.parse_args()
    names = arguments.models.split(",")[:1 if arguments.quick else None]

    def one_round():
        yield slowest_help()
        yield wait("import of TensorFlow alone", seconds_of([sys.executable, "-c", "import tensorflow.compat.v1"]))
        with tempfile.TemporaryDirectory() as folder:
            data = {} if arguments.quick else {"cifar10": arguments.cifar10, "voc": arguments.voc}
            if data.get("voc"):
                data["voc"] = os.path.join(folder, "made")
                yield measure_processing(arguments.voc, data["voc"])
            for name in names:
                yield from measure_model(name, data.get(MODELS[name][1]))

    return in_turns.run_rounds(arguments.rounds, one_round, arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
