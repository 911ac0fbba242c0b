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

Checks the style (ruff, shellcheck, mypy), runs tests/ on TensorFlow 2.21, and the tests marked "smoke" on TensorFlow 1.15
where a python3.7 is found and on TensorFlow 2.6 where a python3.9 is. PYTEST_ARGS go to every pytest process, e.g. -x, -k NAME or tests/common/test_x.py.
JOBS packages of tests run at a time (default: as many as there are cores, up to 4); what one says is shown when it has ended.
The last line is "N passed, N failed, N skipped"; the exit code is 0 only when nothing failed.
TEXT
  exit 0
fi

make_project_venv any
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

style=ok
.venv/bin/python -m ruff check . || style=bad
scripts=()
while IFS= read -r -d '' script; do
  scripts+=("$script")
done < <(find . \( -name '.venv*' -o -name .git -o -name output \) -prune -o \( -name '*.sh' -o -path ./.ci/run \) -type f -print0)
if [[ -x .venv/bin/shellcheck ]]; then
  .venv/bin/shellcheck -x "${scripts[@]}" || style=bad
else
  printf 'shellcheck has no package for %s: the scripts are not checked.\n' "$(uname -m)"
fi
.venv/bin/python -m mypy || style=bad

# Model folders have modules of equal names (train, utils), so each directory of tests gets its own process.
packages=()
for folder in tests/*/; do
  if compgen -G "$folder"'test_*.py' >/dev/null; then packages+=("$folder"); fi
done
# A path among the arguments says which tests are meant: then there is one process, for that path.
for arg in "$@"; do
  if [[ $arg == tests/* && -e ${arg%%::*} ]]; then packages=(''); fi
done

run_package() { # PYTHON LABEL PACKAGE [PYTEST_ARGS]
  local python=$1 package=$3 report=$results/$2-${3//\//_} code=0 started=$SECONDS
  local title="$2 $package"
  shift 3
  # A shell lets its background jobs ignore Ctrl-C, and what they start inherits that.
  "$python" -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "pytest"] + sys.argv[1:])' \
    ${package:+"$package"} "$@" --junitxml="$report.xml" </dev/null >"$report.txt" 2>&1 || code=$?
  # 5 means that the arguments select no test here. A process that dies leaves no report: that is one failure.
  if [[ $code != 5 && ! -f $report.xml ]]; then
    printf '<testsuite tests="1" failures="1" errors="0" skipped="0"/>' >"$report.xml"
  fi
  printf '== %s: %d s\n%s\n' "$title" $((SECONDS - started)) "$(<"$report.txt")"
}

jobs_at_a_time=${JOBS:-$(nproc 2>/dev/null || echo 1)}
if [[ -z ${JOBS:-} ]] && ((jobs_at_a_time > 4)); then jobs_at_a_time=4; fi
run_packages() { # PYTHON LABEL [PYTEST_ARGS]; returns when the last one has begun
  local python=$1 label=$2 package
  shift 2
  for package in "${packages[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs_at_a_time)); do wait -n || true; done
    run_package "$python" "$label" "$package" "$@" &
  done
}

run_packages .venv/bin/python tf2.21 "$@"

smoke_on() { # PYTHON_VERSION TENSORFLOW_VERSION SIZE [PYTEST_ARGS]
  local version=$1 tensorflow=$2 size=$3 python venv=$ROOT/.venv-py${1//./}
  shift 3
  if [[ $(uname -m) != x86_64 ]]; then
    printf 'TensorFlow %s exists for x86_64 only: its smoke tests are left out.\n' "$tensorflow"
  elif python=$(find_python "$version" "$version" "$version"); then
    make_venv "$venv" "$python" "$ROOT/constraints/ascend-py${version//./}.txt" "TensorFlow $tensorflow, $size"
    run_packages "$venv/bin/python" "tf$tensorflow" -m smoke "$@"
  else
    printf 'No python%s is on PATH or in pyenv: the smoke tests on TensorFlow %s are left out.\n' "$version" "$tensorflow"
  fi
}

smoke_on 3.7 1.15 '1 GB' "$@"
smoke_on 3.9 2.6 '1.4 GB' "$@"
wait

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
