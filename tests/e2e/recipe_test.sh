#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# launch/recipe_small.sh from raw lines to a report and an exported folder, on a model of a few
# thousand parameters, and again, when every stage is kept.
# Usage: recipe_test.sh BUILD_FOLDER
set -u
tree=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
source "$tree/tests/support/small_run.sh"
in_copy "$tree" "$1"

# Three of the seven sets, in one file and in two.
words=(the small mixture reads every word of its domain and learns what follows from it again)
line() {
  local text='' i
  for ((i = 0; i < 60; i++)); do text+="${words[RANDOM % ${#words[@]}]} "; done
  printf '{"text":"%s","meta":{"redpajama_set_name":"%s"}}\n' "$text" "$1"
}
RANDOM=1
for ((n = 0; n < 60; n++)); do
  line RedPajamaC4
  line RedPajamaWikipedia
done > web.jsonl
for ((n = 0; n < 60; n++)); do line RedPajamaGithub; done | gzip > code.jsonl.gz

mkdir tokenizer
cp "$tree/tests/data/tokenizers/byte_fallback.json" tokenizer/tokenizer.json
cat > dense.yaml << 'YAML'
run: {folder: dense, threads: 1, log_every: 50}
model: {hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, max_positions: 256,
        tokenizer: tokenizer}
data: {sequence_length: 64, train: [{domain: web, files: [web.h5]}]}
batch: {global: 4, micro: 2}
train: {steps: 10}
YAML
moe-data build --input web.jsonl --tokenizer tokenizer --bos --domain web --output web.h5 --json \
  > build.log 2>&1 || { cat build.log; fail 'no shard'; }
vocabulary=$(moe-data inspect web.h5 --json | sed -n 's/.*"vocabulary_size":\([0-9]*\).*/\1/p')
moe-train --config dense.yaml --set model.vocab_size="$vocabulary" > train.log 2>&1 &&
  moe-checkpoint export dense --format llama --output model > export.log 2>&1 ||
  { cat train.log export.log; fail 'no dense model'; }

recipe=(launch/recipe_small.sh --raw web.jsonl code.jsonl.gz --model model --steps 30
  --programs "$programs")
"${recipe[@]}" > recipe.log 2>&1 || { cat recipe.log; fail 'the recipe failed'; }
has '^en_c4 +[1-9][0-9.]* +[1-9][0-9.]* +[1-9][0-9.]* +[1-9][0-9.]* +[1-9][0-9.]*$' recipe.log
has '^github ' recipe.log
has '^all ' recipe.log
! grep -q '^en_book' recipe.log || fail 'a domain without data'
for file in report.html exported/config.json exported/tokenizer.json runs/dynamic/metrics.jsonl; do
  [ -s "recipe_small/$file" ] || fail "recipe_small/$file is missing"
done
grep -q '"domain_weights"' recipe_small/runs/dynamic/metrics.jsonl || fail 'no weights'
[ "$(wc -l < recipe_small/reference.txt)" -eq 3 ] || fail "references: $(cat recipe_small/reference.txt)"
tail -n 1 recipe_small/runs/static/metrics.jsonl | grep -q '"en_c4":0.9' ||
  fail 'the static weights are not those of the recipe, normalised over what is there'

"${recipe[@]}" > again.log 2>&1 || { cat again.log; fail 'the second call failed'; }
[ "$(grep -c 'kept$' again.log)" -eq 9 ] || { cat again.log; fail 'stages were not kept'; }
launch/recipe_small.sh --nonsense > wrong.log 2>&1
[ $? -eq 2 ] || fail 'an unknown argument was taken'
