# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by quickstart.sh and run_tests.sh: finds a Python and makes a virtual environment from constraints/.

fail() { # SENTENCE [EXIT_CODE]
  printf '%s\n' "$1" >&2
  exit "${2:-1}"
}

# Runs the candidate instead of trusting its name: a pyenv shim exists for versions that are switched off, and
# Debian's Python comes without ensurepip.
python_fits() { # PYTHON LOWEST HIGHEST, versions such as 3.10
  "$1" -c '
import sys, venv, ensurepip
lowest, highest = (tuple(map(int, text.split("."))) for text in sys.argv[1:])
sys.exit(not lowest <= sys.version_info[:2] <= highest)' "$2" "$3" </dev/null >/dev/null 2>&1
}

# Folders that hold one folder per Python version. A shim on PATH tells where pyenv lives even when HOME does not.
version_folders() {
  local name path
  for name in python3 python; do
    path=$(command -v "$name") || continue
    (cd "$(dirname "$path")/../versions" 2>/dev/null && pwd) || true
    path=$("$name" -c 'import os, sys; print(os.path.dirname(sys.base_prefix))' 2>/dev/null) || continue
    if [[ $path == */versions ]]; then printf '%s\n' "$path"; fi
  done
  printf '%s\n' "${PYENV_ROOT:-/nonexistent}/versions" "${HOME:-/nonexistent}/.pyenv/versions"
}

find_python() { # LOWEST HIGHEST VERSION...; prints the first Python that fits, in the order given
  local lowest=$1 highest=$2 version folder path
  shift 2
  for version in "$@" ""; do
    path=$(command -v "python${version:-3}") || continue
    if python_fits "$path" "$lowest" "$highest"; then
      printf '%s\n' "$path"
      return
    fi
  done
  for version in "$@"; do
    while read -r folder; do
      for path in "$folder/$version".*/bin/python3; do
        if [[ -x $path ]] && python_fits "$path" "$lowest" "$highest"; then
          printf '%s\n' "$path"
          return
        fi
      done
    done < <(version_folders)
  done
  return 1
}

# Says why pip failed; the order matters, because a full disk can also break a download.
explain_pip_failure() { # FOLDER LOG
  if grep -qiE 'no space left on device|errno 28|disk quota exceeded' "$2"; then
    fail "Cannot make $1: the disk is full; free some GB (3, with CUDA 10) and run this again."
  elif grep -qiE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|network is unreachable|connection (refused|reset|broken)|name resolution' "$2"; then
    fail "Cannot make $1: the package index cannot be reached; connect to the network (or set PIP_INDEX_URL to a mirror) and run this again."
  fi
  fail "Cannot make $1: $(grep -E 'ERROR|Error' "$2" | tail -n 1 || tail -n 1 "$2") (the whole log is in $2)."
}

# What a list of packages amounts to, that of its line -c among them.
stamp_of() { # CONSTRAINTS
  local other
  other=$(sed -n 's/^-c //p' "$1")
  cat "$1" ${other:+"$(dirname "$1")/$other"} | cksum
}

is_whole() { # FOLDER CONSTRAINTS
  [[ -f $1/.packages && $(<"$1/.packages") == "$(stamp_of "$2")" ]]
}

# Installs into FOLDER unless it holds exactly these packages already. The file .packages is written last, so an
# interrupted install is not mistaken for a whole one.
make_venv() { # FOLDER PYTHON CONSTRAINTS WORDS [NEEDED_GB]
  local folder=$1 python=$2 constraints=$3 words=$4 needed_gb=${5:-3} log=$1.log wanted free_kb
  wanted=$(stamp_of "$constraints")
  if is_whole "$folder" "$constraints" && "$folder/bin/python" -c '' 2>/dev/null; then return; fi
  if [[ -e $folder && ! -e $folder/.made_here ]]; then
    fail "$folder exists and was not made by this script; move it away and run this again."
  fi
  rm -rf "$folder"
  free_kb=$(df -Pk "$(dirname "$folder")" | awk 'NR == 2 { print $4 }')
  if ((free_kb < needed_gb * 1024 * 1024)); then
    fail "Cannot make $folder: the disk has $((free_kb / 1024)) MB free and $needed_gb GB are needed; free some space and run this again."
  fi
  printf 'Making %s with %s (%s; once, a few minutes) ...\n' "$folder" "$python" "$words" >&2
  if ! { mkdir "$folder" && : >"$folder/.made_here" && "$python" -m venv "$folder" &&
    "$folder/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -r "$constraints"; } >"$log" 2>&1; then
    rm -rf "$folder"
    explain_pip_failure "$folder" "$log"
  fi
  printf '%s\n' "$wanted" >"$folder/.packages"
}

# Whether a GPU's driver answers that TensorFlow's packages are for.
has_nvidia_driver() {
  [[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] && { nvidia-smi -L || [[ -e /proc/driver/nvidia/version ]]; } >/dev/null 2>&1
}

# The environment that both commands use, .venv; needs ROOT. "any" is content with a whole one of either kind.
make_project_venv() { # auto|gpu|cpu|any
  local python=${PYTHON:-} kind=$1 constraints words needed_gb=3
  if [[ $kind == any ]]; then
    kind=auto
    for constraints in cpu gpu; do
      if is_whole "$ROOT/.venv" "$ROOT/constraints/$constraints-py311.txt"; then kind=$constraints; fi
    done
  fi
  if [[ $kind == auto ]]; then
    kind=cpu
    if has_nvidia_driver; then kind=gpu; fi
  fi
  constraints=$ROOT/constraints/$kind-py311.txt words='TensorFlow 2.21, 1.6 GB'
  if [[ $kind == gpu ]]; then
    words='TensorFlow 2.21 with CUDA, about 8 GB, because there is an NVIDIA driver; --device=cpu takes the small one' needed_gb=10
  fi
  # A whole environment needs no other Python, so a machine that lost its own can still train and test.
  if [[ -z $python ]] && is_whole "$ROOT/.venv" "$constraints" && python_fits "$ROOT/.venv/bin/python" 3.10 3.13; then
    return
  fi
  if [[ -n $python ]]; then
    python_fits "$python" 3.10 3.13 ||
      fail "PYTHON=$python is not a Python 3.10 to 3.13 with venv and ensurepip; give another one or leave PYTHON unset."
  else
    python=$(find_python 3.10 3.13 3.11 3.12 3.13 3.10) ||
      fail "No Python 3.10 to 3.13 (with venv and ensurepip) is on PATH or in pyenv; install one (on Debian or Ubuntu: apt install python3 python3-venv) or run PYTHON=/path/to/python3 bash ${0##*/}."
  fi
  make_venv "$ROOT/.venv" "$python" "$constraints" "$words" "$needed_gb"
}
