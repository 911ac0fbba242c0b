#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures every speed figure in turns with a peer's and writes one table; --help and README.md say how.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${PYTHON:-} ]]; then
  # shellcheck source=scripts/venv.sh
  source "$ROOT/scripts/venv.sh"
  make_project_venv any
  PYTHON=$ROOT/.venv/bin/python
fi
exec "$PYTHON" "$ROOT/benchmarks/collect.py" "$@"
