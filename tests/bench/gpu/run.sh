#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One table: every CUDA kernel beside its bound, the MoE layer and the training step of
# LLaMA-MoE-3.5B's shapes, and PyTorch doing the same with as many layers. Needs a GPU; without one
# it says so.
#
#   tests/bench/gpu/run.sh [BENCH_GPU [OPTION...]]   default: build/cuda/tests/bench/gpu/bench_gpu
#
# OPTION: as bench_gpu --help says.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
case ${1:-} in
  -h | --help) sed -n '3,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
bench=${1:-$here/../../../build/cuda/tests/bench/gpu/bench_gpu}
[ $# -eq 0 ] || shift
[ -x "$bench" ] || { echo "run.sh: no $bench: build the preset cuda" >&2; exit 2; }

echo "$(date -u +%Y-%m-%d), $(basename "$bench") $*"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$bench" "$@" | tee "$log"
layers=$(sed -n 's/^step .*, \([0-9]*\) layers .*/\1/p' "$log" | head -n 1)
[ -n "$layers" ] || exit 0
sequences=$(sed -n 's/.*--sequences[ =]\([0-9]*\).*/\1/p' <<< "$*")
python3 "$here/torch_bench.py" --layers "$layers" --sequences "${sequences:-1}"
