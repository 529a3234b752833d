#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# From a small dense LLaMA to a mixture of experts that answers questions, as LLaMA-MoE v2 is made and
# at a size that two cores do in minutes: 8 experts of which a token takes 2, conversations in a chat
# format, one run of two stages (words, then sums and lines of code), each stage's end exported. Ends
# with how many questions that are in no conversation each end answers as it should, word for word.
#
#   launch/instruct_small.sh [--model FOLDER] [--template NAME] [--steps N] [--fresh]
#                            [--programs FOLDER]
#
# --model: a Hugging Face LLaMA with its tokenizer; default: the dense model of launch/demo.sh, which
# is made first. --template: of configs/chat or a file like those, default plain. --steps: of each
# stage, default 300. Everything lands in instruct_small/; stages that are finished are kept by the
# next call; --fresh starts anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/stages.sh

work=instruct_small
programs=
model=
template=plain
steps=300
conversations=4000
questions=24  # that are asked of each kind

while [ $# -gt 0 ]; do
  case $1 in
    --fresh) rm -rf "$work" ;;
    --model | --template | --steps | --programs)
      [ $# -gt 1 ] || { echo "instruct_small.sh: $1 needs a value" >&2; exit 2; }
      case $1 in
        --model) model=$(realpath "$2") ;;
        --template) template=$2 ;;
        --steps) steps=$2 ;;
        --programs) programs=$(realpath "$2") ;;
      esac
      shift
      ;;
    -h | --help)
      sed -n '3,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *)
      echo "instruct_small.sh: unknown argument '$1' (see --help)" >&2
      exit 2
      ;;
  esac
  shift
done

chat=configs/chat/$template.yaml
[ -e "$chat" ] || chat=$template  # a file of your own

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpi=(mpirun -n 2 --oversubscribe --bind-to none)

# ---- stages -------------------------------------------------------------------------------------

stage_dense() {
  local known=()
  [ -z "$programs" ] || known=(--programs "$programs")
  launch/demo.sh "${known[@]}" --until dense
}

stage_split() {
  moe-split --input "$model" --output "$work/models/split" --experts 8 --top-k 2 --method random \
    --gate mlp --scale 4 --seed 42 --format llama-moe --force
}

stage_data() {
  mkdir -p "$work/conversations" "$work/shards"
  local subject
  for subject in words sums; do
    perl launch/conversations.pl "$subject" train "$conversations" \
      > "$work/conversations/$subject.jsonl"
    perl launch/conversations.pl "$subject" test "$questions" \
      > "$work/conversations/$subject-test.jsonl"
    moe-data chat --input "$work/conversations/$subject.jsonl" --template "$chat" \
      --tokenizer "$model" --domain "$subject" --output "$work/shards/$subject.h5" \
      --held-out 100 --held-out-output "$work/shards/$subject-held-out.h5" --force
  done
  moe-data verify "$work"/shards/*.h5
}

stage_train() {
  "${mpi[@]}" moe-train --config configs/instruct_small.yaml --set train.steps="$steps" \
    --resume auto
}

stage_answers() {
  local stage subject
  mkdir -p "$work/answers"
  for stage in general sums; do
    for subject in words sums; do
      moe-generate --model "$work/run/$stage/model" --chat "$chat" --batch 8 --max-tokens 40 \
        --temperature 0 --prompts "$work/conversations/$subject-test.jsonl" --json \
        > "$work/answers/$stage-$subject.jsonl"
    done
  done
}

# ---- running them -------------------------------------------------------------------------------

# of_test WHAT STAGE SUBJECT: what conversations.pl says of a stage's answers.
of_test() {
  perl launch/conversations.pl "$1" "$work/conversations/$3-test.jsonl" \
    "$work/answers/$2-$3.jsonl"
}

report() {
  local stage subject
  printf '\nright answers to questions that are in no conversation\n%-20s%12s%12s\n' '' words sums
  for stage in general sums; do
    printf '%-20s' "after stage $stage"
    for subject in words sums; do printf '%12s' "$(of_test score "$stage" "$subject")"; done
    echo
  done
  printf '\nwhat the last stage answers\n'
  for subject in words sums; do of_test show sums "$subject"; done
  printf '\n%s\n  %s\n' 'Ask it yourself:' \
    "moe-generate --model $work/run/sums/model --chat $chat --prompt 'What is 3 plus 4?'"
}

stages=5
[ -n "$programs" ] || stages=$((stages + 1))
[ -n "$model" ] || stages=$((stages + 1))
mkdir -p "$work"
build_programs
if [ -z "$model" ]; then
  stage dense 'the dense model of launch/demo.sh'
  model=$PWD/demo/models/dense
fi
stage split 'splitting it into 8 experts, top-2'
stage data 'conversations, as token shards with their answers marked'
stage train 'training in two stages, exporting the end of each'
stage answers 'asking questions that were in no conversation'
report
