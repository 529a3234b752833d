#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real small LLaMA split 2 of 8 and trained on, against the dense model trained on with the same
# tokens. Usage: run.sh FOLDER, with the programs on PATH and MOE_REALDATA naming the folder with
# models/tinystories-656k and corpus/tinystories.
set -eu
here=$(realpath "$(dirname "$0")")
data=$(realpath "${MOE_REALDATA:?name the folder of the real data}")
mkdir -p "$1"
cd "$1"
dense=$data/models/tinystories-656k
moe-data build --tokenized "$data/corpus/tinystories/tinystories.tinystories-656k.jsonl" \
  --vocab-size 2048 --domain stories --output train.h5 --held-out 0.1 --held-out-output held-out.h5
moe-split --input "$dense" --output moe --experts 8 --top-k 2 --method random --gate mlp \
  --seed 42 --format llama-moe
for model in "$dense" moe; do
  moe-eval loss --model "$model" --data held-out.h5 --length 128
done
moe-train --config "$here/tinystories.yaml" --set run.folder=experts --init-from moe
moe-train --config "$here/tinystories.yaml" --set run.folder=dense --init-from "$dense"
