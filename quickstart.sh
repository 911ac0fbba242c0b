#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv, draws sample data (or takes yours), trains one model and prints its result table.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/venv.sh
source "$ROOT/scripts/venv.sh"

usage() {
  cat <<'TEXT'
Usage: bash quickstart.sh [--model=NAME] [--data_path=DIR] [--device=auto|gpu|cpu] [-- TRAIN_FLAGS]

  --model=NAME      cspnet (default), cutmix, shufflenet or ssd
  --data_path=DIR   your data set; without it a small one is drawn into .drawn/ and trained for 3 epochs
  --device=DEVICE   auto (default): TensorFlow with CUDA where there is an NVIDIA driver, else the small one for CPUs
  -- TRAIN_FLAGS    handed to the model's test/train_full_1p.sh, e.g. -- --train_epochs=10

Needs Python 3.10 to 3.13 (or PYTHON=/path/to/python3). Makes .venv on the first run, and anew for another device.
TEXT
}

model=cspnet data_path='' device=auto
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --model=*) model=${1#*=} ;;
    --data_path=* | --data-path=*) data_path=${1#*=} ;;
    --device=*) device=${1#*=} ;;
    --model | --data_path | --data-path | --device)
      (($# > 1)) || fail "$1 needs a value, as in $1=...; see bash quickstart.sh --help." 2
      case $1 in
        --model) model=$2 ;;
        --device) device=$2 ;;
        *) data_path=$2 ;;
      esac
      shift
      ;;
    --) shift; break ;;
    *) fail "quickstart.sh does not know '$1'; it takes --model, --data_path, --device and, after --, flags for the training." 2 ;;
  esac
  shift
done

# `sample` is what drawn data needs besides its path, `drawn` what it shows.
sample=() epochs=3 drawn='that the model learns'
case $model in
  cspnet)
    folder=CSPNet_ID0840_for_TensorFlow layout=cifar10
    # The script's 256 images a step would leave 7 steps an epoch of drawn images.
    sample=(--batch_size=64 --LEARNING_RATE=0.05 --VAL_EPOCH=1)
    ;;
  cutmix) folder=cutmix_ID2502_for_TensorFlow2.X layout=cifar10 ;;
  shufflenet)
    folder=ShufflenetV2_ID0371_For_Tensorflow layout=imagenet
    sample=(--prepare --num_classes=10 --batch_size=32)
    ;;
  ssd)
    folder=SSD-VGG_ID1619_for_TensorFlow layout=voc epochs=3
    drawn='that a detector can be had from scratch in minutes'
    sample=(--precision_mode=allow_mix_precision --log_every=25 --eval_every=0 --batch_size=4 --norm=batch --freeze=2 --no_augment
      --optimizer=adam --lr_values=0.0005 --lr_boundaries= --schedule=cosine --warmup_steps=30)
    ;;
  *) fail "--model=$model is not here; choose one of: cspnet, cutmix, shufflenet, ssd." 2 ;;
esac

case $device in
  auto) ;;
  gpu | cpu) set -- --device="$device" "$@" ;;
  *) fail "--device=$device is not here; choose one of: auto, gpu, cpu (on Ascend: docs/ascend.md)." 2 ;;
esac
case " $* " in
  *" --device=cpu "*) device=cpu ;;
  *" --device=gpu "*) device=gpu ;;
esac
make_project_venv "$device"
export PYTHON=$ROOT/.venv/bin/python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}

if [[ -n $data_path ]]; then
  sample=() drawn=''
  # The model's script changes its folder; a relative path means the user's.
  [[ $data_path == [/~]* ]] || data_path=$PWD/$data_path
else
  data_path=$ROOT/.drawn/$layout
  "$PYTHON" -m tools.sampledata "$layout" --output "$data_path"
  # A few epochs are enough for drawn data; the script's own number is meant for the real set.
  case " $* " in
    *" --epochs"* | *" --train"[_-]"epochs"* | *" --train"[_-]"steps"* | *" --max"[_-]"epochs"* | *" --max"[_-]"train"*) ;;
    *) sample+=("--train_epochs=$epochs") ;;
  esac
fi

printf 'Training %s; TensorFlow takes ten seconds or more before the first line.\n' "$model"
code=0
bash "$ROOT/$folder/test/train_full_1p.sh" --data_path="$data_path" ${sample[@]+"${sample[@]}"} "$@" || code=$?
if ((code == 0)); then
  "$PYTHON" -m tools.report --table "$ROOT/$folder/test/output/${ASCEND_DEVICE_ID:-0}" ||
    printf 'The training succeeded, but its result table could not be made.\n' >&2
  if [[ -n $drawn && $model == ssd ]]; then
    printf '\nThe detector on 100 pictures that it has not seen:\n'
    # Of stderr what TensorFlow says to itself is left out; the bar goes to the terminal all the same.
    RUN_PROGRESS_FD=3 "$PYTHON" "$ROOT/$folder/infer.py" --data_path="$data_path" --pictures=20 3>&2 \
      2> >(grep -Ev --line-buffered '^(WARNING: All log messages before absl::|[IW]0000 )' >&2) ||
      printf 'The training succeeded, but what it finds could not be drawn.\n' >&2
  fi
  if [[ -n $drawn ]]; then
    printf '\nThis was drawn sample data: it shows that all works, and %s. With your data:\n' "$drawn"
    printf '  bash quickstart.sh --model=%s --data_path=DIR\nWhat DIR must hold: "Data" in %s/README.md\n' "$model" "$folder"
  fi
fi
exit "$code"
