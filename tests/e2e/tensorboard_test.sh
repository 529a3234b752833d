#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# TensorBoard itself reads the event files of a run that was rolled back, stopped and resumed, and
# shows the steps that metrics.jsonl has, once each. Skipped (77) where MOE_PYTHON (default python3)
# cannot import tensorboard, which Debian does not have.
# Usage: tensorboard_test.sh BUILD_FOLDER
set -u
tests=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
source "$tests/../support/small_run.sh"
python=${MOE_PYTHON:-python3}
"$python" -c 'import tensorboard' 2> /dev/null || { echo "skipped: $python has no tensorboard"; exit 77; }
export PATH="$(realpath "$1"):$PATH"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

small_run || exit 1
train() {
  moe-train --config run.yaml --set parallel.expert=1 "$@" > train.log 2>&1 ||
    { cat train.log; fail "training"; }
}
held_out='data.held_out=[{domain: numbers, files: [train.h5]}]'
train --set "$held_out" --set train.eval_every=10 --set guard.max_skipped=3 \
  --inject nan:rank=0,step=35-37 --set train.steps=50
train --set "$held_out" --set train.eval_every=10 --resume run/checkpoints/step-00000040
"$python" "$tests/tensorboard_test.py" run || fail "what TensorBoard reads"
[ "$(find run/tensorboard -name 'events*' -path '*by_tokens*' | wc -l)" = 3 ] ||
  fail "not a file for each start and rollback: $(find run/tensorboard)"

# A torn tail, as after a crash, costs the last step alone.
cp -r run torn
newest=$(find torn/tensorboard -maxdepth 1 -name 'events*' | sort | tail -n 1)
truncate -s -7 "$newest"
"$python" - << 'PYTHON' || fail "a torn tail"
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator("torn/tensorboard", size_guidance={"scalars": 0})
events.Reload()
assert [e.step for e in events.Scalars("train/loss")] == list(range(1, 60))
PYTHON
echo passed
