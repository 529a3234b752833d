#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# From nothing to a trained mixture of experts in minutes on two cores of Debian 12: installs
# and builds what is missing, makes a corpus of four domains and a vocabulary, trains a small dense
# LLaMA, splits it into 8 experts of which a token takes 2, trains on with the experts on two ranks,
# is killed on the way and resumes, and compares held-out losses.
#
#   launch/demo.sh [--fresh] [--programs FOLDER] [--until shards|dense]
#
# Everything lands in demo/ beside this folder; logs in demo/logs. Stages that are finished are kept
# by the next call; --fresh starts anew. --programs: where built programs lie; nothing is built then.
# --until: ends when the token shards, or the dense model, are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/stages.sh

domains=(scripture dictionary manual code)
# Held-out documents of each domain: about 20 thousand tokens.
declare -A held_out=([scripture]=18 [dictionary]=130 [manual]=15 [code]=12)
kill_after=130  # steps of the continued run, the newest checkpoint being older
programs=
until=
ranks=2
work=demo

while [ $# -gt 0 ]; do
  case $1 in
    --fresh) rm -rf demo ;;
    --programs)
      [ $# -gt 1 ] || { echo "demo.sh: --programs needs a folder" >&2; exit 2; }
      programs=$(realpath "$2")
      shift
      ;;
    --until)
      [[ ${2:-} =~ ^(shards|dense)$ ]] ||
        { echo "demo.sh: --until knows 'shards' and 'dense'" >&2; exit 2; }
      until=$2
      shift
      ;;
    -h | --help)
      sed -n '3,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *)
      echo "demo.sh: unknown argument '$1' (see --help)" >&2
      exit 2
      ;;
  esac
  shift
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpi=(mpirun -n "$ranks" --oversubscribe --bind-to none)

# ---- stages: each runs once, with its output in demo/logs/NAME.log ------------------------------

stage_corpus() { launch/demo_corpus.sh demo/corpus; }

stage_vocabulary() {
  mkdir -p demo/tokenizer
  perl launch/demo_corpus.pl text demo/corpus/*.jsonl > demo/corpus/text.txt
  spm_train --input=demo/corpus/text.txt --model_prefix=demo/tokenizer/tokenizer --model_type=bpe \
    --vocab_size=2048 --byte_fallback=true --character_coverage=0.9999 --split_digits=true \
    --normalization_rule_name=identity --remove_extra_whitespaces=false \
    --allow_whitespace_only_pieces=true --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 \
    --input_sentence_size=60000 --shuffle_input_sentence=true --num_threads="$(nproc)"
  rm demo/corpus/text.txt
}

stage_shards() {
  mkdir -p demo/shards
  for domain in "${domains[@]}"; do
    moe-data build --input "demo/corpus/$domain.jsonl" --tokenizer demo/tokenizer --bos \
      --domain "$domain" --output "demo/shards/$domain.h5" --held-out "${held_out[$domain]}" \
      --held-out-output "demo/shards/$domain-held-out.h5" --force
  done
  moe-data verify demo/shards/*.h5
}

stage_dense() {
  "${mpi[@]}" moe-train --config configs/demo_dense.yaml --resume auto
  moe-checkpoint export demo/runs/dense --format llama --output demo/models/dense --force
}

stage_split() {
  moe-split --input demo/models/dense --output demo/models/split --experts 8 --top-k 2 --force
}

last_step() {
  [ ! -e demo/runs/moe/metrics.jsonl ] ||
    sed -n '$s/^{"step":\([0-9]*\),.*/\1/p' demo/runs/moe/metrics.jsonl
}

children_of() { grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | cut -d/ -f3; }

# Trains until some steps after a checkpoint, then kills every rank without warning.
kill_midway() {
  local pid step code=0
  "${mpi[@]}" moe-train --config configs/demo_moe.yaml --resume auto &
  pid=$!
  trap 'kill "$pid" 2> /dev/null' EXIT
  while step=$(last_step) && [ "${step:-0}" -lt "$kill_after" ]; do
    kill -0 "$pid"  # ends the stage when the run ended by itself
    sleep 0.2
  done
  # shellcheck disable=SC2046  # one argument a rank
  kill -9 $(children_of "$pid")
  wait "$pid" || code=$?
  trap - EXIT
  [ "$code" -ne 0 ]
  echo "killed after step $(last_step), exit code $code"
  last_step > demo/runs/moe/killed
}

stage_moe() {
  [ -e demo/runs/moe/killed ] || kill_midway
  "${mpi[@]}" moe-train --config configs/demo_moe.yaml --resume auto
  moe-checkpoint verify demo/runs/moe
  moe-checkpoint export demo/runs/moe --format llama-moe --output demo/models/moe --force
}

stage_control() {
  "${mpi[@]}" moe-train --config configs/demo_moe.yaml --resume auto \
    --init-from demo/models/dense --set run.folder=demo/runs/dense_longer --set parallel.expert=1
  moe-checkpoint export demo/runs/dense_longer --format llama --output demo/models/dense_longer \
    --force
}

stage_losses() {
  mkdir -p demo/losses
  for model in dense split moe dense_longer; do
    for domain in "${domains[@]}"; do
      moe-eval loss --model "demo/models/$model" --data "demo/shards/$domain-held-out.h5" --json \
        > "demo/losses/$model-$domain.json"
      cat "demo/losses/$model-$domain.json"
    done
  done
}

stage_text() {
  local prompts=('And the LORD said unto' 'An {operating system} for' '    def __init__(self, ')
  for prompt in "${prompts[@]}"; do
    moe-generate --model demo/models/moe --prompt "$prompt" --max-tokens 48 --temperature 0.6 |
      awk 'NF && ++lines <= 4' | cut -c 1-76
    echo
  done > demo/text.txt
}

# ---- running them -------------------------------------------------------------------------------

median() { sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'; }

report() {
  local models=(dense split moe dense_longer) domain model
  printf '\nheld-out loss, nats a token\n'
  printf '%-12s%12s%18s%18s%18s\n' \
    '' 'dense' 'split into' 'split, then' 'dense, then' \
    '' '' '8 experts, top-2' 'trained on' 'trained on'
  for domain in "${domains[@]}" all; do
    printf '%-12s' "$domain"
    for model in "${models[@]}"; do
      local files=(demo/losses/"$model-$domain".json) width=18
      [ "$domain" != all ] || files=(demo/losses/"$model"-*.json)
      [ "$model" != dense ] || width=12
      paste <(values loss "${files[@]}") <(values tokens "${files[@]}") |
        awk -v width=$width '{ sum += $1 * $2; tokens += $2 }
                             END { printf "%*.4f", width, sum / tokens }'
    done
    echo
  done
  echo
  printf '%-34s%14s%14s%14s\n' 'training' 'dense' 'split' 'dense on'
  local row
  for row in tokens tokens_per_second; do
    printf '%-34s' "$([ $row = tokens ] && echo 'tokens' || echo 'tokens a second (median step)')"
    for model in dense moe dense_longer; do
      values $row "demo/runs/$model/metrics.jsonl" |
        if [ $row = tokens ]; then tail -n 1; else median; fi | xargs printf '%14.0f'
    done
    echo
  done
  printf '%-34s%28s\n' 'busiest expert / mean (last step)' "$(
    sed -n '$s/.*"load_max_over_mean":\[\([^]]*\)\].*/\1/p' demo/runs/moe/metrics.jsonl |
      tr , '\n' | sort -g | tail -n 1 | xargs printf '%.2f'
  )"
  printf '%-34s%28s\n' 'killed after step' "$(cat demo/runs/moe/killed)"
  printf '%-34s%28s\n' 'resumed from the checkpoint of step' "$(
    sed -n 's/.*resuming .* after step \([0-9]*\).*/\1/p' demo/logs/moe.log | tail -n 1
  )"
  printf '\nthe trained experts go on with three beginnings:\n\n'
  sed 's/^/    /' demo/text.txt
  printf 'models: demo/models   runs: demo/runs   corpus, shards: demo/corpus, demo/shards\n'
}

stages=11
[ -z "$programs" ] || stages=10
build_programs
begin=$SECONDS
stage corpus 'corpus: four domains from Debian packages'
stage vocabulary 'vocabulary: 2048 pieces'
stage shards 'token shards, with a held-out part each'
[ "$until" != shards ] || exit 0
stage dense "dense model: training on $ranks ranks, data parallel"
[ -z "$until" ] || exit 0
stage split 'split: 8 experts, 2 a token'
stage moe "experts: training on $ranks ranks, killed midway, resumed"
stage control 'dense model: training on as long, to compare'
stage losses 'held-out losses of all four'
stage text 'text from the trained experts'
report
printf '%d s after installing and building\n' $((SECONDS - begin))
