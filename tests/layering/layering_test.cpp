// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace moe {
namespace {

namespace fs = std::filesystem;

// A file includes from its own layer or from layers to its left. This list is the architecture.
const std::vector<std::string> kLayers = {
    "core", "config", "kernels", "comm",  "autograd", "ops",  "nn",     "optim",
    "hf",   "data",   "split",   "train", "generate", "eval", "report", "app"};

std::ptrdiff_t layer_of(const std::string& path) {  // "ops/norm.h" or "kernels/cpu/norm.cpp"
  const auto at = std::find(kLayers.begin(), kLayers.end(), path.substr(0, path.find('/')));
  return at == kLayers.end() ? -1 : at - kLayers.begin();
}

struct Line {
  std::string file, text;
  int number;
  std::string where() const { return file + ":" + std::to_string(number); }
};

// CUDA, or the emulator of the tests in its place: the files that know of both.
bool cuda_or_emulator(const std::string& file) {
  return file == "kernels/cuda/gpu.h" || file == "kernels/cuda/hopper.h";
}

std::vector<Line> all_lines() {
  std::vector<Line> lines;
  for (const fs::path& root :
       {fs::path(MOE_SOURCE_DIR) / "src", fs::path(MOE_SOURCE_DIR) / "kernels"}) {
    const fs::path base = root.filename() == "src" ? root : root.parent_path();
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path());
      int number = 0;
      for (std::string text; std::getline(in, text);)
        lines.push_back({fs::relative(entry.path(), base).generic_string(), text, ++number});
    }
  }
  return lines;
}

TEST(Layering, NoFileIncludesALayerAboveIt) {
  const std::regex include("^#include \"([^\"]+)\"");
  int includes = 0;
  for (const Line& line : all_lines()) {
    std::smatch match;
    if (cuda_or_emulator(line.file) || !std::regex_search(line.text, match, include)) continue;
    ++includes;
    ASSERT_GE(layer_of(match[1]), 0) << line.where() << " names no layer: " << match[1];
    EXPECT_LE(layer_of(match[1]), layer_of(line.file)) << line.where() << " includes " << match[1];
  }
  EXPECT_GT(includes, 100);
}

TEST(Layering, NoHeaderOfOursShowsALibraryToItsUsers) {
  const std::regex library(
      "^#include "
      "[<\"](mpi|hdf5|dnnl|metis|yaml-cpp|nlohmann|sentencepiece|zstd|zlib|xxhash|cuda|cudnn|nccl|"
      "cublas|CLI)");
  for (const Line& line : all_lines()) {
    // What the .cpp files that call a library share, seen by no others.
    if (cuda_or_emulator(line.file) || line.file == "comm/mpi_tasks.h") continue;
    if (line.file == "core/cuda_check.h" || line.file == "data/hdf5_support.h") continue;
    if (!line.file.ends_with(".h")) continue;
    EXPECT_FALSE(std::regex_search(line.text, library)) << line.where() << ": " << line.text;
  }
}

TEST(Layering, WhatABuildLacksIsAStubFileAndNoCondition) {
  const std::regex condition("#\\s*(if|ifdef|ifndef|elif).*(CUDA|NCCL|MPI)");
  for (const Line& line : all_lines())
    EXPECT_FALSE(!cuda_or_emulator(line.file) && std::regex_search(line.text, condition))
        << line.where() << ": " << line.text;
}

}  // namespace
}  // namespace moe
