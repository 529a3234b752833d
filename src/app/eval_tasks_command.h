// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "app/app.h"

namespace moe {

/// moe-eval tasks: declares its options, returns what to run. argc and argv are main's, for MPI.
Action define_eval_tasks(CLI::App& app, int& argc, char**& argv);

}  // namespace moe
