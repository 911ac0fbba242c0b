#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One table of a machine with GPUs, in a few minutes: each model in float32 and mixed precision, two ranks and one.

    python benchmarks/gpu.py

Each figure is a training on random images by the model's own script, at its documented batch. Two ranks, whose
gradients NCCL adds up, run where there are two GPUs. --device=cpu tries all of it without a GPU. The exit code is 1
when something failed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import in_turns

MODELS = {  # name: (folder, words that leave evaluation out where there are such)
    "CSPNet": ("CSPNet_ID0840_for_TensorFlow", []),
    "CutMix": ("cutmix_ID2502_for_TensorFlow2.X", []),
    "ShuffleNet": ("ShufflenetV2_ID0371_For_Tensorflow", ["--mode=train"]),
    "SSD": ("SSD-VGG_ID1619_for_TensorFlow", ["--eval_images=0"]),
}
STEPS, QUICK_STEPS = 100, 7
FLOAT32, MIXED = "force_fp32", "allow_mix_precision"


def devices(wanted):
    """(names of the devices to measure, TensorFlow's version); DataError when there is none."""
    in_turns.use_folder("common")
    from common import flags
    from common.runtime import open_runtime
    parser = flags.Parser()
    flags.add_device_group(parser, FLOAT32)
    tf = open_runtime(parser.parse_args(["--device=" + wanted])).tf
    found = tf.config.experimental.list_physical_devices(wanted.upper())
    details = [tf.config.experimental.get_device_details(device) for device in found]
    return [each.get("device_name", wanted) for each in details], tf.__version__


def train(name, device, precision, ranks, steps):
    """The [done] event of a run; in_turns.Failed when there is none, or the run was not what was asked for."""
    folder, words = MODELS[name]
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(
            ["bash", "test/train_performance_%s.sh" % ("1p" if ranks == 1 else "8p"), "--synthetic",
             "--device=" + device, "--precision_mode=" + precision, "--train_steps=%d" % steps,
             "--output_path=" + output] + words,
            cwd=os.path.join(in_turns.ROOT, folder), stdin=subprocess.DEVNULL, capture_output=True,
            env=dict(os.environ, PYTHON=sys.executable, RANK_SIZE=str(ranks)))
        if done.returncode:
            said = [line for line in done.stdout.decode(errors="replace").splitlines() if "[fail]" in line]
            raise in_turns.Failed(said[-1] if said else in_turns.last_words(
                done.stderr.decode(errors="replace"), done.returncode))
        with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as lines:
            events = {event["event"]: event for event in map(json.loads, lines)}
    found = events["run"]["device"], events["run"]["ranks"]
    if found != (device, ranks):
        raise in_turns.Failed("expected %s and %d rank(s); the run had %s and %d" % ((device, ranks) + found))
    if "differ" in events.get("warn", {}).get("message", ""):
        raise in_turns.Failed(events["warn"]["message"])
    return events["done"]


def compared(what, ours, other, other_name, precision):
    """Record of two runs, each a function without arguments -> [done] event."""
    record = {"comparison": what, "precision": precision, "other_name": other_name}
    try:
        mine, theirs = ours(), other()
    except in_turns.Failed as error:
        return dict(record, failure=str(error))
    return dict(record, ours=mine["images_per_sec"], other=theirs["images_per_sec"], peak_rss_mb=mine["peak_rss_mb"])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--models", default=",".join(MODELS), help="some of " + ", ".join(MODELS))
    parser.add_argument("--quick", action="store_true", help="a few steps: to see that it runs, not for figures")
    arguments = parser.parse_args(argv)
    sys.path.insert(0, in_turns.ROOT)
    from common.files import DataError
    try:
        names, version = devices(arguments.device)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print("TensorFlow %s on %s" % (version, ", ".join(names)), flush=True)
    steps, done = QUICK_STEPS if arguments.quick else STEPS, {}

    def run(name, precision, ranks):
        def measured():
            key = name, precision, ranks
            if key not in done:
                done[key] = train(name, arguments.device, precision, ranks, steps)
            return done[key]
        return measured

    def one_round():
        for name in arguments.models.split(","):
            yield compared(name + ", mixed precision against float32", run(name, MIXED, 1), run(name, FLOAT32, 1),
                           "float32", MIXED)
            if len(names) > 1 or arguments.device == "cpu":
                yield compared(name + ", two ranks against one", run(name, FLOAT32, 2), run(name, FLOAT32, 1),
                               "one rank", FLOAT32)

    return in_turns.run_rounds(1, one_round, arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
