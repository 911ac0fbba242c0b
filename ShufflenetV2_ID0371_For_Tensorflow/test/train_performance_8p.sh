#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 steps on eight cards for the speed figure; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
ranks="${RANK_SIZE:-8}"
if [[ $ranks == 8 ]]; then export RANK_TABLE_FILE="${RANK_TABLE_FILE:-$PWD/test/8p.json}"; fi
exec "${PYTHON:-python3}" -m launcher --case=perf --ranks="$ranks" train.py \
  --rank_size="$ranks" --max_train_steps=200 --batch_size=128 --lr=0.5 --save_summary_steps=20 "$@"
