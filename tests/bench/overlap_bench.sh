#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a program on two "hosts" of this machine, network namespaces joined by a link of limited
# rate, under mpirun. For root.
#   overlap_bench.sh [-r RATE] [-n RANKS_PER_HOST] PROGRAM ARGUMENT...
#   overlap_bench.sh build/cpu/tests/bench/bench_exchange overlap 7
set -eu
self=$(realpath "$0")

if [ "${1:-}" = --agent ]; then # in place of ssh: --agent HOST COMMAND...
  case $2 in 10.79.0.1) host=a ;; 10.79.0.2) host=b ;; *) exit 255 ;; esac
  shift 2
  exec ip netns exec "$MOE_BENCH_SPACE-$host" unshare --uts bash -c "hostname moe-$host; $*"
fi

rate=2gbit
ranks=1
while getopts r:n: option; do
  case $option in
    r) rate=$OPTARG ;;
    n) ranks=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))

space=moebench$$
folder=$(mktemp -d)
cleanup() {
  ip netns del "$space-a" 2>/dev/null || true
  ip netns del "$space-b" 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT
ip netns add "$space-a"
ip netns add "$space-b"
ip link add veth0 netns "$space-a" type veth peer name veth0 netns "$space-b"
address=1
for host in a b; do
  ip -n "$space-$host" addr add "10.79.0.$address/24" dev veth0
  ip -n "$space-$host" link set veth0 up
  ip -n "$space-$host" link set lo up
  ip netns exec "$space-$host" tc qdisc add dev veth0 root tbf rate "$rate" burst 512kb limit 4mb
  echo "10.79.0.$address slots=$ranks" >>"$folder/hosts"
  address=$((address + 1))
done
export MOE_BENCH_SPACE=$space OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ip netns exec "$space-a" unshare --uts bash -c 'hostname moe-a; exec "$@"' - \
  mpirun --mca plm_rsh_agent "$self --agent" --mca oob_tcp_if_include 10.79.0.0/24 \
  --mca btl_tcp_if_include 10.79.0.0/24 --mca mpi_yield_when_idle 1 --bind-to none \
  --hostfile "$folder/hosts" -n $((2 * ranks)) -x OMP_NUM_THREADS=1 -x OMP_WAIT_POLICY=passive "$@"
