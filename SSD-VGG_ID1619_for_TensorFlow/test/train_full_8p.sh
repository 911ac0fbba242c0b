#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 epochs of Pascal VOC on eight cards, 8 images a step on each; test/8p.json names the cards.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
export RANK_TABLE_FILE="${RANK_TABLE_FILE:-$PWD/test/8p.json}"
exec "${PYTHON:-python3}" -m common.launch --case=acc --ranks=8 train.py \
  --epochs=200 --batch-size=8 --lr-values='0.002;0.0003;0.00003' --lr-boundaries='40000;50000' --warmup_steps=1000 "$@"
