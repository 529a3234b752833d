// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "app/app.h"

namespace moe {

/// `export`: weights of a training checkpoint or a model folder as a model folder of another format
/// or number type; a mixture also as the dense model that it was split from.
Action define_export(CLI::App& app);

}  // namespace moe
