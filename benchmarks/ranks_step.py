#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What adding up over ranks costs: two ranks with half of cores and batch each against one with all, in turns.

    python benchmarks/ranks_step.py

Both train through the launcher on random images. Between two servers the network comes on top: ../docs/scaling.md.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import in_turns

STEPS, QUICK_STEPS = 60, 7
# name: (folder, images of all ranks in a step, flags that leave evaluation and checkpoints out, flag of the ranks)
MODELS = {
    "ShuffleNet": ("ShufflenetV2_ID0371_For_Tensorflow", 64, ["--mode=train", "--no_do_checkpoint"], "--rank_size=%d"),
    "CSPNet": ("CSPNet_ID0840_for_TensorFlow", 64, [], None),
}


def train(model, ranks, steps):
    """The [done] event of a run: dict with images_per_sec of all ranks and ms_per_step."""
    folder, images, words, rank_flag = MODELS[model]
    words = words + ([rank_flag % ranks] if rank_flag else [])
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(
            [sys.executable, "-m", "launcher", "--case=perf", "--ranks=%d" % ranks, "train.py", "--synthetic",
             "--train_steps=%d" % steps, "--batch_size=%d" % (images // ranks), "--output_path=%s" % output] + words,
            cwd=os.path.join(in_turns.ROOT, folder), capture_output=True, stdin=subprocess.DEVNULL,
            env=dict({name: value for name, value in os.environ.items() if name != "RANK_TABLE_FILE"},
                     PYTHON=sys.executable, PYTHONPATH=in_turns.ROOT))
        if done.returncode:
            raise in_turns.Failed("%s, %d rank(s): %s" % (
                model, ranks, in_turns.last_words(done.stderr.decode(errors="replace"), done.returncode)))
        with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as lines:
            return json.loads(lines.readlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few steps: to see that it runs, not for figures")
    parser.add_argument("--models", default=",".join(MODELS), help="some of " + ", ".join(MODELS))
    arguments = parser.parse_args()
    steps = QUICK_STEPS if arguments.quick else STEPS

    def one_round():
        for model in arguments.models.split(","):
            two, one = (train(model, ranks, steps) for ranks in (2, 1))
            yield {"comparison": "%s, two ranks against one on the same cores" % model, "batch": MODELS[model][1],
                   "ours": two["images_per_sec"], "other": one["images_per_sec"], "other_name": "one rank",
                   "peak_rss_mb": two["peak_rss_mb"]}

    return in_turns.run_rounds(arguments.rounds, one_round, arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
