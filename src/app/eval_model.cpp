// SPDX-License-Identifier: Apache-2.0
#include "app/eval_model.h"

#include <CLI/CLI.hpp>
#include <filesystem>

#include "app/app.h"
#include "app/device_choice.h"
#include "app/mpi_program.h"
#include "core/durable_files.h"
#include "core/error.h"

namespace moe {

namespace fs = std::filesystem;

void add_model_options(CLI::App& app, EvalModelOptions& o) {
  app.add_option("--model", o.model, "Hugging Face folder, training checkpoint or run folder");
  app.add_option("--top-k", o.top_k, "Another number of experts per token, scale E/k")
      ->check(CLI::PositiveNumber);
  app.add_option("--scale", o.scale, "Another score scale")->check(CLI::PositiveNumber);
  app.add_option("--dtype", o.dtype, "f32, bf16 or f64")->capture_default_str();
  add_device_option(app, o.device);
}

ModelSource open_eval_model(const EvalModelOptions& o) {
  MOE_REQUIRE(!o.model.empty(), "--model is required");
  ModelSource source = open_model(o.model);
  ModelConfig& c = source.config;
  if (o.top_k == 0 && o.scale == 0) return source;
  MOE_REQUIRE(c.is_moe(), "--top-k and --scale are for models with experts; ", o.model,
              " is dense");
  if (o.top_k > 0) c.moe.top_k = o.top_k;
  const double scale = o.scale > 0 ? o.scale : double(c.moe.experts) / double(c.moe.top_k);
  c.moe.score_scale.assign(std::size_t(c.layers), scale);
  c.validate();
  return source;
}

int run_data_parallel(int& argc, char**& argv,
                      const std::function<int(Communicator& world, int local_rank)>& body) {
  if (!launched_by_mpi()) return body(*single_rank(), 0);
  return run_under_mpi("moe-eval", argc, argv, [&](MpiWorld& mpi) {
    set_threads(0, mpi.local_ranks());
    return body(mpi.world(), mpi.local_rank());
  });
}

void require_writable(const std::string& path) {
  if (path.empty()) return;
  const fs::path folder = fs::absolute(path).parent_path();
  MOE_REQUIRE(fs::is_directory(folder), path, ": the folder ", folder.string(), " does not exist");
  MOE_REQUIRE(!fs::exists(path) || fs::is_regular_file(path), path,
              " is no file that could be replaced: give another name");
}

void write_result(const std::string& path, const std::string& text) {
  const std::string partial = path + ".partial";
  try {
    write_synced(partial, text);
    rename_path(partial, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    throw;
  }
}

}  // namespace moe
