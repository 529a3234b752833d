#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The study of sparsity: one small real model, split in many ways of about as many activated
# parameters, each trained on with the same tokens, several seeds; a table and pictures of held-out
# losses right after the split and after the training, of the experts' loads and their entropy, from
# the runs' own files.
#
#   launch/study.sh [--model FOLDER --train SHARD... --held-out SHARD...] [--arms FILE] [--seeds N]
#                   [--steps N] [--evaluations N] [--length N] [--calibration-tokens N]
#                   [--config FILE] [--gap NATS] [--output FOLDER] [--fresh] [--programs FOLDER]
#
# --model: a Hugging Face LLaMA, with token shards of its tokenizer, one or more of each domain;
# default: a model of configs/study/dense.yaml, trained on the texts of launch/demo.sh, which are
# made first. --arms: default configs/study/arms.txt. --seeds: default 3; --steps: of each run, of
# 2048 tokens, default 60, with so many --evaluations, default 4; --length: of a sequence, default 256; --config: of the training, default
# configs/study/train.yaml; --gap: a table of the tokens that close shares of it (moe-report study).
# --calibration-tokens: of the training text, for the splits, default 8192. QUICK=1 in the environment:
# one seed, 20 steps. Everything lands in study/ or --output; runs that are finished are kept by the
# next call; --fresh starts anew. docs/study.md shows what came of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/stages.sh

work=study
programs=
model=
train=()
held_out=()
arms=configs/study/arms.txt
config=configs/study/train.yaml
gap=()
length=256
calibration_tokens=8192
seeds=3 steps=60 evaluations=4
[ -z "${QUICK:-}" ] || seeds=1 steps=20
fresh=false

fail() {
  echo "study.sh: $*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --fresh) fresh=true ;;
    --train | --held-out)
      option=$1
      files=()
      while [ $# -gt 1 ] && [[ $2 != --* ]]; do
        [ -f "$2" ] || fail "$2: no such file"
        files+=("$(realpath "$2")")
        shift
      done
      [ ${#files[@]} -gt 0 ] || fail "$option needs files"
      if [ "$option" = --train ]; then train=("${files[@]}"); else held_out=("${files[@]}"); fi
      ;;
    --model | --arms | --seeds | --steps | --evaluations | --length | --calibration-tokens | --config | --gap | \
      --output | --programs)
      [ $# -gt 1 ] || fail "$1 needs a value"
      case $1 in
        --model) model=$(realpath "$2") ;;
        --arms) arms=$(realpath "$2") ;;
        --seeds) seeds=$2 ;;
        --steps) steps=$2 ;;
        --evaluations) evaluations=$2 ;;
        --length) length=$2 ;;
        --calibration-tokens) calibration_tokens=$2 ;;
        --config) config=$(realpath "$2") ;;
        --gap) gap=(--gap "$2") ;;
        --output) work=$2 ;;
        --programs) programs=$(realpath "$2") ;;
      esac
      shift
      ;;
    -h | --help)
      sed -n '3,23s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) fail "unknown argument '$1' (see --help)" ;;
  esac
  shift
done
for file in "$arms" "$config"; do [ -f "$file" ] || fail "$file: no such file"; done
for value in "$seeds" "$steps" "$evaluations" "$length"; do
  [[ $value =~ ^[1-9][0-9]*$ ]] ||
    fail '--seeds, --steps, --evaluations and --length are positive numbers'
done
given=0
[ -z "$model" ] || given=$((given + 1))
[ ${#train[@]} -eq 0 ] || given=$((given + 1))
[ ${#held_out[@]} -eq 0 ] || given=$((given + 1))
[ $given -eq 0 ] || [ $given -eq 3 ] || fail '--model, --train and --held-out belong together'
if $fresh; then rm -rf "$work"; fi

# ---- stages -------------------------------------------------------------------------------------

stage_texts() {
  local given=()
  [ -z "$programs" ] || given=(--programs "$programs")
  launch/demo.sh "${given[@]}" --until shards
}

# A part of each domain is enough to measure a loss on, several times in every run.
stage_held_out() {
  mkdir -p "$work/shards"
  local domain
  for domain in scripture dictionary manual code; do
    moe-data cut --input "demo/shards/$domain-held-out.h5" --shard-tokens 6000 \
      --output "$work/shards/$domain.h5" --force
  done
}

stage_dense_model() {
  moe-train --config configs/study/dense.yaml --resume auto --set run.folder="$work/dense-run"
  moe-checkpoint export "$work/dense-run" --format llama --output "$work/dense-model" --force
}

# sources FILE...: the value of data.train and data.held_out, an entry for each domain.
sources() {
  local file domain entries=''
  local -A files=()
  for file in "$@"; do
    domain=$(moe-data inspect "$file" --json | sed -n 's/.*"domain":"\([^"]*\)".*/\1/p')
    files[$domain]+="${files[$domain]:+, }$file"
  done
  for domain in $(printf '%s\n' "${!files[@]}" | sort); do
    entries+="{domain: $domain, files: [${files[$domain]}]}, "
  done
  echo "[${entries%, }]"
}

# run_arm NAME SEED OPTION... [-- KEY=VALUE...]: one split and its training, for which MODEL in a value
# is the dense model. What was left half done is made again.
run_arm() {
  local seed=$2 folder=$work/runs/$1/seed-$2 start=$model options=() settings=()
  shift 2
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  for setting in "${@:2}"; do settings+=(--set "${setting//MODEL/$model}"); done
  rm -rf "$folder"
  mkdir -p "$folder"
  if [ "${options[0]}" != - ]; then
    moe-split --input "$model" --output "$folder/split" --format native --seed "$seed" \
      --calibration "${train[@]}" --calibration-tokens "$calibration_tokens" \
      --calibration-length "$length" "${options[@]}"
    start=$folder/split
  fi
  moe-eval loss --model "$start" --data "${held_out[@]}" --length "$length" --json \
    > "$folder/before.json"
  moe-train --config "$config" --init-from "$start" --set run.folder="$folder/run" \
    --set run.seed="$seed" --set data.sequence_length="$length" \
    --set batch.global=$((2048 / length > 0 ? 2048 / length : 1)) \
    --set train.steps="$steps" --set train.eval_every=$((steps < evaluations ? 1 : steps / evaluations)) \
    --set data.train="$(sources "${train[@]}")" --set data.held_out="$(sources "${held_out[@]}")" \
    "${settings[@]}"
  rm -rf "$folder/run/checkpoints" "$folder/split/"*.safetensors
}

stage_report() {
  moe-report study "$work/runs" --model "$model" --output "$work/study.md" --pictures "$work" "${gap[@]}"
}

# ---- running them -------------------------------------------------------------------------------

mapfile -t lines < <(grep -v '^[[:space:]]*\(#\|$\)' "$arms")
stages=$((2 + ${#lines[@]} * seeds))
[ -n "$programs" ] || stages=$((stages + 1))
[ -n "$model" ] || stages=$((stages + 3))
build_programs
if [ -z "$model" ]; then
  stage texts 'texts and their token shards'
  stage held_out 'a part of the held-out ones'
  stage dense_model 'dense model'
  model=$work/dense-model
  train=(demo/shards/{scripture,dictionary,manual,code}.h5)
  held_out=("$work"/shards/*-00000.h5)
fi
mkdir -p "$work/runs"
cp "$arms" "$work/runs/arms.txt"
for ((seed = 1; seed <= seeds; seed++)); do
  for line in "${lines[@]}"; do
    read -ra words <<< "$line"
    [ ${#words[@]} -ge 3 ] || fail "$arms: '$line' is no line of GROUPS NAME OPTIONS [-- SETTINGS]"
    id=${words[1]}_seed_$seed
    eval "stage_$id() { run_arm \"\${words[1]}\" \"\$seed\" \"\${words[@]:2}\"; }"
    stage "$id" "${words[1]}, seed $seed"
  done
done
rm -f "$work/done/report"
stage report 'table and pictures'
cat "$work/study.md"
