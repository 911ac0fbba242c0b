#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 133 epochs of ImageNet on eight cards, 128 images a step on each; test/8p.json names the cards.
# RANK_SIZE=N starts another number of ranks, for which the learning rate is to be scaled in proportion.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
ranks="${RANK_SIZE:-8}"
if [[ $ranks == 8 ]]; then export RANK_TABLE_FILE="${RANK_TABLE_FILE:-$PWD/test/8p.json}"; fi
exec "${PYTHON:-python3}" -m launcher --case=acc --ranks="$ranks" train.py \
  --rank_size="$ranks" --mode=train_and_evaluate --max_epochs=133 --batch_size=128 --lr=0.5 "$@"
