#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# 200 epochs of Pascal VOC on one card with the documented recipe; every flag of train.py may follow.
. "$(dirname "$0")/../../launcher/run.sh" || exit 1
run --case=acc train.py \
  --epochs=200 --batch-size=8 --lr-values='0.00075;0.0001;0.00001' --lr-boundaries='320000;400000' --clip_norm=10 "$@"
