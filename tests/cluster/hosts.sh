# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by scripts: two network namespaces of this machine as hosts with names, addresses and a
# link of their own. Needs root and iproute2.

hosts_net=10.78.0.0/24
host_of=([1]="moe-a-$$" [2]="moe-b-$$")

# Exit code 77 stands for "skipped" to ctest.
hosts_or_skip() {
  [ "$(id -u)" = 0 ] && command -v ip unshare > /dev/null &&
    ip netns add "moe-probe-$$" 2> /dev/null && ip netns del "moe-probe-$$" ||
    { echo 'skipped: network namespaces need root and iproute2'; exit 77; }
}

# hosts_up FOLDER: makes both, and in FOLDER a host file and what mpirun starts in place of ssh.
hosts_up() {
  local i
  for i in 1 2; do ip netns add "${host_of[i]}"; done
  ip link add eth0 netns "${host_of[1]}" type veth peer name eth0 netns "${host_of[2]}"
  for i in 1 2; do
    ip -n "${host_of[i]}" addr add "10.78.0.$i/24" dev eth0
    ip -n "${host_of[i]}" link set eth0 up
    ip -n "${host_of[i]}" link set lo up
  done
  printf '10.78.0.%d slots=1\n' 1 2 > "$1/hosts"
  cat > "$1/agent" << AGENT
#!/bin/bash
# agent ADDRESS COMMAND...: runs the command on that host, as ssh would.
case \$1 in
  10.78.0.1) host=${host_of[1]} ;;
  10.78.0.2) host=${host_of[2]} ;;
  *) exit 255 ;;
esac
shift
exec ip netns exec \$host unshare --uts bash -c "hostname \$host; \$*"
AGENT
  chmod +x "$1/agent"
  export OMPI_MCA_plm_rsh_agent=$1/agent MOE_INTERFACE=$hosts_net
}

hosts_down() {
  local i pid
  for i in 1 2; do
    for pid in $(ip netns pids "${host_of[i]}" 2> /dev/null); do kill -9 "$pid" 2> /dev/null; done
    ip netns del "${host_of[i]}" 2> /dev/null
  done
  return 0
}

# on HOST COMMAND...: runs a command on host 1 or 2.
on() {
  local host=${host_of[$1]}
  shift
  ip netns exec "$host" unshare --uts bash -c 'hostname "$0"; exec "$@"' "$host" "$@"
}

# pids HOST NAME: the processes of that program on a host.
pids() {
  local pid program
  for pid in $(ip netns pids "${host_of[$1]}"); do
    read -r -d '' program 2> /dev/null < "/proc/$pid/cmdline"
    [ "${program##*/}" != "$2" ] || echo "$pid"
  done
}
