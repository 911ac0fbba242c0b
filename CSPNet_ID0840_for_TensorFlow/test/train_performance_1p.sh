#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 steps on one card for the speed figure; --train_steps and every flag of train.py may follow.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m launcher --case=perf train.py \
  --train_steps=200 --batch_size=64 --LEARNING_RATE=0.015 --DISPLAY_STEP=20 "$@"
