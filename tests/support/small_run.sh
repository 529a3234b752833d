# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by scripts: the data and the configuration of a small run, in the working folder.

# Token i + 1 follows from token i: i -> 3 i + (1 or 2), so that there is something to learn.
small_corpus() {
  awk 'BEGIN {
    srand(1)
    for (d = 0; d < 400; d++) {
      t = 2 + int(rand() * 60); line = "1"
      for (i = 0; i < 60; i++) { line = line "," t; t = 2 + (3 * t + int(rand() * 2)) % 60 }
      print "{\"input_ids\":[" line "]}"
    }
  }' > ids.jsonl
}

# train.h5 and run.yaml: two ranks, two layers, four experts, 60 steps in less than a second.
small_run() {
  small_corpus
  moe-data build --tokenized ids.jsonl --vocab-size 64 --domain numbers --output train.h5 \
    > data.log 2>&1 || { cat data.log; return 1; }
  cat > run.yaml << 'YAML'
run: {folder: run, threads: 1, log_every: 50}
model:
  {vocab_size: 64, hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, max_positions: 32,
   experts: 4, top_k: 2}
data:
  sequence_length: 32
  train: [{domain: numbers, files: [train.h5]}]
batch: {global: 4, micro: 2}
parallel: {expert: 2, watchdog_seconds: 5}
train: {steps: 60, checkpoint_every: 20, keep_last: 10}
optimizer: {learning_rate: 0.01}
schedule: {warmup_steps: 10}
YAML
}

# in_copy TREE PROGRAMS: into an empty folder, removed at the end, with copies of TREE's launch and
# configs; the programs, whose folder is $programs, come first on PATH. Nothing is installed.
in_copy() {
  programs=$(realpath "$2")
  export PATH="$programs:$PATH"
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
  export MOE_NO_INSTALL=1
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work" || exit 1
  cp -r "$1/launch" "$1/configs" .
}

fail() {
  echo "FAILED: $*"
  exit 1
}

# has PATTERN FILE: what the file must say.
has() { grep -Eq -- "$1" "$2" || { cat "$2"; fail "$2 does not say '$1'"; }; }

# must COMMAND: runs what must succeed; its output, in last.log, is shown when it does not.
must() { "$@" > last.log 2>&1 || { local code=$?; cat last.log; fail "exit code $code: $*"; }; }

# refused PATTERN COMMAND: bad input ends with exit code 2 and says PATTERN.
refused() {
  local pattern=$1 code=0
  shift
  "$@" > last.log 2>&1 || code=$?
  [ $code -eq 2 ] || { cat last.log; fail "exit code $code, not refused: $*"; }
  has "$pattern" last.log
}
