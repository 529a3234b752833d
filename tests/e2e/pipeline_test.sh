#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The whole way as a user goes it: shards, dense training, export, split, training with experts on
# two ranks, kill -9 on the way, resume, other layouts, export, evaluation, generation.
# Usage: pipeline_test.sh BUILD_FOLDER
set -u
source "$(dirname "${BASH_SOURCE[0]}")/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1

ranks() {
  local n=$1
  shift
  mpirun -n "$n" --oversubscribe --bind-to none "$@"
}

loss_of() {
  moe-eval loss --model "$1" --data held-out.h5 --json | sed -n 's/.*"loss":\([-+.0-9e]*\).*/\1/p'
}

# check EXPRESSION: awk's truth about numbers.
check() { awk "BEGIN { exit !($1) }" || fail "$1"; }

small_corpus
must moe-data build --tokenized ids.jsonl --vocab-size 64 --domain numbers --output train.h5 \
  --held-out 40 --held-out-output held-out.h5
must moe-data verify train.h5 held-out.h5

cat > run.yaml << 'YAML'
run: {folder: dense, threads: 1, log_every: 50}
model: {vocab_size: 64, hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, max_positions: 32}
data:
  sequence_length: 32
  train: [{domain: numbers, files: [train.h5]}]
  held_out: [{domain: numbers, files: [held-out.h5]}]
batch: {global: 4, micro: 2}
train: {steps: 200, checkpoint_every: 20, eval_every: 100, keep_last: 100}
optimizer: {learning_rate: 0.01}
schedule: {warmup_steps: 10}
YAML
must ranks 2 moe-train --config run.yaml
must moe-checkpoint verify dense
must moe-checkpoint export dense --format llama --output models/dense
dense=$(loss_of models/dense)
check "$dense < 2.5"  # 4.1 before training, 0.7 at best

# A run that lies there is not overwritten by accident; bad keys name themselves.
ranks 2 moe-train --config run.yaml > last.log 2>&1 && fail 'trained over an existing run'
grep -q 'dense: a run lies here already' last.log || fail "no word of the existing run: $(cat last.log)"
moe-train --config run.yaml --set train.stepz=3 > last.log 2>&1
[ $? -eq 2 ] && grep -q 'train.stepz' last.log || fail "unknown key: $(cat last.log)"

must moe-split --input models/dense --output models/exact --experts 4 --top-k 4 --gate zeros --scale 4
check "($(loss_of models/exact) - $dense) ^ 2 < 1e-8"
must moe-split --input models/dense --output models/split --experts 4 --top-k 2
split=$(loss_of models/split)
check "$split > $dense + 0.01"

sed 's|^model:.*|model: {init_from: models/split}|' run.yaml > experts.yaml
experts=(moe-train --config experts.yaml --set parallel.expert=2 --set train.steps=300)
must ranks 2 "${experts[@]}" --set run.folder=straight

# Four ranks compare themselves with one process before they begin.
must ranks 4 "${experts[@]}" --set run.folder=checked --set train.steps=2 --selfcheck
grep -Eq 'selfcheck: [1-9][0-9]* values and tensors of 8 sequences of 32 agree' last.log ||
  fail "selfcheck: $(cat last.log)"

# The same, but killed without warning once a checkpoint is there.
ranks 2 "${experts[@]}" --set run.folder=killed > killed.log 2>&1 &
job=$!
until [ -e killed/checkpoints/step-00000040 ]; do
  kill -0 $job 2> /dev/null || { cat killed.log; fail 'the run ended before it was killed'; }
  sleep 0.02
done
kill -9 $(grep -ls "^PPid:[[:space:]]*$job\$" /proc/[0-9]*/status | cut -d/ -f3)
wait $job && fail 'a killed job reports success'
[ ! -e killed/checkpoints/step-00000300 ] || fail 'the run was done before it was killed'
must ranks 2 "${experts[@]}" --set run.folder=killed --resume auto
grep -q 'resuming killed/checkpoints/step-' last.log || fail "not resumed: $(cat last.log)"
must moe-checkpoint diff straight killed
steps=$(sed -n 's/^{"step":\([0-9]*\),.*/\1/p' killed/metrics.jsonl)
[ "$steps" = "$(seq 300)" ] || fail 'metrics.jsonl does not hold every step once'

# On one rank from the middle: other sums, the same model.
must "${experts[@]}" --set run.folder=alone --set parallel.expert=1 \
  --resume straight/checkpoints/step-00000280
must moe-checkpoint export alone --format llama-moe --output models/alone
must moe-checkpoint export straight --format llama-moe --output models/moe
trained=$(loss_of models/moe)
check "$trained < $split - 0.01"
check "($(loss_of models/alone) - $trained) ^ 2 < 1e-6"
check "($(loss_of straight) - $trained) ^ 2 < 1e-8"

must moe-generate --model models/moe --prompt-ids 1,7 --max-tokens 5 --ignore-eos --json
grep -qE '"ids":\[[0-9]+(,[0-9]+){4}\]' last.log || fail "no five ids: $(cat last.log)"
echo "all good: loss $dense dense, $split split, $trained trained"
