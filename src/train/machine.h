// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace moe {

/// "Intel(R) Xeon(R) ...": resuming on another kind of processor moves the last bits of a result.
std::string processor_name();

/// The compiler that built this program.
std::string compiler_name();

}  // namespace moe
