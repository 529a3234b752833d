#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Kills ranks of a small training job without warning, at random moments, again and again, while it
# saves checkpoints behind the training. Each time --resume auto must go on, and the end must be the
# undisturbed run's to the bit, with no process left and nothing that hangs.
# Usage: kill_anytime.sh BUILD_FOLDER [KILLS, default 100] [SEED] [RANKS, default 2]
set -u
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

awk 'BEGIN {
  srand(1)
  for (d = 0; d < 300; d++) {
    line = "1"
    for (i = 0; i < 40; i++) line = line "," 2 + int(rand() * 60)
    print "{\"input_ids\":[" line "]}"
  }
}' > ids.jsonl
moe-data build --tokenized ids.jsonl --vocab-size 64 --domain numbers --output train.h5 \
  > last.log 2>&1 || fail 'no shard'
cat > run.yaml << YAML
run: {folder: straight, threads: 1, log_every: 1000000}
model: {vocab_size: 64, hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, max_positions: 32, experts: 4}
data: {sequence_length: 16, train: [{domain: numbers, files: [train.h5]}]}
batch: {global: 4, micro: 1}
parallel: {expert: 2, zero: true, watchdog_seconds: 60}
train: {steps: STEPS, checkpoint_every: 2, keep_last: 2, keep_every: 100}
optimizer: {learning_rate: 0.01}
YAML
# As many steps as the kills need: a run comes some ten steps further between two of them.
steps=$((kills * 12 + 20))
sed -i "s/STEPS/$steps/" run.yaml

run() { # FOLDER RESUME
  timeout -k 5 300 mpirun -n "$ranks" --oversubscribe --bind-to none "./$program" --config run.yaml \
    --set run.folder="$1" --resume "$2" > last.log 2>&1
}

now() { date +%s%N; }
newest() { ls disturbed/checkpoints 2> /dev/null | grep '^step-' | tail -1; }

begun=$(now)
run straight none || fail 'the undisturbed run failed'
straight_ms=$((($(now) - begun) / 1000000))

done_kills=0 finished=0 lost=0
while [ "$done_kills" -lt "$kills" ]; do
  before=$(newest)
  run disturbed auto &
  job=$!
  # Anywhere between the start and some dozen steps after it.
  span=$((straight_ms * 14 / steps))
  sleep "$(awk "BEGIN { print 0.001 * ($RANDOM % 400) }")"
  while [ -z "$(ours)" ] && kill -0 $job 2> /dev/null; do sleep 0.02; done
  # Half of the time from its start, half from when it trains.
  if [ $((RANDOM % 4)) -gt 0 ]; then
    until grep -q 'a step (' last.log || ! kill -0 $job 2> /dev/null; do sleep 0.02; done
  fi
  sleep "$(awk "BEGIN { print 0.001 * ($RANDOM % ($span + 1)) }")"
  victims=($(ours))
  if [ ${#victims[@]} -eq 0 ]; then
    wait $job && { finished=1; break; }
    fail 'the job ended by itself'
  fi
  if [ $((RANDOM % 4)) -eq 0 ]; then
    kill -9 "${victims[@]}" 2> /dev/null
  else
    kill -9 "${victims[RANDOM % ${#victims[@]}]}" 2> /dev/null
  fi
  began_to_wait=$SECONDS
  if wait $job; then
    finished=1
    break
  fi
  [ $((SECONDS - began_to_wait)) -lt 30 ] || fail "the job outlived its rank by $((SECONDS - began_to_wait)) s"
  [ -z "$(ours)" ] || { sleep 2; [ -z "$(ours)" ] || fail "processes are left: $(ours)"; }
  done_kills=$((done_kills + 1))
  after=$(newest)
  [ -z "$before" ] || [ ! "$after" \< "$before" ] || fail "lost $before, only $after is there"
  [ "$before" != "$after" ] || lost=$((lost + 1))
  if [ -n "$after" ]; then
    moe-checkpoint verify "disturbed/checkpoints/$after" > last.verify 2>&1 \
      || fail "kill $done_kills: $(cat last.verify)"
  fi
done
[ $finished = 1 ] || run disturbed auto || fail 'the last part failed'
moe-checkpoint diff straight disturbed || fail 'the weights differ'
[ "$(sed -n 's/^{"step":\([0-9]*\),.*/\1/p' disturbed/metrics.jsonl)" = "$(seq "$steps")" ] \
  || fail 'metrics.jsonl does not hold every step once'
diff <(ls straight/checkpoints) <(ls -A disturbed/checkpoints) > /dev/null \
  || fail "other checkpoints stayed: $(ls -A disturbed/checkpoints)"
[ -z "$(ours)" ] || fail "processes are left: $(ours)"
echo "all good: $done_kills kills ($lost before a new checkpoint), $steps steps, equal to the bit"
