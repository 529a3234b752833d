#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs that are told to stop, that lose a rank, a disk or their numbers: each ends soon, with its exit
# code and a message, and resumes to the bits of the run that nothing happened to.
# Usage: survival_test.sh BUILD_FOLDER
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
launch=$(realpath "$here/../../launch")
source "$here/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1
small_run || fail 'no data'
limit=5  # parallel.watchdog_seconds of run.yaml

# The program under a name that no other test's processes have.
mkdir bin
ln -s "$(command -v moe-train)" "bin/train-$$"
job=("$launch/local.sh" 2 --config run.yaml)
mpi() { mpirun -n 2 --oversubscribe --bind-to none "$work/bin/train-$$" --config run.yaml "$@"; }

# ends CODE SECONDS COMMAND...: its exit code and the time it may take; output in last.log.
ends() {
  local wanted=$1 most=$2 began=$SECONDS code=0
  shift 2
  "$@" > last.log 2>&1 || code=$?
  [ "$code" = "$wanted" ] || { cat last.log; fail "exit code $code, not $wanted: $*"; }
  [ $((SECONDS - began)) -le "$most" ] || { cat last.log; fail "took $((SECONDS - began)) s: $*"; }
  ! pgrep -f "$work/bin" > /dev/null || fail "processes are left: $(pgrep -af "$work/bin")"
}

# resumes RUN: it goes on to the end, and is the straight run to the bit.
resumes() {
  ends 0 60 mpi --set run.folder="$1" --resume auto
  ends 0 60 moe-checkpoint diff straight "$1"
  [ "$(sed -n 's/^{"step":\([0-9]*\),.*/\1/p' "$1/metrics.jsonl")" = "$(seq 60)" ] ||
    fail "$1: metrics.jsonl does not hold every step once"
}

ends 0 60 mpi --set run.folder=straight

# A signal during step 30, which a drill makes long enough to meet it.
signalled() {  # RUN SIGNAL PROCESS...
  local run=$1 signal=$2 code=0
  shift 2
  "$@" --set run.folder="$run" --inject late:rank=0,step=30,seconds=2 > last.log 2>&1 &
  local started=$!
  until grep -q 'step 30 begins' last.log; do
    kill -0 $started 2> /dev/null || { cat last.log; fail 'ended before the signal'; }
    sleep 0.05
  done
  kill "-$signal" $started
  wait $started || code=$?
  [ $code = 75 ] || { cat last.log; fail "exit code $code after $signal, not 75"; }
  has 'stopped after step 30 as asked' last.log
  [ -e "$run/checkpoints/step-00000030" ] || fail "$run: nothing was saved"
  has '"phase":"interrupted"' "$run/heartbeat.json"
}
signalled usr1 USR1 mpirun -n 2 --oversubscribe --bind-to none moe-train --config run.yaml
resumes usr1
signalled term TERM "${job[@]}"
resumes term
# To one rank alone, and a second time: at once.
mpi --set run.folder=twice --inject late:rank=0,step=30,seconds=20 > last.log 2>&1 &
started=$!
until grep -q 'step 30 begins' last.log; do sleep 0.05; done
rank=$(pgrep -f "^$work/bin" | head -n 1)
kill -TERM "$rank"
sleep 0.3
kill -0 "$rank" || fail 'the first SIGTERM ended the rank'
began=$SECONDS
kill -TERM "$rank"
wait $started && fail 'a job that was killed reports success'
[ $((SECONDS - began)) -le 5 ] || fail 'the second SIGTERM was not obeyed at once'
resumes twice

ends 137 $((limit + 10)) mpi --set run.folder=dead --inject dead:rank=1,step=33
resumes dead
ends 1 $((limit + 10)) mpi --set run.folder=stopped --inject stopped:rank=1,step=33
has '^watchdog: rank 1 is late$' last.log
has '^  rank 1: step 33, stopped by a drill; .*silent for' last.log
resumes stopped
ends 1 $((limit + 12)) mpi --set run.folder=late --inject late:rank=1,step=33,seconds=60
has '^  rank 1: step 33, late by a drill;' last.log
resumes late

# A save that fails on the way is made up for by the next one; the last one must not fail.
ends 0 60 mpi --set run.folder=full --inject full-disk:rank=1,step=40
has 'warning: checkpoint full/.*step-00000040 was not saved: rank 1: .*No space left on device' last.log
[ ! -e full/checkpoints/step-00000040 ] || fail 'half a checkpoint is there'
ends 0 60 moe-checkpoint diff straight full
ends 1 60 mpi --set run.folder=failing --inject failing-disk:rank=1,step=60
has 'error: checkpoint failing/.*step-00000060 was not saved: rank 1: .*Input/output error' last.log
ends 0 60 moe-checkpoint verify failing
resumes failing

# Three bad steps, back to step 20, on with other data; then a run that nothing helps.
drill=(--set guard.max_skipped=3 --inject nan:rank=1,step=35-37)
ends 0 60 mpi --set run.folder=nan "${drill[@]}"
has 'back to step 20, on with other data \(rollback 1 of 3\)' last.log
[ "$(tail -n 1 nan/metrics.jsonl | grep -c '"skipped_steps":3,"rollbacks":1')" = 1 ] ||
  fail "not counted: $(tail -n 1 nan/metrics.jsonl)"
# The same, killed between the rollback and the next save: the same bits.
ends 137 60 mpi --set run.folder=both "${drill[@]}" --inject dead:rank=0,step=25,rollbacks=1
ends 0 60 mpi --set run.folder=both "${drill[@]}" --resume auto
ends 0 60 moe-checkpoint diff nan both
ends 1 60 moe-checkpoint diff nan straight
ends 1 60 mpi --set run.folder=lost --set guard.max_rollbacks=1 --inject nan:rank=1,step=30-60 \
  --inject nan:rank=1,step=30-60,rollbacks=1
has 'after 1 rollbacks: metrics.jsonl says why' last.log

ends 2 60 mpi --set run.folder=bad --inject dead:rank=1,stp=7
has "unknown key or a second 'stp': dead takes rank\*, step\*" last.log
ends 2 60 mpi --set run.folder=bad --inject dead:rank=2,step=7
has 'the run has 2 ranks' last.log
[ ! -e bad ] || fail 'a refused run left a folder'
echo 'all good'
