// SPDX-License-Identifier: Apache-2.0
#include "config/declared_files.h"

#include <fstream>
#include <set>
#include <sstream>

#include "core/error.h"

namespace moe {

namespace fs = std::filesystem;

std::vector<fs::path> declared_folders(const std::string& kind) {
  std::vector<fs::path> folders = {fs::path("configs") / kind};
  std::error_code unknown;
  fs::path at = fs::read_symlink("/proc/self/exe", unknown).parent_path();
  for (; !unknown && at.has_relative_path(); at = at.parent_path())
    for (const char* below : {"configs", "share/moe/configs"}) folders.push_back(at / below / kind);
  return folders;
}

std::vector<std::string> declared_names(const std::vector<fs::path>& folders) {
  std::set<std::string> names;
  for (const fs::path& folder : folders)
    if (fs::is_directory(folder))
      for (const auto& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".yaml") names.insert(entry.path().stem().string());
  return {names.begin(), names.end()};
}

std::optional<fs::path> find_declared(const std::string& name_or_file,
                                      const std::vector<fs::path>& folders) {
  const fs::path path(name_or_file);
  if (fs::is_regular_file(path)) return path;
  if (path.extension() == ".yaml" || path.extension() == ".yml" || path.has_parent_path())
    return std::nullopt;
  for (const fs::path& folder : folders)
    if (fs::path file = folder / (name_or_file + ".yaml"); fs::is_regular_file(file)) return file;
  return std::nullopt;
}

std::string read_declared(const fs::path& file) {
  std::ifstream in(file);
  MOE_REQUIRE(in.is_open(), file.string(), ": cannot open");
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace moe
