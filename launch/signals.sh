# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by launchers.

# run_job COMMAND...: runs a launcher (mpirun, srun) and returns its exit code. SIGTERM or SIGUSR1 to
# this script becomes SIGUSR1 to the launcher, which forwards it to every rank: the run saves and
# ends with exit code 75. SIGTERM to mpirun itself would kill the ranks within two seconds. A second
# SIGTERM ends the job at once.
run_job() {
  local code=0 asked=
  "$@" &
  local job=$!
  ask() {
    if [ -n "$asked" ]; then kill -TERM "$job"; else kill -USR1 "$job"; fi
    asked=$1
  }
  trap 'ask yes' TERM
  trap 'ask ""' USR1
  trap 'kill -TERM "$job"' INT
  # A signal ends a wait before the job has ended.
  while :; do
    wait "$job" && code=0 || code=$?
    kill -0 "$job" 2> /dev/null || break
  done
  trap - TERM USR1 INT
  return "$code"
}
