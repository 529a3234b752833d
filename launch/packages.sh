#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian 12 packages that are missing, and nothing else.
#
#   launch/packages.sh [build] [tests] [demo]     default: build
#   launch/packages.sh --list [GROUP...]          prints their names only
#
# build: what compiles and runs the programs; tests: what the tests and benchmarks need besides;
# demo: what launch/demo.sh needs besides. Uses sudo when not root.
# MOE_NO_INSTALL=1: installs nothing, what is needed came by other means.
set -euo pipefail

build=(g++ cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libyaml-cpp-dev
  libdnnl-dev ocl-icd-opencl-dev libsentencepiece-dev nlohmann-json3-dev libcli11-dev libfmt-dev
  libzstd-dev zlib1g-dev libxxhash-dev libmetis-dev libpcre2-dev libicu-dev)
tests=(libgtest-dev libgmock-dev libbenchmark-dev ccache)
demo=(sentencepiece libreadline8)

fail() {
  echo "packages.sh: $*" >&2
  exit 1
}

list_only=false
if [ "${1:-}" = --list ]; then
  list_only=true
  shift
fi
[ $# -gt 0 ] || set -- build
wanted=()
for group in "$@"; do
  case $group in
    build) wanted+=("${build[@]}") ;;
    tests) wanted+=("${tests[@]}") ;;
    demo) wanted+=("${demo[@]}") ;;
    *) fail "no group of packages is called '$group' (build, tests or demo)" ;;
  esac
done
if $list_only; then
  printf '%s\n' "${wanted[@]}"
  exit
fi

if [ -n "${MOE_NO_INSTALL:-}" ] || ! command -v apt-get > /dev/null; then
  echo "packages.sh: nothing installed; docs/install.md says what must be there" >&2
  exit
fi
missing=()
for package in "${wanted[@]}"; do
  # shellcheck disable=SC2016  # the format is dpkg-query's
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $status == installed* ]] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo > /dev/null ||
    fail "missing packages, and neither root nor sudo to install them: ${missing[*]}"
  as_root=(sudo)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" < /dev/null; }

echo "packages.sh: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() { apt -y --no-install-recommends install "${missing[@]}" > "$log" 2>&1; }
# Lists may be absent or name versions that the mirrors have replaced since.
install || { apt update && install; } || {
  tail -n 20 "$log" >&2
  fail "apt-get could not install: ${missing[*]}"
}
