#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 steps on one card for the speed figure; every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=perf train.py --max_train_steps=200 --batch_size=128 --lr=0.0625 --save_summary_steps=20 "$@"
