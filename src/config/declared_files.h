// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace moe {

// Small YAML files that users may add to: tasks, chat templates, generation tasks. Each is known by
// its name without the ending.

/// Where the files of a kind ("tasks") lie: configs/KIND of the working folder and of the folders
/// that the program lies in, as built or as installed.
std::vector<std::filesystem::path> declared_folders(const std::string& kind);

/// The names of the files in these folders, in alphabetical order.
std::vector<std::string> declared_names(const std::vector<std::filesystem::path>& folders);

/// `name_or_file` where it is a file, else the file of that name in the first folder that has one.
std::optional<std::filesystem::path> find_declared(
    const std::string& name_or_file, const std::vector<std::filesystem::path>& folders);

/// The text of a file. Throws InputError.
std::string read_declared(const std::filesystem::path& file);

}  // namespace moe
