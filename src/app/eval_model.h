// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "core/device.h"
#include "train/model_source.h"

namespace CLI {
class App;
}

namespace moe {

/// The options of moe-eval that say which model is asked, and how it computes.
struct EvalModelOptions {
  std::string model, dtype = "f32";
  std::int64_t top_k = 0;  // 0: the model's
  double scale = 0;        // 0: the model's, or E/k with another k
  DeviceChoice device = DeviceChoice::automatic;
};
void add_model_options(CLI::App& app, EvalModelOptions& options);

/// The model's folder and configuration, with the wanted number of experts.
ModelSource open_eval_model(const EvalModelOptions& options);

/// Runs `body` alone, or as a rank under mpirun: every rank holds the whole model and takes a share
/// of the sequences. `local_rank` chooses the device.
int run_data_parallel(int& argc, char**& argv,
                      const std::function<int(Communicator& world, int local_rank)>& body);

/// Throws InputError unless a file can be made at `path`: asked before long work. Empty: no file.
void require_writable(const std::string& path);
/// Puts a file with `text` at `path`, whole or not at all.
void write_result(const std::string& path, const std::string& text);

}  // namespace moe
