#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 133 epochs of ImageNet on one card with the README's recipe; every flag of train.py may follow.
set -e
export CALLED_FROM=$PWD
cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m launcher --case=acc train.py \
  --mode=train_and_evaluate --max_epochs=133 --batch_size=128 --lr=0.0625 "$@"
