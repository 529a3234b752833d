// SPDX-License-Identifier: Apache-2.0
#include "config/train_config.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/error.h"

namespace moe {

TrainConfig TrainConfig::of_stage(std::size_t i) const {
  const Stage& stage = stages.at(i);
  TrainConfig c = *this;
  c.stages.clear();
  c.run.folder = (std::filesystem::path(run.folder) / stage.name).string();
  c.data = stage.data;
  c.batch = stage.batch;
  c.train = stage.train;
  c.optimizer = stage.optimizer;
  c.schedule = stage.schedule;
  c.router = stage.router;
  c.attention_router = stage.attention_router;
  c.distill = stage.distill;
  return c;
}

TrainConfig parse_train_config(const std::string& text, const std::string& name,
                               std::span<const std::string> overrides) {
  TrainConfig config;
  // Stages begin as the whole run is, --set included, and what must be there depends on whether
  // there are stages: so the text is read once for what the run is, and then again.
  read_yaml(text, name, overrides, keys_of(config), Required::ignored);
  read_yaml(text, name, overrides, keys_of(config));
  try {
    config.validate();
  } catch (const InputError& e) {
    throw InputError(name + ": " + e.what());
  }
  return config;
}

TrainConfig load_train_config(const std::filesystem::path& file,
                              std::span<const std::string> overrides) {
  MOE_REQUIRE(!std::filesystem::is_directory(file), file.string(),
              ": cannot be read (is a directory)");
  std::ifstream in(file, std::ios::binary);
  MOE_REQUIRE(in, file.string(), ": cannot be read (", std::strerror(errno), ")");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return parse_train_config(text, file.string(), overrides);
}

std::string to_yaml(const TrainConfig& config) {
  TrainConfig copy = config;
  return write_yaml(keys_of(copy));
}

void save_config(const TrainConfig& config, const std::filesystem::path& file) {
  std::ofstream out(file, std::ios::binary);
  out << to_yaml(config);
  out.close();
  if (!out) throw Error(str(file.string(), ": cannot be written (", std::strerror(errno), ")"));
}

}  // namespace moe
