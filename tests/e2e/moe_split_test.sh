#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# moe-split as a user calls it: splits with text to learn from and to measure on, their reports and
# pictures, verify, compare, and what it says to bad input. Usage: moe_split_test.sh BUILD_FOLDER
set -u
export PATH="$(realpath "$1"):$PATH"
configs=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../configs/split")
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
  echo "FAILED: $*"
  exit 1
}

# expect CODE TEXT COMMAND...: the exit code, and a text in what is printed; of bad input (2), that
# this is one line and that no output folder is left.
expect() {
  local code=$1 text=$2
  shift 2
  "$@" > last.log 2>&1
  local got=$?
  [ $got -eq "$code" ] || fail "exit code $got, not $code: $*: $(cat last.log)"
  grep -qF -- "$text" last.log || fail "no '$text' from: $*: $(cat last.log)"
  [ "$code" -ne 2 ] || [ "$(wc -l < last.log)" -eq 1 ] || fail "not one line: $*: $(cat last.log)"
  [ ! -e refused ] || fail "left an output behind: $*"
}

awk 'BEGIN {
  srand(1)
  for (d = 0; d < 100; d++) {
    line = "1"
    for (i = 0; i < 30; i++) line = line "," 2 + int(rand() * 60)
    print "{\"input_ids\":[" line "]}"
  }
}' > ids.jsonl
expect 0 '' moe-data build --tokenized ids.jsonl --vocab-size 64 --domain numbers \
  --output train.h5 --held-out 20 --held-out-output held-out.h5
cat > run.yaml << 'YAML'
run: {folder: run, threads: 1}
model: {vocab_size: 64, hidden_size: 16, intermediate_size: 24, layers: 2, heads: 4, kv_heads: 2, max_positions: 32}
data:
  sequence_length: 32
  train: [{domain: numbers, files: [train.h5]}]
batch: {global: 4, micro: 2}
train: {steps: 1}
optimizer: {learning_rate: 0.01}
YAML
expect 0 '' moe-train --config run.yaml
expect 0 '' moe-checkpoint export run --format llama --output dense

text=(--calibration train.h5 --held-out held-out.h5 --calibration-length 32 --calibration-tokens 500)
expect 0 'held-out loss' moe-split --input dense --output random --experts 4 "${text[@]}" \
  --gate linear --gate-noise off
expect 0 'importance_own' moe-split --input dense --output gradient --experts 4 "${text[@]}" \
  --method gradient --importance-from inputs --gate centers --scale least-squares --format native
for file in config.json model.safetensors neuron_indices.safetensors split.json split.html; do
  [ -s "random/$file" ] && [ -s "gradient/$file" ] || fail "no $file in a split's folder"
done
grep -qF '<svg' random/split.html || fail 'no pictures in split.html'

# Two ranks share the text; what is wrong is said once and ends both.
ranks=(mpirun -n 2 --oversubscribe --allow-run-as-root --bind-to none)
expect 0 'held-out loss' "${ranks[@]}" moe-split --input dense --output ranks --experts 4 \
  "${text[@]}" --method gradient --gate select-linear --scale least-squares --gate-noise off
[ -s ranks/model.safetensors ] || fail 'two ranks made no model'
"${ranks[@]}" moe-split --input dense --output refused --experts 4 --top-k 5 > last.log 2>&1
[ $? -eq 2 ] || fail 'two ranks took top-k 5 of 4'
[ "$(grep -c 'moe-split: error: top-k' last.log)" -eq 1 ] || fail "not said once: $(cat last.log)"

# What is fitted in closed form is the same model on two ranks as on one, but for the order of sums; on
# more threads bit for bit.
fit=(--experts 3 --shared 1 --top-k 1 "${text[@]}" --gate logistic --weights unit --refit down+bias
  --format native)
expect 0 'those refitted' moe-split --input dense --output joint "${fit[@]}" --method joint
given=("${fit[@]}" --indices joint/neuron_indices.safetensors)
expect 0 'those refitted' moe-split --input dense --output joint-1 "${given[@]}"
expect 0 'those refitted' "${ranks[@]}" moe-split --input dense --output joint-2 "${given[@]}"
expect 0 'equal' moe-split verify joint-1 joint-2 --data held-out.h5
for threads in 1 3; do
  expect 0 'those refitted' "${ranks[@]}" -x OMP_NUM_THREADS=$threads \
    moe-split --input dense --output joint-by-$threads "${fit[@]}" --method joint
done
cmp joint-by-1/model.safetensors joint-by-3/model.safetensors || fail 'threads change the split'
"${ranks[@]}" moe-split --input dense --output refused "${fit[@]}" --held-out train.h5 > last.log 2>&1
[ $? -eq 2 ] || fail "measured on text that it was fitted to: $(cat last.log)"
[ "$(grep -c 'calibration text and train.h5 share' last.log)" -eq 1 ] || fail "not once: $(cat last.log)"

# LLaMA-MoE's own models as they are configured, here of 24 neurons and two key/value heads; a key that
# is none.
for config in "$configs"/*.toml; do
  heads=()
  grep -q '^attention' "$config" && heads=(--attention-experts 2 --attention-top-k 1)
  expect 0 'parameters' moe-split --config "$config" --input dense --dry-run \
    --calibration train.h5 --calibration-tokens 500 "${heads[@]}"
done

# Experts in the attention: to v2's format and back to the dense weights; bad input.
cmp_dense() {
  expect 0 '' moe-checkpoint export "$1" --format llama --output "$1-dense"
  cmp -s dense/model.safetensors "$1-dense/model.safetensors" || fail "$1 is not the dense model again"
}
expect 0 '2 experts of heads, 1 chosen' moe-split --input dense --output v2 --experts 4 \
  --format llama-moe-v2 --attention heads
cmp_dense v2
grep -q '"attn_experts": 2' v2/config.json || fail 'no attn_experts in config.json'
expect 0 'centers' moe-split --input dense --output queries --experts 0 --format native \
  --attention queries --attention-gate centers --calibration train.h5 --calibration-tokens 500
cmp_dense queries
grep -qF 'experts of queries' queries/split.html || fail 'no attention in split.html'
expect 0 '' moe-split --input dense --output all-heads --experts 4 --top-k 4 --gate zeros --scale 4 \
  --format llama-moe-v2 --attention heads --attention-top-k 2 --attention-gate zeros --attention-scale 2
expect 0 'equal: ' moe-split verify dense all-heads --data held-out.h5 --length 32
expect 0 'held-out loss' moe-split --input dense --output measured --experts 0 --format native \
  --attention queries --attention-top-k 1 "${text[@]}"
expect 0 '2 experts of queries, 1 chosen' moe-split compare measured all-heads dense --data held-out.h5
expect 2 'use queries or heads' moe-split --input dense --output refused --attention keys
expect 2 'add --attention queries' moe-split --input dense --output refused --attention-top-k 2
expect 2 'choose a divisor of 2' moe-split --input dense --output refused --format native \
  --attention queries --attention-experts 3
expect 2 'must lie between 1 and experts (2), is 3' moe-split --input dense --output refused \
  --format native --attention heads --attention-top-k 3
expect 2 'no experts in the attention' moe-split --input dense --output refused --attention heads
expect 2 'no experts in the attention' moe-checkpoint export v2 --format mixtral --output refused
echo 'expertz = 3' > bad.toml
expect 2 'expertz' moe-split --config bad.toml --input dense --output refused

# The neurons of an earlier split, and nothing of a dry run.
expect 0 'indices' moe-split --input dense --output again --experts 4 --gate linear \
  --gate-noise off --indices random/neuron_indices.safetensors
expect 0 'held-out loss' moe-split --input dense --indices random/neuron_indices.safetensors --dry-run \
  --calibration train.h5 --held-out held-out.h5  # experts and lengths are the file's and the model's
cmp -s random/model.safetensors again/model.safetensors || fail 'the same neurons, other weights'

expect 0 '' moe-split --input dense --output exact --experts 4 --top-k 4 --gate zeros --scale 4
expect 0 'equal: ' moe-split verify dense exact --data held-out.h5 --length 32
expect 1 'they begin to differ in layer 0' moe-split verify dense random --data held-out.h5 --length 32

expect 0 'sorted by the loss for k=2' moe-split compare random gradient dense --html both.html
for word in random gradient least-squares 'loss k=4' 'load max'; do
  grep -qF -- "$word" last.log || fail "no '$word' in the comparison: $(cat last.log)"
done
grep -qF '<svg' both.html || fail 'no pictures in the comparison'
grep -qF warning last.log && fail "splits of the same text are not compared: $(cat last.log)"
expect 0 'measured now' moe-split compare dense random exact run --data held-out.h5 --top-k 1,4
expect 0 '"measured_now":false' moe-split compare random gradient --json

# Losses on other text are left out, with a word about it.
expect 0 '' moe-split --input dense --output other --experts 4 --gate linear --gate-noise off \
  --held-out train.h5 --calibration-length 32
expect 0 'warning: losses are left out' moe-split compare random other
grep -qF 'loss k=' last.log && fail "compared losses on different text: $(cat last.log)"

bad=(moe-split --input dense --output refused --experts 4)
expect 2 "unknown method 'magic'" "${bad[@]}" --method magic
expect 2 'calibration' "${bad[@]}" --method gradient
expect 2 'top-k must lie between 1 and the number of experts (4), is 5' "${bad[@]}" --top-k 5
expect 2 'nowhere.safetensors' "${bad[@]}" --indices nowhere.safetensors
expect 2 'shared' "${bad[@]}" --shared 1
expect 2 'unknown-option' "${bad[@]}" --unknown-option
expect 2 '--input is required' moe-split --output refused
expect 2 'random exists already' moe-split --input dense --output random
expect 2 'nowhere' moe-split compare random nowhere
expect 2 'is 9' moe-split compare random --top-k 9
expect 2 'nowhere/x.html' moe-split compare random --html nowhere/x.html
echo '{"method": 1}' > gradient/split.json
expect 2 'gradient/split.json' moe-split compare random gradient
echo "all good"
