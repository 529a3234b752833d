#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# launch/study.sh on a model of a few thousand parameters: the figures of its table are those of the
# runs' own files, a second call keeps what is done, bad input is refused. Usage: study_test.sh BUILD
set -u
tree=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
source "$tree/tests/support/small_run.sh"
in_copy "$tree" "$1"

small_corpus
must moe-data build --tokenized ids.jsonl --vocab-size 64 --domain numbers --output train.h5 \
  --held-out 20 --held-out-output held-out.h5
cat > dense.yaml << 'YAML'
run: {folder: dense, threads: 1}
model: {vocab_size: 64, hidden_size: 32, intermediate_size: 64, layers: 2, heads: 4, kv_heads: 2,
        max_positions: 32}
data: {sequence_length: 32, train: [{domain: numbers, files: [train.h5]}]}
batch: {global: 4, micro: 2}
train: {steps: 10}
YAML
must moe-train --config dense.yaml
must moe-checkpoint export dense --format llama --output model

cat > arms.txt << 'ARMS'
# groups name options
all dense -
all gradient --experts 4 --top-k 2 --method gradient --importance-from inputs --gate centers
all,attention queries --experts 4 --top-k 2 --attention queries --attention-top-k 1 --attention-gate centers -- distill.teacher=MODEL optimizer.learning_rate=0.002
ARMS
study=(launch/study.sh --programs "$programs" --model model --train train.h5 --held-out held-out.h5
  --arms arms.txt --seeds 2 --steps 4 --length 32 --gap 0.01)
"${study[@]}" > study.log 2>&1 || { cat study.log study/logs/*; fail 'the study failed'; }

# cell ARM COLUMN: the first number of a cell of the table.
cell() {
  awk -F'|' -v arm=" $1 " -v column="$2" 'NF > 9 && $2 == arm { print $(column + 1) }' \
    study/study.md | awk '{ print $1 }'
}
# average KEY FILE...: over the last number that each file has for it.
average() {
  local key=$1 file
  shift
  for file in "$@"; do grep -o "\"$key\":[-+.0-9e]*" "$file" | tail -n 1 | cut -d: -f2; done |
    awk '{ sum += $1 } END { printf "%.3f", sum / NR }'
}
for arm in dense gradient queries; do
  runs=study/runs/$arm
  [ "$(cell $arm 5)" = "$(average loss $runs/seed-{1,2}/before.json)" ] ||
    fail "$arm before: $(cell $arm 5) is not of $(cat $runs/*/before.json)"
  for seed in 1 2; do
    tail -n 1 $runs/seed-$seed/run/metrics.jsonl | grep -o '"held_out_loss":{[^}]*}' > after-$seed
    [ -s after-$seed ] || fail "$arm was not measured at its last step"
  done
  [ "$(cell $arm 6)" = "$(average numbers after-1 after-2)" ] ||
    fail "$arm after: $(cell $arm 6) is not of $(cat after-*)"
done
for arm in gradient queries; do
  activated=$(sed -n 's/.*"activated": *\([0-9]*\).*/\1/p' study/runs/$arm/seed-1/split/split.json)
  [ "$(cell $arm 4)" = "$(awk -v n="$activated" 'BEGIN { printf "%.1fk", n / 1000 }')" ] ||
    fail "$arm activates $(cell $arm 4), not $activated"
  [ -n "$(cell $arm 7)" ] || fail "no load of $arm"
done
[ -z "$(cell gradient 10)" ] && [ -n "$(cell queries 10)" ] || fail 'load of the attention'
grep -q '>queries<' study/all.svg || fail 'no picture'
[ -s study/attention.svg ] || fail 'no picture of the second group'
[ -z "$(find study/runs -name '*.h5')" ] || fail 'checkpoints were left'

grep -Eq '^\| queries \| [-0-9.]+ \|.* \| [-0-9.]+ \|$' study/study.md ||
  fail "no tokens that close the gap: $(cat study/study.md)"
has "teacher: .*$PWD/model" study/runs/queries/seed-1/run/config.yaml
has 'learning_rate: 0.002' study/runs/queries/seed-1/run/config.yaml
has 'learning_rate: 0.001' study/runs/gradient/seed-1/run/config.yaml

rm study/done/queries_seed_2
"${study[@]}" > again.log 2>&1 || { cat again.log; fail 'the second call failed'; }
[ "$(grep -c 'kept$' again.log)" -eq 6 ] || { cat again.log; fail 'runs were not kept'; }
cmp -s <(sed '1,/table and pictures/d' study.log) <(sed '1,/table and pictures/d' again.log) ||
  fail 'the same seeds gave another table'

refused 'belong together' launch/study.sh --model model
refused 'nowhere.h5: no such file' launch/study.sh --train nowhere.h5
refused 'positive numbers' launch/study.sh --seeds none
refused "unknown argument '--nonsense'" launch/study.sh --nonsense
refused 'arms.txt: no such file' moe-report study model
echo 'all/x dense -' > study/runs/arms.txt
refused "'all/x' may hold letters" moe-report study study/runs
refused 'name folders of runs' moe-report
