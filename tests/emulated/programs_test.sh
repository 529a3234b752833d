#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The programs on an emulated device, whose memory is closed to host code: training, alone and on two
# ranks that share it, checkpoints, resume, held-out loss, evaluation and generation, beside the same
# on the CPU.
# Usage: programs_test.sh BUILD_FOLDER
set -u
source "$(dirname "${BASH_SOURCE[0]}")/../support/small_run.sh"
build=$(realpath "$1")
export PATH="$build/tests/emulated/programs:$build:$PATH"  # those on the device come first
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

check() { awk "BEGIN { exit !($1) }" || fail "$1"; }
number() { sed -n "s/.*\"$1\":\([-+.0-9e]*\).*/\1/p" "$2" | tail -n 1; }

small_run
head -n 4 ids.jsonl > few.jsonl
must moe-data build --tokenized few.jsonl --vocab-size 64 --domain numbers \
  --output held-out.h5
sed -i '/^data:/a\  held_out: [{domain: numbers, files: [held-out.h5]}]' run.yaml
settings=(--set train.steps=4 --set train.checkpoint_every=2 --set train.eval_every=4
  --set parallel.zero=true)
ranks() {
  local n=$1
  shift
  must mpirun -n "$n" --oversubscribe --bind-to none moe-train --config run.yaml "${settings[@]}" "$@"
}

ranks 2 --set run.device=cpu --set run.folder=cpu
has 'f32 on the CPU' last.log
ranks 2 --set run.device=cuda --set run.folder=device --selfcheck
has 'f32 on emulated device' last.log
has 'selfcheck: [1-9][0-9]* values and tensors' last.log
ranks 2 --set run.folder=resumed --resume device/checkpoints/step-00000002  # auto: the device
has 'f32 on emulated device' last.log
ranks 1 --set parallel.expert=1 --set run.folder=alone

# Resumed on the device: the same bits. On the CPU, and on one rank: the same but for rounding.
must moe-checkpoint diff device/checkpoints/step-00000004 resumed/checkpoints/step-00000004
for run in device alone; do
  for value in loss grad_norm; do
    check "($(number $value cpu/metrics.jsonl) / $(number $value $run/metrics.jsonl) - 1) ^ 2 < 1e-9"
  done
done

for device in cpu cuda; do
  must moe-eval loss --model device --data held-out.h5 --device $device --json
  cp last.log loss.$device
  must moe-generate --model device --prompt-ids 1,7 --max-tokens 5 --ignore-eos --json --device $device
  grep '^{' last.log > text.$device
done
check "($(number loss loss.cpu) / $(number loss loss.cuda) - 1) ^ 2 < 1e-10"
cmp text.cpu text.cuda || fail 'other text on the device'

# Without a device: asked for, it is an error; else the CPU takes its place.
PATH="$build:$PATH"
moe-train --config run.yaml --set run.device=cuda --set run.folder=none > last.log 2>&1
[ $? -eq 2 ] && has 'device cuda was asked for: ' last.log || fail "no device: $(cat last.log)"
echo 'all good'
