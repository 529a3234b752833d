#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real model split for least loss and written as Mixtral has the same loss on held-out stories in
# our programs and in transformers' own class. Skipped (77) without MOE_REALDATA's model or where
# MOE_PYTHON (default python3) has no transformers. Usage: transformers_loss_test.sh BUILD_FOLDER
set -u
tests=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
source "$tests/../support/small_run.sh"
python=${MOE_PYTHON:-python3}
data=$(realpath -m "${MOE_REALDATA:-$tests/../../../shared/realdata}")
model=$data/models/tinystories-656k
stories=$data/corpus/tinystories/tinystories.tinystories-656k.jsonl
[ -f "$stories" ] || { echo "skipped: no real data at $data"; exit 77; }
"$python" -c 'import torch, transformers' 2> /dev/null ||
  { echo "skipped: $python has no transformers"; exit 77; }
in_copy "$tests/../.." "$1"

head -n 100 "$stories" > fit.jsonl
tail -n 40 "$stories" > held.jsonl
for part in fit held; do
  must moe-data build --tokenized $part.jsonl --vocab-size 2048 --domain stories --output $part.h5
done
must moe-split --input "$model" --output mixtral --experts 8 --top-k 4 --method joint \
  --gate logistic --weights unit --refit down+bias --format mixtral --dtype f32 \
  --calibration fit.h5 --held-out held.h5 --json
has 'flat weights' last.log
must "$python" "$tests/transformers_loss.py" mixtral held.jsonl
echo passed
