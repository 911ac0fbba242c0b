#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 133 epochs of ImageNet on one card with the README's recipe; every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=acc train.py --mode=train_and_evaluate --max_epochs=133 --batch_size=128 --lr=0.0625 "$@"
