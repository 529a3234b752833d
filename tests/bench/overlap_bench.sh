#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a program under mpirun on two hosts of tests/cluster/hosts.sh whose link has a limited rate.
# For root.
#   overlap_bench.sh [-r RATE] [-n RANKS_PER_HOST] PROGRAM ARGUMENT...
#   overlap_bench.sh build/cpu/tests/bench/bench_exchange overlap 7
set -eu
source "$(dirname "$0")/../cluster/hosts.sh"
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

hosts_or_skip
folder=$(mktemp -d)
trap 'hosts_down; rm -rf "$folder"' EXIT
hosts_up "$folder"
sed -i "s/slots=1/slots=$ranks/" "$folder/hosts"
for host in 1 2; do
  on $host tc qdisc add dev eth0 root tbf rate "$rate" burst 512kb limit 4mb
done
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
on 1 mpirun --mca oob_tcp_if_include "$hosts_net" --mca btl_tcp_if_include "$hosts_net" \
  --mca mpi_yield_when_idle 1 --bind-to none --hostfile "$folder/hosts" -n $((2 * ranks)) \
  -x OMP_NUM_THREADS=1 -x OMP_WAIT_POLICY=passive "$@"
for host in 1 2; do
  echo "host $host sent $(on $host cat /sys/class/net/eth0/statistics/tx_packets) packets"
done
