#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The recipe of LLaMA-MoE at a size that two cores do in minutes: raw SlimPajama lines to shards of
# each domain, a dense LLaMA to 8 experts of which a token takes 2, three runs (experts with the
# static mixture, experts with a dynamic one, the dense model trained on), a report of all three, and
# an exported model folder. docs/recipe.md has the same way at full size.
#
#   launch/recipe_small.sh [--raw FILE... | --sample FOLDER] [--model FOLDER] [--steps N] [--fresh]
#                          [--programs FOLDER]
#
# --raw: jsonl (.gz, .zst) lines in SlimPajama's form, of some of its seven sets or all. --sample: a
# folder of RedPajama's sample sets, as LLM-Shearing ships them: arxiv, book, c4-rp, cc, github,
# stackexchange, wiki. Without either: the texts of launch/demo.sh, as four of the sets.
# --model: a Hugging Face LLaMA with its tokenizer; default: the dense model of launch/demo.sh, which
# is made first. --steps: of each run, default 300. Everything lands in recipe_small/; stages that are
# finished are kept by the next call; --fresh starts anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/stages.sh

work=recipe_small
programs=
model=
steps=300
raw=()
sample=

fail() {
  echo "recipe_small.sh: $*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --fresh) rm -rf "$work" ;;
    --raw)
      while [ $# -gt 1 ] && [[ $2 != --* ]]; do
        raw+=("$(realpath "$2")")
        shift
      done
      [ ${#raw[@]} -gt 0 ] || fail '--raw needs files'
      ;;
    --sample | --model | --steps | --programs)
      [ $# -gt 1 ] || fail "$1 needs a value"
      case $1 in
        --sample) sample=$(realpath "$2") ;;
        --model) model=$(realpath "$2") ;;
        --steps) steps=$2 ;;
        --programs) programs=$(realpath "$2") ;;
      esac
      shift
      ;;
    -h | --help)
      sed -n '3,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *) fail "unknown argument '$1' (see --help)" ;;
  esac
  shift
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpi=(mpirun -n 2 --oversubscribe --bind-to none)

# ---- stages -------------------------------------------------------------------------------------

# as_set SET FILE...: the texts of jsonl files as lines of a raw SlimPajama file.
as_set() {
  perl -MJSON::PP -e '
    my $set = shift;
    while (<>) {
      my $line = decode_json($_);
      print encode_json({text => $line->{text}, meta => {redpajama_set_name => $set}}), "\n";
    }' "$@"
}

stage_dense() {
  local fresh=()
  [ -z "$programs" ] || fresh=(--programs "$programs")
  launch/demo.sh "${fresh[@]}" --until dense
}

stage_raw() {
  mkdir -p "$work/raw"
  if [ -n "$sample" ]; then
    while read -r folder set; do
      as_set "$set" "$sample/$folder"/*.jsonl
    done << 'SETS'
arxiv RedPajamaArXiv
book RedPajamaBook
c4-rp RedPajamaC4
cc RedPajamaCommonCrawl
github RedPajamaGithub
stackexchange RedPajamaStackExchange
wiki RedPajamaWikipedia
SETS
  else
    as_set RedPajamaBook demo/corpus/scripture.jsonl
    as_set RedPajamaWikipedia demo/corpus/dictionary.jsonl
    as_set RedPajamaStackExchange demo/corpus/manual.jsonl
    as_set RedPajamaGithub demo/corpus/code.jsonl
  fi > "$work/raw/all.jsonl"
}

# Long texts are cut so that each domain has something to hold out.
stage_data() {
  moe-data build --raw "${raw[@]}" --tokenizer "$model" --bos --cut-documents 1024 \
    --held-out 0.06 --output "$work/data" --force
  moe-data verify "$work"/data/*.h5
}

stage_split() {
  moe-split --input "$model" --output "$work/models/split" --experts 8 --top-k 2 --method random \
    --gate mlp --scale 4 --seed 42 --format llama-moe --force
}

# domains_in_use: of the configuration's domains, those that the raw data had.
domains_in_use() {
  sed -n 's/.*domain: \([a-z0-9_]*\),.*weight.*/\1/p' configs/recipe_small.yaml |
    while read -r domain; do
      [ ! -e "$work/data/$domain.h5" ] || echo "$domain"
    done
}

# mixture [FILE]: settings of data.train and data.held_out for those domains, with the reference
# losses that a file of "domain loss" lines gives.
mixture() {
  local train='' held_out='' domain weight reference
  for domain in $(domains_in_use); do
    weight=$(sed -n "s/.*domain: $domain,.*weight: \([0-9.]*\).*/\1/p" configs/recipe_small.yaml)
    reference=
    [ $# -eq 0 ] || reference=", reference_loss: $(awk -v d="$domain" '$1 == d { print $2 }' "$1")"
    train+="{domain: $domain, files: [$work/data/$domain.h5], weight: $weight, max_epochs: 4"
    train+="$reference}, "
    held_out+="{domain: $domain, files: [$work/data/$domain-held-out.h5]}, "
  done
  settings=(--set "data.train=[${train%, }]" --set "data.held_out=[${held_out%, }]")
}

train() {
  "${mpi[@]}" moe-train --config configs/recipe_small.yaml --resume auto \
    --set "train.steps=$steps" "${settings[@]}" "$@"
}

stage_dense_longer() {
  mixture
  train --set run.folder="$work/runs/dense" --set model.init_from="$model" --set parallel.expert=1
}

stage_static() {
  mixture
  train
}

# What the dense model came to is what the experts are to reach in each domain.
stage_dynamic() {
  tail -n 1 "$work/runs/dense/metrics.jsonl" | perl -MJSON::PP -e '
    my $losses = decode_json(<STDIN>)->{held_out_loss};
    print "$_ $losses->{$_}\n" for sort keys %$losses;' > "$work/reference.txt"
  mixture "$work/reference.txt"
  train --set run.folder="$work/runs/dynamic" --set data.mixture.dynamic=true \
    --set data.mixture.smoothing=1e-4
}

stage_export() {
  moe-checkpoint verify "$work/runs/static"
  moe-checkpoint export "$work/runs/static" --format llama-moe --output "$work/exported" --force
}

stage_losses() {
  local name shards=()
  for name in $(domains_in_use); do shards+=("$work/data/$name-held-out.h5"); done
  mkdir -p "$work/losses"
  local -A models=([dense]=$model [split]=$work/models/split [exported]=$work/exported
    [dynamic]=$work/runs/dynamic [longer]=$work/runs/dense)
  for name in "${!models[@]}"; do
    moe-eval loss --model "${models[$name]}" --data "${shards[@]}" --length 256 --json \
      > "$work/losses/$name.json"
  done
}

stage_report() {
  moe-report "$work"/runs/{static,dynamic,dense} --output "$work/report.html" \
    --title 'The recipe, small: experts with a static and a dynamic mixture, and the dense model'
}

# loss_of DOMAIN MODEL: domain `all` is the loss over all tokens.
loss_of() {
  perl -MJSON::PP -e '
    my ($domain, $file) = @ARGV;
    open my $in, "<", $file or die;
    my $losses = decode_json(<$in>);
    printf "%14.4f", ($domain eq "all" ? $losses : $losses->{domains}{$domain})->{loss};
  ' "$1" "$work/losses/$2.json"
}

# ---- running them -------------------------------------------------------------------------------

stages=9
[ -n "$programs" ] || stages=$((stages + 1))
[ ${#raw[@]} -gt 0 ] || stages=$((stages + 1))
needs_demo=false
if [ -z "$model" ] || { [ ${#raw[@]} -eq 0 ] && [ -z "$sample" ]; }; then
  needs_demo=true
  stages=$((stages + 1))
fi
build_programs
if $needs_demo; then
  stage dense "the demo's dense model and texts"
  model=${model:-$PWD/demo/models/dense}
fi
if [ ${#raw[@]} -eq 0 ]; then
  stage raw 'raw lines in the form of SlimPajama'
  raw=("$work/raw/all.jsonl")
fi
stage data 'shards of each domain, a held-out part each'
stage split 'split: 8 experts, 2 a token, at random'
stage dense_longer "dense model, trained on: $steps steps"
stage static 'experts, static mixture'
stage dynamic 'experts, mixture that follows the losses'
stage export 'export of the trained experts'
stage losses 'held-out losses'
stage report 'report'

printf '\nheld-out loss, nats a token\n%-14s%14s%14s%14s%14s%14s\n' '' dense split \
  'experts' 'experts,' 'dense,'
printf '%-14s%14s%14s%14s%14s%14s\n' '' '' '' 'static' 'dynamic' 'trained on'
for domain in $(domains_in_use) all; do
  printf '%-14s' "$domain"
  for name in dense split exported dynamic longer; do loss_of "$domain" "$name"; done
  echo
done
printf '\nreport: %s   exported model: %s   runs: %s\n' "$work/report.html" "$work/exported" \
  "$work/runs"
