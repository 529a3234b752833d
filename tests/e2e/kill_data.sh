#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Kills moe-data without warning, at random moments, while it splits raw lines and builds shards, and
# starts it again until it is done. The end must be the undisturbed run's to the byte, and nothing
# but the result may be left. Last, the disk is full on the way.
# Usage: kill_data.sh BUILD_FOLDER [ROUNDS, default 20] [SEED]
set -u
moe_data=$(realpath "$1")/moe-data
rounds=${2:-20}
seed=${3:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
echo "rounds $rounds, seed $seed"
RANDOM=$((seed % 32768))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() { echo "FAILED (seed $seed): $1"; exit 1; }

# Raw lines of seven sets, and the same number of documents of ids, in three files each.
awk -v seed="$seed" 'BEGIN {
  srand(seed)
  split("ArXiv Book C4 CommonCrawl Github StackExchange Wikipedia", sets, " ")
  for (i = 0; i < 24000; ++i) {
    text = "document " i; ids = i
    for (w = int(rand() * 100); w > 0; --w) { x = int(rand() * 30000); text = text " w" x; ids = ids "," x }
    printf "{\"text\":\"%s\",\"meta\":{\"redpajama_set_name\":\"RedPajama%s\"}}\n", \
      text, sets[int(rand() * 7) + 1] > ("raw" int(i / 8000) ".jsonl")
    printf "{\"input_ids\":[%s]}\n", ids > ("ids" int(i / 8000) ".jsonl")
  }
}'
gzip raw1.jsonl ids1.jsonl

# Each takes the place of the shell that calls it.
split() { exec "$moe_data" split-raw --input raw0.jsonl raw1.jsonl.gz raw2.jsonl --output "$1" --file-bytes 500000 "${@:2}"; }
build() { exec "$moe_data" build --tokenized ids0.jsonl ids1.jsonl.gz ids2.jsonl --vocab-size 32000 \
  --domain d --output "$1/d.h5" --shard-tokens 200000 --held-out 0.05 --held-out-output "$1/h.h5" "${@:2}"; }

# disturbed COMMAND: like the straight run after kills.
kills=0
disturbed() {
  rm -rf out && mkdir out
  local pid
  while :; do
    ("$1" out --save-every 0 --threads $((RANDOM % 3 + 1))) > last.log 2>&1 &
    pid=$!
    sleep "$(awk "BEGIN { print 0.001 * ($RANDOM % (${2} + 1)) }")"
    kill -9 $pid 2> /dev/null && kills=$((kills + 1))
    wait $pid 2> /dev/null && break
    # The kill came when all was done.
    grep -q 'error: .*: exists; --force replaces it' last.log && break
    grep -q 'error:' last.log && { cat last.log; fail "$1 ended by itself"; }
  done
  diff -r "straight-$1" out > last.log || { cat last.log; fail "$1: other bytes"; }
}

for command in split build; do
  mkdir straight-$command
  begun=$(date +%s%N)
  ($command straight-$command) > last.log 2>&1 || { cat last.log; fail "$command failed"; }
  milliseconds=$((($(date +%s%N) - begun) / 1000000))
  [ -z "$(find straight-$command -name '.unf*' -o -name '*.unfinished')" ] || fail 'work is left'
  for ((round = 0; round < rounds; ++round)); do disturbed $command $((milliseconds * 2)); done
done

# A full disk: files can have so many KB, which is not enough.
for command in split build; do
  rm -rf out && mkdir out
  [ $command = split ] && most=100 || most=1000
  (ulimit -f $most; $command out --save-every 0) > last.log 2>&1
  code=$?
  [ $code -eq 1 ] || { cat last.log; fail "$command: exit code $code on a full disk"; }
  grep -q 'error: .*: File too large' last.log || { cat last.log; fail "$command: no clear words"; }
  grep -q 'keeps what is done' last.log || fail "$command: does not say that it can go on"
  [ -z "$(find out -name '*.jsonl.zst' -o -name '*.h5' -o -name '*.partial')" ] || fail 'half written'
  ($command out) > last.log 2>&1 || { cat last.log; fail "$command: does not go on"; }
  grep -q 'going on' last.log || fail "$command: began anew after a full disk"
  diff -r straight-$command out || fail "$command: other bytes after a full disk"
done
echo "all good: $kills kills in $((2 * rounds)) runs, each equal to the undisturbed one"
