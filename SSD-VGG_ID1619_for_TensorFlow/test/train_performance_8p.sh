#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 100 steps on eight cards for the speed figure, without evaluation; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
ranks="${RANK_SIZE:-8}"
if [[ $ranks == 8 ]]; then export RANK_TABLE_FILE="${RANK_TABLE_FILE:-$PWD/test/8p.json}"; fi
exec "${PYTHON:-python3}" -m launcher --case=perf --ranks="$ranks" train.py \
  --train_steps=100 --batch-size=8 --eval_images=0 --log_every=10 "$@"
