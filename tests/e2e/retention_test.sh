#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# launch/study_retention.sh and study_models.sh refuse what they cannot do before they begin; an arm
# of the recovery learns from the dense model while k falls. Usage: retention_test.sh BUILD
set -u
tree=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
source "$tree/tests/support/small_run.sh"
in_copy "$tree" "$1"

study=launch/study_retention.sh
refused 'positive numbers' $study --test-tokens 0
refused "'llama' is no model" $study --models llama
refused '--recovery demo is none of --models' $study --models stories260k
refused 'no half-16 of stories260k' $study --models stories260k --recovery stories260k
refused "unknown argument '--nonsense'" $study --nonsense
refused "'' is no model" launch/study_models.sh
refused 'name a folder' launch/study_models.sh demo
export MOE_REALDATA=$PWD/nowhere
refused 'nowhere: set MOE_REALDATA' launch/study_models.sh demo folder
[ -z "$(find . -name retention -o -name folder)" ] || fail 'something was written'

small_corpus
must moe-data build --tokenized ids.jsonl --vocab-size 64 --domain numbers --output train.h5
cat > dense.yaml << 'YAML'
run: {folder: dense, threads: 1}
model: {vocab_size: 64, hidden_size: 32, intermediate_size: 64, layers: 1, heads: 2,
        max_positions: 32}
data: {sequence_length: 32, train: [{domain: numbers, files: [train.h5]}]}
batch: {global: 4, micro: 2}
train: {steps: 2}
YAML
must moe-train --config dense.yaml
must moe-checkpoint export dense --format llama --output model
grep -E '^[a-z0-9,]+ (dense|ours-kd-anneal) ' configs/study/retention_arms.txt > arms.txt
launch/study.sh --programs "$programs" --model model --train train.h5 --held-out train.h5 \
  --arms arms.txt --seeds 1 --steps 30 --length 32 --gap 1 --calibration-tokens 2048 \
  > study.log 2>&1 || { cat study.log; fail 'the recovery'; }
[ "$(grep -c '^| ours-kd-anneal | ' study/study.md)" -eq 2 ] || fail "$(cat study/study.md)"
has '^\| ours-kd-anneal \| joint: 4 \+ 12, top-4 ' study/study.md
run=study/runs/ours-kd-anneal/seed-1/run
has "teacher: .*$PWD/model" $run/config.yaml
has 'lm_weight: 0$' $run/config.yaml
head -n 1 $run/metrics.jsonl | grep -q '"top_k":12,' || fail "k does not begin at all experts"
tail -n 1 $run/metrics.jsonl | grep -q '"top_k":4,' || fail "k does not end at four experts"
echo passed
