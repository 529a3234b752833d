#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Trains on several machines that a host file names, over ssh, without a batch system.
#
#   launch/mpi.sh HOSTFILE --config configs/x.yaml [moe-train's options]
#
# HOSTFILE: a line "HOST slots=RANKS" each. The programs, configuration, shards and the run's folder
# must lie at the same paths on all hosts (a shared file system). Choose RANKS and parallel.expert
# so that an expert group stays inside a host: ranks are numbered host by host.
#
# MOE_INTERFACE=10.0.0.0/24: the network to use, where hosts have several.
#
# SIGTERM or SIGUSR1 to this script: the run saves and ends with exit code 75; --resume auto goes on.
set -euo pipefail
[ $# -ge 1 ] && [ -r "$1" ] || {
  echo "usage: mpi.sh HOSTFILE --config configs/x.yaml [moe-train's options]" >&2
  exit 2
}
hosts=$1
shift
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$PATH:$root/build/cpu"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
options=(-x PATH)
if [ -n "${LD_LIBRARY_PATH:-}" ]; then options+=(-x LD_LIBRARY_PATH); fi
if [ -n "${MOE_INTERFACE:-}" ]; then
  options+=(--mca oob_tcp_if_include "$MOE_INTERFACE" --mca btl_tcp_if_include "$MOE_INTERFACE")
fi
# Unbound ranks that yield when they wait: see launch/README.md.
source "$root/launch/signals.sh"
run_job mpirun --hostfile "$hosts" --map-by slot --bind-to none --mca mpi_yield_when_idle 1 \
  "${options[@]}" "$(command -v moe-train)" "$@"
