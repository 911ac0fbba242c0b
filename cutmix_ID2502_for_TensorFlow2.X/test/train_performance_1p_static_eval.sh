#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 300 steps on one card for the speed figure, evaluation with static shapes; every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=static_eval_perf train.py \
  --train_steps=300 --batch_size=32 --eval_static=True --optimizer=sgd --learning_rate=0.05 --alpha=1 \
  --cutmix_probability=0.5 --crop_and_flip "$@"
