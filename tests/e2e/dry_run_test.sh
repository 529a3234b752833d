#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The memory that moe-train --dry-run foretells is the memory that the run then takes.
# Usage: dry_run_test.sh BUILD_FOLDER
set -u
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
  echo "FAILED: $*"
  exit 1
}

awk 'BEGIN {
  srand(1)
  for (d = 0; d < 40; d++) {
    line = "1"
    for (i = 0; i < 600; i++) line = line "," 2 + int(rand() * 60)
    print "{\"input_ids\":[" line "]}"
  }
}' > ids.jsonl
moe-data build --tokenized ids.jsonl --vocab-size 64 --domain a --output train.h5 > /dev/null ||
  fail "moe-data"

# run NAME RANKS SETTING...: plans, runs two steps, compares each kind of memory of rank 0.
run() {
  local name=$1 ranks=$2
  shift 2
  cat > run.yaml << YAML
run: {folder: $name, threads: 1}
model: {vocab_size: 1024, hidden_size: 128, intermediate_size: 512, layers: 4, heads: 4$experts}
data: {sequence_length: 256, train: [{domain: a, files: [train.h5]}]}
batch: {global: 8, micro: 2}
train: {steps: 2, checkpoint_every: 1}
YAML
  local set=()
  for s in "$@"; do set+=(--set "$s"); done
  moe-train --config run.yaml "${set[@]}" --dry-run --ranks "$ranks" > plan || fail "$name: dry run"
  [ ! -e "$name" ] || fail "$name: the dry run left something"
  mpirun -n "$ranks" --oversubscribe --bind-to none moe-train --config run.yaml "${set[@]}" \
    > log 2>&1 || { cat log; fail "$name"; }
  local kind planned taken
  for kind in weights gradients optimizer activations snapshot; do
    planned=$(awk -v k=$kind '$1 == k && $NF ~ /^[0-9.]+$/ { print $(NF - 1); exit }' plan)
    taken=$(tail -1 "$name/metrics.jsonl" | sed -n "s/.*\"memory_bytes\":{[^}]*\"$kind\":\([0-9]*\).*/\1/p")
    echo "$name $kind: planned $planned MB, taken $taken bytes"
    awk "BEGIN { r = $planned * 1e6 / $taken; exit !(r > 0.85 && r < 1.25) }" ||
      fail "$name: $kind planned $planned MB, taken $taken bytes"
  done
}

experts=', experts: 8, gate: linear, gate_noise: false'
run plain 1
run cheap 1 parallel.recompute=cheap
run block 1 parallel.recompute=block
run shared 2 parallel.expert=2
run bf16 1 model.dtype=bf16
experts= run dense 2
experts=', experts: 8' run noisy 1
echo passed
