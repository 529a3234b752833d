// SPDX-License-Identifier: Apache-2.0
#include "comm/launcher.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <string>

namespace moe {

void end_launcher_after(int seconds) {
  const pid_t launcher = ::getppid();
  std::string name;
  std::getline(std::ifstream("/proc/" + std::to_string(launcher) + "/comm"), name);
  if (name != "mpirun" && name != "orterun" && name != "mpiexec" && name != "orted") return;
  const int watch = int(::syscall(SYS_pidfd_open, launcher, 0));
  if (watch < 0 || ::fork() != 0) return;
  // In the child of a process with threads: system calls alone.
  ::setsid();  // out of the group that the launcher kills
  pollfd ended = {watch, POLLIN, 0};
  if (::poll(&ended, 1, seconds * 1000) == 0)
    ::syscall(SYS_pidfd_send_signal, watch, SIGKILL, 0, 0);
  ::_exit(0);
}

}  // namespace moe
