#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The documented name for training on one card: test/train_full_1p.sh; every flag of train.py may follow.
exec bash "$(dirname "$0")/test/train_full_1p.sh" "$@"
