#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 100 steps on one card for the speed figure, without evaluation; every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=perf train.py --train_steps=100 --batch-size=8 --eval_images=0 --log_every=10 --clip_norm=10 "$@"
