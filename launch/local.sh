#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Trains on this machine: N ranks that share its cores.
#
#   launch/local.sh N --config configs/x.yaml [moe-train's options]
#
# SIGTERM or SIGUSR1 to this script: the run saves and ends with exit code 75; --resume auto goes on.
#
# The programs are taken from PATH, else from build/cpu. Threads per rank are cores / N unless the
# run says otherwise (run.threads); the program starts them itself, so ranks are not bound to cores.
set -euo pipefail
[ $# -ge 1 ] && [[ $1 =~ ^[1-9][0-9]*$ ]] || {
  echo "usage: local.sh N --config configs/x.yaml [moe-train's options]" >&2
  exit 2
}
ranks=$1
shift
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$PATH:$root/build/cpu"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# --oversubscribe makes waiting ranks yield their core: without it, more ranks than cores take
# milliseconds for a message.
source "$root/launch/signals.sh"
run_job mpirun -n "$ranks" --oversubscribe --bind-to none moe-train "$@"
