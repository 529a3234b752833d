// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moe {

/// For a job that is about to end while a host cannot be reached: Open MPI's launcher on this host
/// (mpirun, orted) would wait for the other one for ever. When it is this process's parent and
/// still there after `seconds`, it is killed; a process of its own sees to that, because the
/// launcher ends this one before it begins to wait. Other launchers (Slurm) are left alone.
void end_launcher_after(int seconds);

}  // namespace moe
