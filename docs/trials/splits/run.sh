#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every way to build experts on one real small LLaMA: the held-out loss right after the split, for
# every number of chosen experts. Usage: run.sh FOLDER, with the programs on PATH and MOE_REALDATA
# naming the folder with models/tinystories-656k and corpus/tinystories. Writes table.md beside this
# script; the JSON report of each split is left in FOLDER/reports.
set -eu
here=$(realpath "$(dirname "$0")")
data=$(realpath "${MOE_REALDATA:?name the folder of the real data}")
mkdir -p "$1"
cd "$1"
dense=$data/models/tinystories-656k
moe-data build --tokenized "$data/corpus/tinystories/tinystories.tinystories-656k.jsonl" \
  --vocab-size 2048 --domain stories --output train.h5 --held-out 0.1 \
  --held-out-output held-out.h5 --force

# split NAME EXPERTS OPTION...: one line of the table.
split() {
  local name=$1 experts=$2
  shift 2
  moe-split --input "$dense" --output moe --force --experts "$experts" --top-k 2 --format native \
    --calibration train.h5 --calibration-length 256 --held-out held-out.h5 --json "$@" \
    > "reports/$name-$experts.json"
}

mkdir -p reports
for experts in 8 16; do
  split random-v1 "$experts" --gate mlp --scale natural
  split random-mlp "$experts" --gate mlp --scale least-squares
  for method in random sequential clustering coactivation gradient sharing-inner; do
    split $method "$experts" --method $method --gate select-linear --scale least-squares
  done
  split clustering-gate "$experts" --method clustering --cluster-on gate --gate select-linear \
    --scale least-squares
  split gradient-inputs "$experts" --method gradient --importance-from inputs --gate centers \
    --scale least-squares
  split gradient-inputs-natural "$experts" --method gradient --importance-from inputs \
    --gate centers --scale natural
  split gradient-inputs-align "$experts" --method gradient --importance-from inputs \
    --gate centers --scale least-squares --align
  for method in sharing-inter residual; do
    split $method "$((experts - 1))" --method $method --shared 1 --importance-from inputs \
      --gate centers --scale least-squares
  done
done
python3 "$here/table.py" reports > "$here/table.md"
