#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 100 steps on eight cards for the speed figure, without evaluation; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run_8p --case=perf --total_batch train.py --train_steps=100 --batch-size=8 --eval_images=0 --log_every=10 --clip_norm=10 "$@"
