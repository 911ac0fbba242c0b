#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The speed figure with static shapes throughout.
exec bash "$(dirname "$0")/train_performance_1p_static_eval.sh" "$@"
