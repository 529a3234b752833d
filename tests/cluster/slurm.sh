# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by scripts: a real Slurm of one controller and two nodes, each in a network namespace of
# this machine. Needs root, iproute2, slurm-wlm and munge.

slurm_or_skip() {
  [ "$(id -u)" = 0 ] && command -v ip nsenter unshare setpriv slurmctld slurmd munged > /dev/null &&
    ip netns add "moe-probe-$$" 2> /dev/null && ip netns del "moe-probe-$$" ||
    { echo 'skipped: needs root, network namespaces, slurm-wlm and munge'; exit 77; }
  ! pgrep -x slurmctld > /dev/null || { echo 'skipped: a Slurm is running here'; exit 77; }
}

# inside NAMESPACE NAME COMMAND...: not by "ip netns exec", which mounts another /sys: slurmd then
# finds no cgroups.
inside() {
  local space=$1 name=$2
  shift 2
  nsenter --net="/var/run/netns/$space" unshare --uts --mount \
    bash -c 'hostname "$0"; exec "$@"' "$name" "$@"
}

# slurm_up FOLDER
slurm_up() {
  local n
  slurm=$1
  mkdir -p "$slurm"/{state,spool/n1,spool/n2,log} /run/munge
  chown munge:munge /run/munge
  pgrep -x munged > /dev/null || {
    setpriv --reuid munge --regid munge --clear-groups munged --force
    munge_is_ours=yes
  }
  cat > "$slurm/slurm.conf" << CONF
ClusterName=moe
SlurmctldHost=controller(10.79.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that was requeued may start after this many seconds (default 120).
AuthInfo=cred_expire=5
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool/%n
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.%n.pid
SlurmctldLogFile=$slurm/log/slurmctld.log
SlurmdLogFile=$slurm/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
NodeName=n1 NodeAddr=10.79.0.1 CPUs=2 Sockets=1 CoresPerSocket=2 RealMemory=1000
NodeName=n2 NodeAddr=10.79.0.2 CPUs=2 Sockets=1 CoresPerSocket=2 RealMemory=1000
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
CONF
  export SLURM_CONF=$slurm/slurm.conf
  ip netns add moe-controller
  ip -n moe-controller link add br0 type bridge
  ip -n moe-controller addr add 10.79.0.254/24 dev br0
  ip -n moe-controller link set br0 up
  ip -n moe-controller link set lo up
  inside moe-controller controller slurmctld -c
  for n in 1 2; do
    ip netns add "moe-n$n"
    ip link add "moe-v$n" netns moe-controller type veth peer name eth0 netns "moe-n$n"
    ip -n moe-controller link set "moe-v$n" master br0 up
    ip -n "moe-n$n" addr add "10.79.0.$n/24" dev eth0
    ip -n "moe-n$n" link set eth0 up
    ip -n "moe-n$n" link set lo up
    # A /tmp of its own for each node: the files of the PMIx plugin would collide.
    inside "moe-n$n" "n$n" bash -c 'mkdir -p /run/moe-slurm && mount --bind "$0" /run/moe-slurm &&
      mount -t tmpfs none /tmp && mkdir -p "$0" && mount --bind /run/moe-slurm "$0" && cd / &&
      exec slurmd -N "$1"' "$slurm" "n$n"
  done
  for _ in $(seq 50); do
    [ "$(slurm_run sinfo -h -t idle -p low -o %D)" != 2 ] || return 0
    sleep 0.2
  done
  slurm_run sinfo
  return 1
}

# slurm_run COMMAND...: sbatch, squeue, ... on the controller.
slurm_run() { inside moe-controller controller "$@"; }

slurm_down() {
  local pid space
  for pid in "$slurm"/slurmd.n1.pid "$slurm"/slurmd.n2.pid "$slurm"/slurmctld.pid; do
    [ ! -f "$pid" ] || kill "$(cat "$pid")" 2> /dev/null
  done
  [ -z "${munge_is_ours:-}" ] || kill "$(cat /run/munge/munged.pid)" 2> /dev/null
  sleep 1
  for space in moe-n1 moe-n2 moe-controller; do
    for pid in $(ip netns pids "$space" 2> /dev/null); do kill -9 "$pid" 2> /dev/null; done
    ip netns del "$space" 2> /dev/null
  done
  return 0
}
