# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Sourced by a model folder's test/*.sh, each of which ends with one command:
#   run --case=acc train.py FLAGS       one card
#   run_8p --case=acc train.py FLAGS    the eight cards of test/8p.json; RANK_SIZE=N starts another number of ranks
set -e
export CALLED_FROM="$PWD" # from where the user's relative paths count
CDPATH='' cd "$(dirname "$0")/.."
export PYTHONPATH="..${PYTHONPATH:+:$PYTHONPATH}"

run() {
  if [ -z "$PYTHON" ] && [ -x ../.venv/bin/python ]; then PYTHON=../.venv/bin/python; fi
  exec "${PYTHON:-python3}" -m launcher "$@"
}

run_8p() {
  ranks="${RANK_SIZE:-8}"
  if [ "$ranks" = 8 ]; then export RANK_TABLE_FILE="${RANK_TABLE_FILE:-$PWD/test/8p.json}"; fi
  run --ranks="$ranks" "$@"
}
