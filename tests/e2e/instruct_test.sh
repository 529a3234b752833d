#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# launch/instruct_small.sh from end to end on a tiny model: conversations to shards, a split, two
# stages, two exported models that answer. Then the same run again, killed once in each stage and
# resumed: the exported weights are the same to the bit.
#
#   tests/e2e/instruct_test.sh PROGRAMS_FOLDER
set -u
tree=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
source "$tree/tests/support/small_run.sh"
in_copy "$tree" "$1"

mkdir tokenizer
cp "$tree/tests/data/tokenizers/byte_fallback.json" tokenizer/tokenizer.json
for ((i = 0; i < 40; i++)); do
  echo '{"text":"What is the opposite of hot? The opposite of hot is cold."}'
done > text.jsonl
cat > dense.yaml << 'YAML'
run: {folder: dense, threads: 1, log_every: 50}
model: {hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, max_positions: 256,
        tokenizer: tokenizer}
data: {sequence_length: 32, train: [{domain: text, files: [text.h5]}]}
batch: {global: 4, micro: 2}
train: {steps: 5}
YAML
must moe-data build --input text.jsonl --tokenizer tokenizer --bos --domain text --output text.h5
vocabulary=$(moe-data inspect text.h5 --json | sed -n 's/.*"vocabulary_size":\([0-9]*\).*/\1/p')
must moe-train --config dense.yaml --set model.vocab_size="$vocabulary"
must moe-checkpoint export dense --format llama --output model

# Few and small: what is tested is the way.
sed -i 's/^conversations=.*/conversations=300/; s/^questions=.*/questions=2/' launch/instruct_small.sh
sed -i 's/global: 16/global: 4/; s/checkpoint_every: 50/checkpoint_every: 4/' \
  configs/instruct_small.yaml
sed -i 's/eval_every: 100/eval_every: 0/' configs/instruct_small.yaml
small=(launch/instruct_small.sh --model model --steps 10 --programs "$programs")
must "${small[@]}"
has '^after stage general +[0-9]+ of 2 +[0-9]+ of 2$' last.log
has '^after stage sums ' last.log
for stage in general sums; do
  for file in model/config.json model/tokenizer.json model/model.safetensors metrics.jsonl; do
    [ -s "instruct_small/run/$stage/$file" ] || fail "instruct_small/run/$stage/$file is missing"
  done
  [ "$(wc -l < "instruct_small/run/$stage/metrics.jsonl")" -eq 10 ] || fail "steps of stage $stage"
done
must moe-report instruct_small/run/general instruct_small/run/sums --output report.html
must "${small[@]}"
[ "$(grep -c 'kept$' last.log)" -eq 5 ] || { cat last.log; fail 'stages were not kept'; }

run=(mpirun -n 2 --oversubscribe --bind-to none moe-train --config configs/instruct_small.yaml
  --set train.steps=10 --set train.async_checkpoints=false --set run.folder=killed)
for stage in general sums; do
  "${run[@]}" --resume auto --inject "dead:rank=1,step=7,stage=$stage" > killed.log 2>&1 &&
    fail "nothing was killed in stage $stage"
  [ ! -e "killed/$stage/model" ] || fail "stage $stage was exported before its end"
  [ -e "killed/$stage/checkpoints/step-00000004" ] || { cat killed.log; fail "no checkpoint"; }
done
must "${run[@]}" --resume auto
for stage in general sums; do
  cmp "killed/$stage/model/model.safetensors" "instruct_small/run/$stage/model/model.safetensors" ||
    fail "stage $stage, killed and resumed, ends in other weights"
done
! cmp -s killed/general/model/model.safetensors killed/sums/model/model.safetensors ||
  fail 'the second stage changed nothing'

# A stage that cannot be is refused before anything is trained.
"${run[@]}" --set run.folder=refused --set stages.1.data.sequence_length=100000 > refused.log 2>&1
[ $? -eq 2 ] || fail 'sequences that are too long were taken'
has 'stage sums: data.sequence_length is 100000' refused.log
[ ! -e refused ] || fail 'a refused run left a folder'
moe-train --config configs/instruct_small.yaml --dry-run --ranks 2 > plan.log 2>&1 ||
  { cat plan.log; fail 'no plan'; }
has '^stage general: 300 steps$' plan.log
has '^trained: embeddings .*; frozen: router' plan.log
