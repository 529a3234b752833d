#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, and runs the tests; ends with ctest's summary.
#
#   tests/run.sh [--preset cpu|asan|tsan|cuda] [LABEL...]
#
# LABEL: unit, emulated, mpi, e2e, slow, gpu, cluster; none given: all but cluster (which needs root
# and makes network namespaces), of the sanitizers' presets unit and emulated alone. With CI=true,
# which has little time, the label slow is left out unless it is named, benches are not built, files
# of most layers are compiled six at once (MOE_UNITY), and of the preset cuda only the layers that know
# CUDA, for one architecture, with nvcc's warnings, of registers that spill too, as errors.
#
# With neither --preset nor LABEL, and nvcc 13 on PATH or in /usr/local/cuda: then builds the preset
# cuda too, with its own tests alone; those that need a GPU skip where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=
labels=()
while [ $# -gt 0 ]; do
  case $1 in
    --preset)
      [ $# -gt 1 ] || { echo "run.sh: --preset needs a name" >&2; exit 2; }
      preset=$2
      shift
      ;;
    unit | emulated | mpi | e2e | slow | gpu | cluster) labels+=("$1") ;;
    -h | --help)
      sed -n '3,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    *)
      echo "run.sh: unknown argument '$1' (see --help)" >&2
      exit 2
      ;;
  esac
  shift
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_WAIT_POLICY=passive  # threads that spin are many times slower beside other work

launch/packages.sh build tests
if command -v ccache > /dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  export CCACHE_SLOPPINESS=pch_defines,time_macros  # for the tests' precompiled header
fi

filter=()
if [ ${#labels[@]} -gt 0 ]; then
  filter=(-L "^($(IFS='|'; echo "${labels[*]}"))$")
elif [ "${CI:-}" = true ]; then
  filter=(-LE '^(slow|cluster)$')
else
  filter=(-LE '^cluster$')
fi
# run_tests PRESET [CMAKE_OPTION...]
run_tests() {
  cmake --preset "$@"
  cmake --build --preset "$1" -j "$(nproc)"
  # One more than there are cores: two of the longest wait most of the time.
  ctest --preset "$1" --no-tests=error -j "$(($(nproc) + 1))" "${filter[@]}"
}

with_cuda=false
if [ -z "$preset" ] && [ ${#labels[@]} -eq 0 ]; then
  PATH=$PATH:/usr/local/cuda/bin
  if nvcc --version 2> /dev/null | grep -q 'release 13'; then with_cuda=true; fi
fi

options=(-DMOE_CPU_TESTS=ON)
if [ "${CI:-}" = true ]; then
  options+=(-DMOE_BENCHMARKS=OFF -DMOE_UNITY=ON)
  if $with_cuda; then
    cmake --preset cuda -DMOE_TESTS=OFF -DMOE_BENCHMARKS=OFF -DCMAKE_CUDA_ARCHITECTURES=90-real \
      '-DCMAKE_CUDA_FLAGS=-Werror=all-warnings -Xptxas=-Werror -Xcompiler=-Werror'
    cmake --build --preset cuda -j "$(nproc)" --target moe_core moe_kernels moe_hopper moe_comm
    with_cuda=false
  fi
fi
run_tests "${preset:-cpu}" "${options[@]}"
if $with_cuda; then run_tests cuda -DMOE_CPU_TESTS=OFF; fi
