#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A router that sends every token to two experts of eight, trained with each balance mechanism and
# with none. Usage: run.sh FOLDER, with the programs and plot_runs on PATH and MOE_REALDATA naming
# the folder with models/tinystories-656k and corpus/tinystories.
set -eu
here=$(realpath "$(dirname "$0")")
data=$(realpath "${MOE_REALDATA:?name the folder of the real data}")
mkdir -p "$1"
cd "$1"
moe-data build --tokenized "$data/corpus/tinystories/tinystories.tinystories-656k.jsonl" \
  --vocab-size 2048 --domain stories --output train.h5
moe-split --input "$data/models/tinystories-656k" --output moe --experts 8 --top-k 2 \
  --method random --gate linear --seed 42 --format native
python3 "$here/collapse.py" moe collapsed
train() {
  local run=$1
  shift
  moe-train --config "$here/collapse.yaml" --init-from collapsed --set run.folder="$run" "$@"
}
train off
train cv_squared --set router.cv_squared=0.1 --set model.gate_noise=true
for scope in sequence step global_batch; do
  train "switch_$scope" --set router.switch=0.2 --set router.scope="$scope"
done
train selection_bias --set router.bias_update_rate=0.002
plot_runs --metric load_max_over_mean --output load.svg \
  off cv_squared switch_sequence switch_step switch_global_batch selection_bias
