#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Which lines of kernels/cuda/*.cu the emulated tests run: builds them with gcov, runs them, prints
# the share of each file and of all; fails below 95 %.
#
#   tests/coverage.sh [--lines]      --lines: also prints the lines that nothing ran
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

show_lines=false
case ${1:-} in
  "") ;;
  --lines) show_lines=true ;;
  *) sed -n '3,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac

build=build/coverage
export OMP_WAIT_POLICY=passive
cmake --preset coverage > /dev/null
cmake --build "$build" --target emulated_tests emulated_training_tests -j "$(nproc)"
find "$build" -name '*.gcda' -delete
"$build/tests/emulated/emulated_tests" --gtest_brief=1
"$build/tests/emulated/emulated_training_tests" --gtest_brief=1

objects=$PWD/$build/tests/emulated/CMakeFiles/emulated_kernels.dir/__/__/kernels/cuda
cd "$build"
for kernels in ../../kernels/cuda/*.cu; do
  name=$(basename "$kernels")
  # One file's own lines: gcov's summary counts a line once for all types it is compiled for.
  gcov --no-output "$objects/$name.gcno" 2> /dev/null | awk -v name="$name" '
    /^File / { ours = index($0, "kernels/cuda/" name "\047") > 0 }
    ours && /^Lines executed:/ {
      match($0, /[0-9.]+%/)
      printf "%s %.0f %d\n", name, substr($0, RSTART, RLENGTH - 1) * $NF / 100, $NF
      ours = 0
    }'
  if $show_lines; then
    gcov --stdout "$objects/$name.gcno" 2> /dev/null | awk -v name="$name" '
      /:    0:Source:/ { ours = index($0, "kernels/cuda/" name) > 0 }
      ours && /^ *#####:/ { sub(/^ *#####: */, ""); if (!seen[$0]++) print "  " name ":" $0 }' >&2
  fi
done | awk '
  { printf "%-24s %5.1f %% of %4d lines\n", $1, 100 * $2 / $3, $3; run += $2; all += $3 }
  END {
    printf "%-24s %5.1f %% of %4d lines\n", "all", 100 * run / all, all
    if (run < 0.95 * all) { print "less than 95 %"; exit 1 }
  }'
