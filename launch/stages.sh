# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# Sourced by scripts that do a long way in stages, each kept once it is done:
#
#   work=FOLDER; stages=N     where DONE marks and logs go, how many stages there are
#   stage NAME TEXT           runs the function stage_NAME with its output in $work/logs/NAME.log
#   values KEY FILE...        the number that each line of JSON has there
#   build_programs            builds into build/demo unless $programs is set, and sets it

number=0
stage() {
  local name=$1 begin=$SECONDS code=0
  number=$((number + 1))
  printf '[%2d/%d] %-60s' "$number" "$stages" "$2"
  mkdir -p "$work/logs" "$work/done"
  if [ -e "$work/done/$name" ]; then
    echo 'kept'
    return
  fi
  set +e
  (
    set -e
    "stage_$name"
  ) > "$work/logs/$name.log" 2>&1 < /dev/null
  code=$?
  set -e
  if [ $code -ne 0 ]; then
    printf 'FAILED\n\n%s: stage "%s" failed (exit code %d); the end of %s/logs/%s.log:\n\n' \
      "$(basename "$0")" "$name" "$code" "$work" "$name"
    tail -n 25 "$work/logs/$name.log"
    exit 1
  fi >&2
  touch "$work/done/$name"
  printf '%4d s\n' $((SECONDS - begin))
}

values() {
  local key=$1
  shift
  sed -n "s/.*\"$key\":\([-+.0-9e]*\).*/\1/p" "$@"
}

stage_packages() { launch/packages.sh build demo; }

stage_build() {
  if command -v ccache > /dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
  cmake --preset cpu -B build/demo -DMOE_TESTS=OFF -DMOE_BENCHMARKS=OFF
  cmake --build build/demo -j "$(nproc)"
}

build_programs() {
  stage packages 'installing packages that are missing'
  if [ -z "$programs" ]; then
    # Always asked for: a build that is up to date takes no time, one that is not must not be kept.
    rm -f "$work/done/build"
    stage build 'building the programs'
    programs=$PWD/build/demo
  fi
  export PATH="$programs:$PATH"
}
