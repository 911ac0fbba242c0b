#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 steps on eight cards for the speed figure; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run_8p --case=perf --sec_per_step train.py --train_steps=200 --batch_size=64 --LEARNING_RATE=0.12 --DISPLAY_STEP=20 "$@"
