#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# moe-train on a terminal (made by script): a view that is redrawn, messages whole above it, nothing
# of it where the output is piped, the terminal is dumb, or plain lines are asked for.
# Usage: live_view_test.sh BUILD_FOLDER
set -u
source "$(dirname "${BASH_SOURCE[0]}")/../support/small_run.sh"
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
export TERM=xterm LC_ALL=C.UTF-8
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

small_run || exit 1
train="moe-train --config run.yaml --set parallel.expert=1 --set run.overwrite=true"
up=$'\033\\[[0-9]+A'

script -qec "$train --inject nan:rank=0,step=30" /dev/null < /dev/null > live || { cat live; fail "on a terminal"; }
has "$up" live
has 'step 60/60 \[#+\] 100%' live
# What erases the view, one whole message, the view again.
has $'warning: step 30 is skipped: .*gradient norm -?nan\\)\r?$' live
grep -Eq "^step 1/60 \|" live && fail "plain lines beside the view"
[ "$(tail -c 1 live)" = "" ] || fail "the cursor is not on a row of its own"

for plain in "$train --progress plain" "env TERM=dumb $train"; do
  script -qec "$plain" /dev/null < /dev/null > plain || { cat plain; fail "$plain"; }
  has '^step 50/60 \|' plain
  grep -q $'\033\\[' plain && fail "$plain: redraws"
done
$train > piped 2>&1 || { cat piped; fail "piped"; }
has '^step 50/60 \|' piped
grep -q $'\033\\[' piped && fail "piped: redraws"

# Killed at any moment, it leaves the cursor below the view.
script -qec "$train --inject dead:rank=0,step=50" /dev/null < /dev/null > killed &&
  fail "the drill killed nothing"
has "$up" killed
[ "$(tail -c 1 killed)" = "" ] || fail "killed: the cursor is not on a row of its own"
moe-train --config run.yaml --progress nice > log 2>&1
[ $? -eq 2 ] || fail "--progress nice"
echo passed
