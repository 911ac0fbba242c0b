#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 15 epochs of CIFAR-10 on one card with the README's recipe; every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=acc train.py \
  --epochs=15 --batch_size=32 --optimizer=sgd --learning_rate=0.1 --schedule=cosine --warmup_steps=500 \
  --weight_decay=5e-4 --alpha=1 --cutmix_probability=0.5 --clean_share=0.65 \
  --crop_and_flip --flip=alternating --crop=reflect "$@"
