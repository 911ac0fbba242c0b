#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 100 steps on one card for the speed figure, without evaluation; every flag of train.py may follow.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m launcher --case=perf train.py \
  --train_steps=100 --batch-size=8 --eval_images=0 --log_every=10 "$@"
