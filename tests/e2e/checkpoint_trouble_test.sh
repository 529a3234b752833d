#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the disk does to a run, as a user meets it: a full disk, a folder that cannot be written, a
# damaged newest checkpoint, a data shard that is gone; and checkpoints written again in more files.
# Usage: checkpoint_trouble_test.sh BUILD_FOLDER
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'umount "$work"/full/checkpoints "$work"/read-only/checkpoints 2> /dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
  echo "FAILED: $*"
  [ -e last.log ] && tail -30 last.log
  exit 1
}

small_run || fail 'no data'
sed -i -e 's/layers: 2/layers: 1/' \
  -e 's/^train:.*/train: {steps: 20, checkpoint_every: 5, keep_last: 3}/' run.yaml

# train CODE ARGUMENTS...: the exit code it must end with
train() {
  local expected=$1
  shift
  mpirun -n 2 --oversubscribe --bind-to none moe-train --config run.yaml "$@" > last.log 2>&1
  local code=$?
  [ $code -eq "$expected" ] || fail "exit code $code, not $expected: $*"
}
said() { grep -qE "$1" last.log || fail "no word of: $1"; }

train 0 --set run.folder=straight
moe-checkpoint verify straight > last.log || fail 'the straight run'

# A damaged newest checkpoint: named, put aside, and the one before taken.
for file in rank-00001.h5 state.json manifest.json; do
  rm -rf damaged
  cp -r straight damaged
  printf 'X' | dd of=damaged/checkpoints/step-00000020/$file bs=1 seek=200 conv=notrunc 2> /dev/null
  train 0 --set run.folder=damaged --resume auto
  said "warning: checkpoint .*step-00000020 is damaged and is not used: .*step-00000020/$file: "
  said 'resuming damaged/checkpoints/step-00000015 after step 15'
  moe-checkpoint diff straight damaged > last.log || fail "$file: other weights"
  [ -e damaged/checkpoints/abandoned-step-00000020 ] || fail "$file: nothing put aside"
done
for step in 10 15 20; do printf 'X' | dd of=damaged/checkpoints/step-000000$step/state.json bs=1 seek=9 \
  conv=notrunc 2> /dev/null; done
cp damaged/metrics.jsonl before.jsonl
train 2 --set run.folder=damaged --resume auto
said 'no checkpoint here is whole'
cmp -s before.jsonl damaged/metrics.jsonl || fail 'the refused run changed something'
train 2 --set run.folder=damaged --resume damaged/checkpoints/step-00000015
said 'step-00000015/state.json: its checksum differs'

# A shard that is gone is named before anything is written.
train 2 --set 'data.train.0.files=[gone.h5]' --set run.folder=new
said 'gone.h5'
[ ! -e new ] || fail 'a folder was made'
train 2 --set 'data.train.0.files=[gone.h5]' --set run.folder=straight --resume auto
said 'gone.h5'

# The same in other files, on any machine: the same checkpoint, and a run goes on from it.
moe-checkpoint reshard straight/checkpoints/step-00000010 --output five --files 5 > last.log 2>&1 \
  || fail reshard
[ "$(ls five | grep -c rank-)" = 5 ] || fail "$(ls five)"
moe-checkpoint diff five straight/checkpoints/step-00000010 > last.log || fail 'resharded: differs'
moe-checkpoint reshard straight --output five --files 2 > last.log 2>&1
[ $? -eq 2 ] && grep -q -- --force last.log || fail 'resharded over a checkpoint'
train 0 --set run.folder=from-five --resume five
moe-checkpoint diff from-five straight > last.log || fail 'from resharded: other weights'

# Full disks and read-only folders need mounts.
mkdir -p full/checkpoints read-only/checkpoints
if ! mount -t tmpfs -o size=500k tmpfs full/checkpoints 2> last.log; then
  echo 'all good; the full disk and the read-only folder were not tried: no right to mount'
  exit 0
fi
# Room for one checkpoint and not for two: the saves fail, training goes on.
train 1 --set run.folder=full --set train.keep_last=100 --resume auto
said 'warning: checkpoint full/checkpoints/step-000000(10|15) was not saved: .*No space left on device.*training goes on'
said 'error: checkpoint full/checkpoints/step-00000020 was not saved: .*No space left on device'
[ "$(wc -l < full/metrics.jsonl)" = 20 ] || fail 'training did not go on'
grep -q '"checkpoint":{"step":1[05],"saved":false,.*No space left' full/metrics.jsonl || fail 'no metrics of it'
ls -A full/checkpoints | grep -q '^\.' && fail "left: $(ls -A full/checkpoints)"
moe-checkpoint verify full > last.log 2>&1 || fail 'the earlier checkpoint'
mount -o remount,size=100M full/checkpoints
train 0 --set run.folder=full --resume auto
moe-checkpoint diff full straight > last.log || fail 'after the full disk: other weights'

mount -t tmpfs -o size=100M tmpfs read-only/checkpoints
train 0 --set run.folder=read-only --set train.steps=10 --set schedule.kind=constant
mount -o remount,ro read-only/checkpoints
train 1 --set run.folder=read-only --set schedule.kind=constant --resume auto
said 'warning: checkpoint read-only/checkpoints/step-00000015 was not saved: .*Read-only file system'
said 'error: checkpoint read-only/checkpoints/step-00000020 was not saved: .*Read-only file system'
moe-checkpoint verify read-only > last.log 2>&1 || fail 'the checkpoint of the read-only folder'
echo 'all good'
