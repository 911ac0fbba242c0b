#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 50 epochs of CIFAR-10 on eight cards, 64 images a step on each; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks, for which the learning rate is to be scaled in proportion.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run_8p --case=acc --sec_per_step train.py \
  --epochs=50 --batch_size=64 --LEARNING_RATE=0.4 --schedule=cosine --warmup_steps=300 --VAL_EPOCH=5 \
  --label_smoothing=0.1 --flip=alternating --crop=reflect --cutout=8 --norm_momentum=0.9 "$@"
