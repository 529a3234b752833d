// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moe {

/// From now on SIGTERM and SIGUSR1 ask this process for an orderly end instead of ending it. A
/// second SIGTERM ends it at once, as SIGTERM does by default.
void listen_for_stop_signals();

/// Whether such a signal has come.
bool stop_signal_came();

/// What the signals asked for is done: from now on they are ignored. (Slurm ends the ranks that are
/// still on their way out as soon as the first has ended with a code other than 0.)
void ignore_stop_signals();

}  // namespace moe
