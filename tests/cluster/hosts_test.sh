#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ranks on two hosts that stop, die or lose each other: the job ends by itself on both hosts, says
# why, and leaves no process behind. Hosts are network namespaces (hosts.sh).
# Usage: hosts_test.sh BUILD_FOLDER
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(realpath "$here/../..")
source "$here/../support/small_run.sh"
source "$here/hosts.sh"
hosts_or_skip
export PATH="$(realpath "$1"):$PATH" OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'hosts_down; rm -rf "$work"' EXIT
cd "$work" || exit 1
hosts_up "$work" || fail 'no hosts'
small_run || fail 'no data'
limit=5  # parallel.watchdog_seconds of run.yaml

# start: a long run with one rank on each host, under way.
start() {
  rm -rf run
  on 1 "$root/launch/mpi.sh" hosts --config run.yaml --set train.steps=1000000 \
    --set train.checkpoint_every=0 > job.log 2>&1 &
  job=$!
  for _ in $(seq 200); do
    [ "$(wc -l 2> /dev/null < run/metrics.jsonl)" -gt 20 ] 2> /dev/null && break
    sleep 0.1
  done
  sleep 1  # the watchdog hears from both where they are
  [ -n "$(pids 1 moe-train)" ] && [ -n "$(pids 2 moe-train)" ] || { cat job.log; fail 'no ranks'; }
}

# ended WHAT PATTERN: within the limit + 10 s, with a message, on both hosts.
ended() {
  local began=$SECONDS took left
  while kill -0 "$job" 2> /dev/null && [ $((SECONDS - began)) -lt 60 ]; do sleep 0.2; done
  took=$((SECONDS - began))
  while [ -n "$(ip netns pids "${host_of[1]}")$(ip netns pids "${host_of[2]}")" ] &&
    [ $((SECONDS - began)) -le $((limit + 10)) ]; do sleep 0.2; done
  left=$(for i in 1 2; do for p in $(ip netns pids "${host_of[i]}"); do
    echo "host $i: $p $(tr '\0' ' ' < "/proc/$p/cmdline")"; done; done)
  echo "$1: the job ended after $took s, all its processes after $((SECONDS - began)) s"
  [ "$took" -le $((limit + 10)) ] || { cat job.log; fail "$1: the job took $took s"; }
  [ -z "$left" ] || { cat job.log; fail "$1: left behind: $left"; }
  wait "$job" && fail "$1: the job reports success"
  has "$2" job.log
}

start
kill -STOP "$(pids 2 moe-train)"
ended 'a stopped rank' '^watchdog: rank 1 is late$'
has '^  rank 1: step [0-9]+, .*; silent for [0-9]+ s: its process is stopped or gone' job.log
has '^  rank 0 has waited [0-9]+ s for [a-z_]+ of [0-9]+ bytes \(step [0-9]+, ' job.log

start
kill -STOP "$(pids 1 moe-train)"
ended 'the first rank stopped' '^rank 1: watchdog: rank 0 has been silent for'

start
kill -KILL "$(pids 2 moe-train)"
ended 'a killed rank' 'signal 9'

start
kill -KILL "$(pids 2 orted)"
ended 'a killed daemon' 'ORTE has lost communication|lost connection'

start
ip -n "${host_of[2]}" link set eth0 down
ended 'a link down' '^watchdog: rank 1 is late$'
has 'rank 1: watchdog: rank 0 has been silent|silent for' job.log

echo 'all good'
