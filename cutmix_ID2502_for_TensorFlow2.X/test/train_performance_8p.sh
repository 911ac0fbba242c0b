#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 300 steps on eight cards for the speed figure, evaluation with static shapes; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run_8p --case=perf train.py \
  --train_steps=300 --batch_size=32 --eval_static=True --optimizer=sgd --learning_rate=0.4 --warmup_steps=500 \
  --alpha=1 --cutmix_probability=0.5 --crop_and_flip "$@"
