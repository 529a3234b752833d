// SPDX-License-Identifier: Apache-2.0
#include "core/stop_signal.h"

#include <csignal>

namespace moe {
namespace {

volatile std::sig_atomic_t came = 0, terminations = 0;

extern "C" void note_stop_signal(int signal) {
  came = 1;
  if (signal != SIGTERM) return;
  terminations = terminations + 1;
  if (terminations < 2) return;
  std::signal(SIGTERM, SIG_DFL);
  std::raise(SIGTERM);  // delivered when this handler returns
}

}  // namespace

void listen_for_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = note_stop_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
}

void ignore_stop_signals() {
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGUSR1, SIG_IGN);
}

bool stop_signal_came() { return came != 0; }

}  // namespace moe
