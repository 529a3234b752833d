// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace moe {

// The place where a drill makes a disk fail: the functions that write durable files ask here.

/// From now on this process's writes to files whose path contains `part_of_path` fail with `error`,
/// an errno. Safe from many threads.
void plant_write_fault(std::string part_of_path, int error);

/// The errno that writes to this file are to fail with; 0: none.
int write_fault(const std::filesystem::path& file);

}  // namespace moe
