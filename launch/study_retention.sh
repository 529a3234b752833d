#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The study of retention: what dense models lose when their feed-forward is split, by every arm of
# moe-split arms, and how fast training gets it back.
#
#   launch/study_retention.sh [--models LIST] [--recovery LIST] [--seeds N] [--steps N]
#                             [--calibration-tokens N] [--test-tokens N] [--output FOLDER]
#                             [--fresh] [--programs FOLDER]
#
# --models: of launch/study_models.sh, default demo,tinystories-656k,stories260k,smollm2-135m. Each is
# split as the lines of configs/study/retention_grid.txt say, with calibration, validation and test
# documents that are not the same (MOE_REALDATA names the folder that has the texts). --recovery:
# models that are trained on, default demo (or none), by configs/study/retention_arms.txt, --steps of
# 2048 tokens, default 120. --seeds: default 3. --calibration-tokens: default 16384; --test-tokens: of
# each kind of text, at most, default 20000. QUICK=1: one seed, 40 steps, one size of each model.
#
# Everything lands in retention/ or --output: MODEL/ (model and texts), arms/MODEL-NAME.json (what
# moe-split arms measured), recovery/MODEL/ (launch/study.sh's folder). What is there is kept by the
# next call; --fresh starts the arms and the recovery anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/stages.sh

work=retention
programs=
models=demo,tinystories-656k,stories260k,smollm2-135m
recovery=demo
seeds=3 steps=120 calibration_tokens=16384 test_tokens=20000
grid=configs/study/retention_grid.txt
only=''
[ -z "${QUICK:-}" ] || seeds=1 steps=40 only='half-(16|43)'
fresh=false

fail() {
  echo "study_retention.sh: $*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --fresh) fresh=true ;;
    --models | --recovery | --seeds | --steps | --calibration-tokens | --test-tokens | --output | \
      --programs)
      [ $# -gt 1 ] || fail "$1 needs a value"
      case $1 in
        --models) models=$2 ;;
        --recovery) recovery=$2 ;;
        --seeds) seeds=$2 ;;
        --steps) steps=$2 ;;
        --calibration-tokens) calibration_tokens=$2 ;;
        --test-tokens) test_tokens=$2 ;;
        --output) work=$2 ;;
        --programs) programs=$(realpath "$2") ;;
      esac
      shift
      ;;
    -h | --help)
      sed -n '3,22s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) fail "unknown argument '$1' (see --help)" ;;
  esac
  shift
done
for value in "$seeds" "$steps" "$calibration_tokens" "$test_tokens"; do
  [[ $value =~ ^[1-9][0-9]*$ ]] ||
    fail '--seeds, --steps, --calibration-tokens and --test-tokens are positive numbers'
done
[ "$recovery" != none ] || recovery=''
IFS=, read -ra models <<< "$models"
IFS=, read -ra recovery <<< "$recovery"
for model in "${models[@]}" "${recovery[@]}"; do
  [[ $model =~ ^(demo|tinystories-656k|stories260k|smollm2-135m)$ ]] || fail "'$model' is no model"
done
for model in "${recovery[@]}"; do
  [[ " ${models[*]} " == *" $model "* ]] || fail "--recovery $model is none of --models"
  grep -q "^$model half-16 " "$grid" || fail "$grid has no half-16 of $model, whose null is the gap"
done
if $fresh; then rm -rf "$work/arms" "$work/recovery" "$work"/done/{arms,recovery}*; fi

# ---- stages -------------------------------------------------------------------------------------

# The documents of a test, about --test-tokens of them, as FOLDER/short/NAME.h5.
shorten() {
  local folder=$1 shard name
  mkdir -p "$folder/short"
  for shard in "$folder"/test.h5 "$folder"/other/*.h5; do
    name=$(basename "$shard" .h5)
    moe-data cut --input "$shard" --shard-tokens "$test_tokens" --output "$folder/short/part.h5" \
      --force
    moe-data merge --input "$folder/short/part-00000.h5" --output "$folder/short/$name.h5" --force
    rm "$folder"/short/part-*
  done
}

make_model() {
  launch/study_models.sh "$1" "$work/$1" --programs "$programs"
  shorten "$work/$1"
}

# run_arms MODEL NAME OPTION...: all arms at one size, the test text first.
run_arms() {
  local model=$work/$1 output=$work/arms/$1-$2.json tests shard
  shift 2
  tests=("test=$model/short/test.h5")
  for shard in "$model"/other/*.h5; do
    shard=$(basename "$shard" .h5)
    tests+=("$shard=$model/short/$shard.h5")
  done
  mkdir -p "$work/arms"
  # shellcheck disable=SC2046  # one seed an argument
  moe-split arms --input "$model/model" "$@" --calibration "$model/calibration.h5" \
    --calibration-tokens "$calibration_tokens" --validation "$model/validation.h5" \
    --test "${tests[@]}" --seeds $(seq 42 $((41 + seeds))) --output "$output"
}

# added FILE ARM: what an arm adds to the loss on the first test.
added() {
  awk -v name="\"name\": \"$2\"," 'index($0, name) { found = 1 }
       found && /"added": / { gsub(/[^-+.0-9e]/, "", $2); print $2; exit }' "$1"
}

# A run trains on the calibration text; the gap to close is what the null adds at this size. The
# demo's model hardly needs half of its feed-forward, so its null adds nothing to close: there the gap
# is what LLaMA-MoE v1's split adds.
run_recovery() {
  local model=$work/$1 null=pruned+refit
  [ "$1" != demo ] || null=v1
  launch/study.sh --programs "$programs" --model "$model/model" --train "$model/calibration.h5" \
    --held-out "$model/short/test.h5" --arms configs/study/retention_arms.txt --seeds "$seeds" \
    --steps "$steps" --calibration-tokens "$calibration_tokens" --output "$work/recovery/$1" \
    --evaluations 12 --gap "$(added "$work/arms/$1-half-16.json" "$null")"
}

# ---- running them -------------------------------------------------------------------------------

mapfile -t lines < <(grep -E "^($(IFS='|'; echo "${models[*]}")) $only" "$grid")
stages=$((1 + ${#models[@]} + ${#lines[@]} + ${#recovery[@]}))
[ -n "$programs" ] || stages=$((stages + 1))
build_programs
for model in "${models[@]}"; do
  eval "stage_model_$model() { make_model $model; }"
  stage "model_$model" "$model: the dense model, and texts"
done
for line in "${lines[@]}"; do
  read -ra words <<< "$line"
  id=arms_${words[0]}_${words[1]}
  eval "stage_$id() { run_arms \"\${words[@]}\"; }"
  stage "$id" "${words[0]}: every arm, ${words[1]}"
done
for model in "${recovery[@]}"; do
  eval "stage_recovery_$model() { run_recovery $model; }"
  stage "recovery_$model" "$model: trained on"
done
for model in "${recovery[@]}"; do cat "$work/recovery/$model/study.md"; done
