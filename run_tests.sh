#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv, runs ruff, shellcheck, mypy and every test; the last line is "N passed, N failed, N skipped".
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
# shellcheck source=scripts/venv.sh
source scripts/venv.sh

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  cat <<'TEXT'
Usage: bash run_tests.sh [PYTEST_ARGS]

Checks the style (ruff, shellcheck, mypy), runs tests/ on TensorFlow 2.21 and, where a python3.7 is found, the tests
marked "smoke" on TensorFlow 1.15. PYTEST_ARGS go to every pytest process, e.g. -x, -k NAME or tests/common/test_x.py.
The last line is "N passed, N failed, N skipped"; the exit code is 0 only when nothing failed.
TEXT
  exit 0
fi

make_cpu_venv
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

style=ok
.venv/bin/python -m ruff check . || style=bad
scripts=()
while IFS= read -r -d '' script; do
  scripts+=("$script")
done < <(find . \( -name '.venv*' -o -name .git -o -name output \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -type f -print0)
.venv/bin/shellcheck -x "${scripts[@]}" || style=bad
.venv/bin/python -m mypy common || style=bad

# Model folders have modules of equal names (train, utils), so each directory of tests gets its own process.
# A path among the arguments says which tests are meant: then there is one process, for that path.
packages=(tests/*/)
for arg in "$@"; do
  if [[ $arg == tests/* && -e ${arg%%::*} ]]; then packages=(''); fi
done

run_packages() { # PYTHON LABEL [PYTEST_ARGS]
  local python=$1 label=$2 package report code
  shift 2
  for package in "${packages[@]}"; do
    report=$results/$label-${package//\//_}.xml code=0
    printf '== %s %s\n' "$label" "$package"
    "$python" -m pytest ${package:+"$package"} "$@" --junitxml="$report" </dev/null || code=$?
    # 5 means that the arguments select no test here. A process that dies leaves no report: that is one failure.
    if [[ $code != 5 && ! -f $report ]]; then
      printf '<testsuite tests="1" failures="1" errors="0" skipped="0"/>' >"$report"
    fi
  done
}

run_packages .venv/bin/python tf2.21 "$@"

if [[ $(uname -m) != x86_64 ]]; then
  printf 'TensorFlow 1.15 exists for x86_64 only: its smoke tests are left out.\n'
elif python37=$(find_python 3.7 3.7 3.7); then
  make_venv "$ROOT/.venv-py37" "$python37" "$ROOT/constraints/ascend-py37.txt" "TensorFlow 1.15, 1 GB"
  run_packages .venv-py37/bin/python tf1.15 -m smoke "$@"
else
  printf 'No python3.7 is on PATH or in pyenv: the smoke tests on TensorFlow 1.15 are left out.\n'
fi

if [[ $style == bad ]]; then printf 'ruff, shellcheck or mypy found something; see above.\n'; fi
.venv/bin/python - "$results" "$style" <<'PYTHON'
import glob
import sys
import xml.etree.ElementTree as ElementTree

count = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for path in glob.glob(sys.argv[1] + "/*.xml"):
    for suite in ElementTree.parse(path).iter("testsuite"):
        for key in count:
            count[key] += int(suite.get(key, 0))
failed = count["failures"] + count["errors"]
print("%d passed, %d failed, %d skipped" % (count["tests"] - failed - count["skipped"], failed, count["skipped"]))
sys.exit(failed > 0 or count["tests"] == 0 or sys.argv[2] == "bad")
PYTHON
