#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# launch/slurm.sbatch on a real Slurm of two nodes (slurm.sh): a preemption, the signal before the time
# limit and a killed step each end in the weights of the run that nothing happened to.
# Usage: slurm_test.sh BUILD_FOLDER
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(realpath "$here/../..")
source "$here/../support/small_run.sh"
source "$here/slurm.sh"
slurm_or_skip
export PATH="$(realpath "$1"):$PATH" OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'slurm_down; rm -rf "$work"' EXIT
cd "$work" || exit 1
slurm_up "$work" || fail 'no Slurm'
small_run || fail 'no data'

# submit RUN [OPTION...]: prints the job's number.
submit() {
  local run=$1
  shift
  slurm_run sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --time=10 \
    --output="$work/$run.log" --chdir="$work" "$root/launch/slurm.sbatch" --config run.yaml \
    --set run.folder="$run" "$@"
}

state_of() { slurm_run squeue -h -j "$1" -o %T 2> /dev/null; }

# until_log PATTERN RUN
until_log() {
  for _ in $(seq 600); do
    grep -Eq "$1" "$work/$2.log" 2> /dev/null && return
    sleep 0.1
  done
  cat "$work/$2.log"
  fail "$2: its log never said '$1'"
}

# completed JOB RUN: it ends well, with the weights of the straight run.
completed() {
  for _ in $(seq 600); do
    case $(state_of "$1") in '' | COMPLETED) break ;; esac
    sleep 0.2
  done
  case $(slurm_run scontrol show job "$1") in
    *JobState=COMPLETED*) ;;
    *) cat "$work/$2.log"; slurm_run scontrol show job "$1"; fail "$2: did not complete" ;;
  esac
  [ "$2" = straight ] || moe-checkpoint diff straight "$2" || fail "$2: other weights"
  echo "$2: completed, restarted $(slurm_run scontrol show job "$1" |
    sed -n 's/.*Restarts=\([0-9]*\).*/\1/p') times"
}

job=$(submit straight)
completed "$job" straight
has '^2 x 1 ranks' straight.log

# Preempted in step 30, which a drill makes long enough to meet it.
job=$(submit preempted --inject late:rank=0,step=30,seconds=4)
until_log 'step 30 begins' preempted
slurm_run sbatch --parsable -p high --nodes=2 --exclusive --output=/dev/null --wrap 'sleep 3' \
  > /dev/null
completed "$job" preempted
has 'stopped after step 30 as asked' preempted.log
has '^saved: requeue' preempted.log
has 'resuming .*step-00000030 after step 30' preempted.log

# What --signal=B:USR1@120 does two minutes before the time limit.
job=$(submit limit --inject late:rank=1,step=40,seconds=4)
until_log 'step 40 begins' limit
slurm_run scancel --batch --signal=USR1 "$job"
completed "$job" limit
has '^saved: requeue' limit.log
has 'resuming .*step-00000040 after step 40' limit.log

# Step 50 is where it dies, step 40 the newest checkpoint.
job=$(submit killed --inject late:rank=1,step=50,seconds=4)
until_log 'step 50 begins' killed
slurm_run scancel --signal=KILL "$job.0"
completed "$job" killed
has '^attempt 1 ended with exit code 137' killed.log
has 'resuming .*step-00000040 after step 40' killed.log

# Bad input is not tried again.
job=$(submit bad --set train.stepz=3)
until_log 'train.stepz' bad
for _ in $(seq 100); do
  [ -n "$(state_of "$job")" ] || break
  sleep 0.2
done
case $(slurm_run scontrol show job "$job") in
  *ExitCode=2:0*) ;;
  *) fail "bad input: $(slurm_run scontrol show job "$job")" ;;
esac
! grep -q 'attempt 1' bad.log || fail 'bad input was tried again'

for n in 1 2; do
  for pid in $(ip netns pids "moe-n$n"); do
    ! grep -q moe-train "/proc/$pid/cmdline" || fail "left on node $n: $pid"
  done
done
echo 'all good'
