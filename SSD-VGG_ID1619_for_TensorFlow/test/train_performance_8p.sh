#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 100 steps on eight cards for the speed figure, without evaluation; test/8p.json names the cards.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
export RANK_TABLE_FILE="${RANK_TABLE_FILE:-$PWD/test/8p.json}"
exec "${PYTHON:-python3}" -m common.launch --case=perf --ranks=8 train.py \
  --train_steps=100 --batch-size=8 --eval_images=0 --log_every=10 "$@"
