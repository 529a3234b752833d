#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Jobs that go wrong must end by themselves, soon, with the right message, and leave nothing behind.
# usage: failing_jobs.sh MPIEXEC FAILING_JOB
set -u
mpiexec=$1
program=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# start JOB RANKS: runs it in the background under a name of its own.
start() {
  marker=$folder/$1.$2
  ln -sf "$(realpath "$program")" "$marker"
  timeout -k 5 60 "$mpiexec" --oversubscribe --bind-to none -n "$2" "$marker" "$1" \
    >"$folder/output" 2>&1 &
  mpirun=$!
  started=$SECONDS
}

# finish CODE SECONDS PATTERN...: how the job must have ended.
finish() {
  local code=$1 limit=$2
  shift 2
  wait "$mpirun"
  local got=$? took=$((SECONDS - started))
  echo "$(basename "$marker"): exit code $got after $took s"
  [ "$got" = "$code" ] || fail "exit code $got, expected $code"
  [ "$took" -le "$limit" ] || fail "took $took s, at most $limit expected"
  local pattern
  for pattern in "$@"; do
    grep -Eq "$pattern" "$folder/output" || fail "the output lacks '$pattern'"
  done
  if pgrep -f "$marker" >/dev/null; then
    fail "processes are left: $(pgrep -af "$marker")"
    pkill -KILL -f "$marker"
  fi
  [ "$failures" = 0 ] || sed 's/^/    /' "$folder/output"
}

start throws 3
finish 3 15 '^rank 1: the loss is not finite$'

start unwinds 2
finish 1 15 '^rank 1: ended by an exception that left the scope of its MpiWorld$'

start stops 3
finish 1 20 '^watchdog: rank 1 is late$' \
  '^  rank 1: step 5, layer 7, backward; 6 collectives started, others 7; silent for' \
  '^  rank [02] has waited [0-9]+ s for all_reduce of 400 bytes \(step 5, gradient reduction\)$'

start first_rank_stops 3
finish 1 25 '^rank [12]: watchdog: rank 0 has been silent for'

start loops 3
finish 1 20 '^watchdog: rank 1 is late$' \
  '^  rank 1: step 5, layer 3, experts; 6 collectives started, others 7$' \
  '^  rank [02] has waited [0-9]+ s for all_reduce of 400 bytes \(step 5, gradient reduction\)$' \
  '^    7: all_reduce of 400 bytes \(step 5, gradient reduction\), unfinished$'

start ends_early 3
finish 1 20 '^watchdog: all 3 ranks wait' \
  '^  rank 0: step 5, gradient reduction; waits for all_reduce of 400 bytes' \
  '^  rank 1: step 5, forward; waits for the end of the watchdog'

start leaves_without_the_rest 2
finish 1 20 '^watchdog: rank 1 is late$' '^  rank 1: step 5, writing;' 'for the end of the watchdog'

start computes 3
finish 0 25

# A job that is stopped and continued as a whole is not late.
start computes 3
for _ in $(seq 100); do
  [ "$(grep -c computing "$folder/output")" = 3 ] && break
  sleep 0.1
done
pkill -STOP -f "^$marker"
sleep 8
pkill -CONT -f "^$marker"
finish 0 35

exit $((failures > 0))
