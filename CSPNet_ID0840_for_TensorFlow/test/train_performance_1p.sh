#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 steps on one card for the speed figure; --train_steps and every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=perf --sec_per_step train.py --train_steps=200 --batch_size=64 --LEARNING_RATE=0.015 --DISPLAY_STEP=20 "$@"
