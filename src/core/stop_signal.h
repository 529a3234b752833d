// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moe {

/// From now on SIGTERM and SIGUSR1 ask this process for an orderly end instead of ending it. A
/// second SIGTERM ends it at once, as SIGTERM does by default.
void listen_for_stop_signals();

/// Whether such a signal has come.
bool stop_signal_came();

}  // namespace moe
