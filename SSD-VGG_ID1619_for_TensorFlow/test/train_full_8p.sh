#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 epochs of Pascal VOC on eight cards, 8 images a step on each; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks, for which the learning rate is to be scaled in proportion.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run_8p --case=acc --total_batch train.py \
  --epochs=200 --batch-size=8 --lr-values='0.002;0.0003;0.00003' --lr-boundaries='40000;50000' --warmup_steps=1000 \
  --clip_norm=10 "$@"
