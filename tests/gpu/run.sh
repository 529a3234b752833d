#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# All that is checked on a GPU, as one command, on a machine that has the driver and perhaps nothing
# else: not the build's packages, not this build's path.
#
#   tests/gpu/run.sh pack FOLDER [--without-nvidia]   where the preset cuda is built: puts programs,
#                                   scripts and the shared libraries they need there
#   FOLDER/run.sh [--bench]         on the machine with the GPU: tests, compute-sanitizer where it is
#                                   found, with --bench also the table of tests/bench/gpu
#
# --without-nvidia leaves out cuBLAS, cuDNN and NCCL, which are large: they are then looked for in
# LD_LIBRARY_PATH, in /usr/local/cuda and among the packages of python3.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() { sed -n '3,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

pack() {
  local folder=${1:?"pack: no folder named"} left_out='/(ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libcuda)[-.]'
  [ "${2:-}" != --without-nvidia ] || left_out+='|/lib(cublas|cublasLt|cudnn|nccl|cudart)[._]'
  local build=$here/../../build/cuda
  mkdir -p "$folder/lib"
  cp "$build"/tests/gpu/gpu_tests "$build"/tests/gpu/gpu_training_tests \
    "$build"/tests/bench/gpu/bench_gpu "$here/../bench/gpu/torch_bench.py" \
    "$folder" 2> /dev/null || { echo "pack: build the preset cuda first" >&2; exit 2; }
  cp "$here/../bench/gpu/run.sh" "$folder/bench.sh"
  cp "$here/run.sh" "$folder/run.sh"
  ldd "$folder"/gpu_tests "$folder"/gpu_training_tests "$folder"/bench_gpu |
    awk '$3 ~ /^\// { print $3 }' | sort -u | grep -Ev "$left_out" | xargs -I{} cp -L {} "$folder/lib"
  # cuDNN opens its other parts itself.
  if [ "${2:-}" != --without-nvidia ]; then
    local cudnn
    cudnn=$(ldd "$folder/gpu_tests" | awk '/libcudnn/ { print $3; exit }')
    cp -L "$(dirname "$cudnn")"/libcudnn*.so.9 "$folder/lib"
  fi
  strip "$folder"/gpu_tests "$folder"/gpu_training_tests "$folder"/bench_gpu
  du -sh "$folder"
}

run() {
  cd "$here"
  local nvidia
  nvidia=$(python3 -c 'import glob, site
for root in site.getsitepackages(): print(*glob.glob(root + "/nvidia/*/lib"), sep=":")' \
    2> /dev/null | paste -sd : || true)
  export LD_LIBRARY_PATH=$here/lib:${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64:$nvidia
  local failed=0
  step() {
    echo "== $*"
    local code=0
    "$@" || code=$?
    [ $code -ne 77 ] || exit 77
    [ $code -eq 0 ] || failed=1
  }
  step ./gpu_tests --gtest_brief=1
  step ./gpu_training_tests --gtest_brief=1
  if [ "${1:-}" = --bench ]; then step ./bench.sh ./bench_gpu; fi
  PATH=$PATH:/usr/local/cuda/bin
  if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck synccheck; do
      step compute-sanitizer --tool "$tool" --error-exitcode 1 ./gpu_tests --gtest_brief=1
    done
    step compute-sanitizer --tool memcheck --error-exitcode 1 ./gpu_training_tests --gtest_brief=1
  else
    echo "no compute-sanitizer here"
  fi
  [ $failed -eq 0 ] && echo "all passed"
  exit $failed
}

case ${1:-} in
  pack) shift; pack "$@" ;;
  "" | --bench) run "$@" ;;
  *) usage; exit 2 ;;
esac
