#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 133 epochs of ImageNet on eight cards, 128 images a step on each; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks, for which the learning rate is to be scaled in proportion.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run_8p --case=acc train.py \
  --rank_size="${RANK_SIZE:-8}" --mode=train_and_evaluate --max_epochs=133 --batch_size=128 --lr=0.5 "$@"
