#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, and runs the tests; ends with ctest's summary.
#
#   tests/run.sh [--preset cpu|asan|tsan|cuda] [LABEL...]
#
# LABEL: unit, emulated, mpi, e2e, slow, cluster; none given: all but cluster (which needs root and
# makes network namespaces), of the sanitizers' presets unit and emulated alone. With CI=true, which
# has little time, the label slow is left out unless it is named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=cpu
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
      sed -n '3,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
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
if command -v ccache > /dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi

launch/packages.sh build tests
cmake --preset "$preset"
cmake --build --preset "$preset" -j "$(nproc)"

filter=()
if [ ${#labels[@]} -gt 0 ]; then
  filter=(-L "^($(IFS='|'; echo "${labels[*]}"))$")
elif [ "${CI:-}" = true ]; then
  filter=(-LE '^(slow|cluster)$')
else
  filter=(-LE '^cluster$')
fi
exec ctest --preset "$preset" --no-tests=error -j "$(nproc)" "${filter[@]}"
