#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Kills ranks of a small training job without warning, at random moments, again and again, while it
# saves checkpoints behind the training. Each time --resume auto must go on, and the end must be the
# undisturbed run's to the bit, with no process left and nothing that hangs.
# Usage: kill_anytime.sh BUILD_FOLDER [KILLS, default 100] [SEED] [RANKS, default 2]
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
kills=${2:-100}
seed=${3:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
ranks=${4:-2}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
echo "kills $kills, seed $seed, ranks $ranks"
RANDOM=$((seed % 32768))
work=$(mktemp -d)
trap 'kill -9 $(ours) 2> /dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1
# A name of its own, by which its processes are found.
program=moe-train-$$
cp "$(command -v moe-train)" "$program"

# The processes of this script's jobs: the program's file stays linked for as long as they live.
ours() {
  local exe
  for exe in /proc/[0-9]*/exe; do
    [ "$(readlink "$exe" 2> /dev/null)" = "$work/$program" ] && echo "$exe" | cut -d/ -f3
  done
}

fail() {
  echo "FAILED (seed $seed): $*"
  [ -e last.log ] && tail -30 last.log
  exit 1
}

small_run || fail 'no data'
# Steps of some ten milliseconds, a save at every second one.
sed -i -e 's/hidden_size: 32, intermediate_size: 64/hidden_size: 64, intermediate_size: 256/' \
  -e 's/^batch:.*/batch: {global: 16, micro: 4}/' \
  -e 's/^parallel:.*/parallel: {expert: 2, zero: true, watchdog_seconds: 60}/' \
  -e 's/^train:.*/train: {steps: 60, checkpoint_every: 2, keep_last: 2, keep_every: 20}/' run.yaml

run() { # FOLDER RESUME
  timeout -k 5 300 mpirun -n "$ranks" --oversubscribe --bind-to none "./$program" --config run.yaml \
    --set run.folder="$1" --resume "$2" > last.log 2>&1
}

newest() { ls disturbed/checkpoints 2> /dev/null | grep '^step-' | tail -1; }

# pause MILLISECONDS: at random, up to so many
pause() { sleep "$(awk "BEGIN { print 0.001 * (($RANDOM * 32768 + $RANDOM) % ($1 + 1)) }")"; }

# Kills the job at a random moment: sometimes while it starts, mostly while it trains. Fails when it
# was over before.
disturb() {
  if [ $((RANDOM % 5)) -eq 0 ]; then
    pause 1500
  else
    until grep -q ' tokens), steps ' last.log || ! kill -0 "$1" 2> /dev/null; do sleep 0.01; done
    pause "$((training_ms / 2))"
  fi
  local victims=($(ours))
  [ ${#victims[@]} -gt 0 ] || return 1
  [ $((RANDOM % 4)) -eq 0 ] || victims=("${victims[RANDOM % ${#victims[@]}]}")
  kill -9 "${victims[@]}" 2> /dev/null
}

begun=$(date +%s%N)
run straight none || fail 'the undisturbed run failed'
training_ms=$((($(date +%s%N) - begun) / 1000000))

# Runs to the end, killed on the way and resumed, until there were so many kills.
done_kills=0 runs=0
while [ "$done_kills" -lt "$kills" ]; do
  rm -rf disturbed
  runs=$((runs + 1))
  while :; do
    before=$(newest)
    : > last.log
    run disturbed auto &
    job=$!
    [ "$done_kills" -lt "$kills" ] && disturb $job && done_kills=$((done_kills + 1))
    since=$SECONDS
    wait $job && break
    [ $((SECONDS - since)) -lt 60 ] || fail "the job outlived its rank by $((SECONDS - since)) s"
    grep -qE 'error:|watchdog' last.log && fail 'the job ended by itself'
    [ -z "$(ours)" ] || sleep 3
    [ -z "$(ours)" ] || fail "processes are left: $(ours)"
    after=$(newest)
    [ ! "$after" \< "$before" ] || fail "lost $before, there is ${after:-none}"
    [ -z "$after" ] || moe-checkpoint verify "disturbed/checkpoints/$after" > last.verify 2>&1 \
      || fail "after kill $done_kills: $(cat last.verify)"
  done
  moe-checkpoint diff straight disturbed > last.verify || fail "run $runs: $(cat last.verify)"
  [ "$(sed -n 's/^{"step":\([0-9]*\),.*/\1/p' disturbed/metrics.jsonl)" = "$(seq 60)" ] \
    || fail 'metrics.jsonl does not hold every step once'
  diff <(ls -A straight/checkpoints) <(ls -A disturbed/checkpoints) > last.verify \
    || fail "other checkpoints: $(cat last.verify)"
  [ -z "$(ours)" ] || fail "processes are left: $(ours)"
done
echo "all good: $done_kills kills in $runs runs, each equal to the undisturbed one to the bit"
