#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 50 epochs of CIFAR-10 on one card with the README's recipe; --train_epochs and every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=acc --sec_per_step train.py \
  --epochs=50 --batch_size=256 --LEARNING_RATE=0.2 --schedule=cosine --warmup_steps=600 --VAL_EPOCH=5 \
  --label_smoothing=0.1 --flip=alternating --crop=reflect --cutout=8 --norm_momentum=0.9 "$@"
