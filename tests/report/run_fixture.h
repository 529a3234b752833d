// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/test_folder.h"

namespace moe::test {

/// A line of metrics.jsonl with made-up numbers of the right kinds and sizes.
inline nlohmann::json metrics_line(int step, int domains = 2, int layers = 2, int experts = 4) {
  const double x = step;
  nlohmann::json j = {{"step", step},
                      {"tokens", 1024 * step},
                      {"loss", 2 + 3 / (1 + x / 50) + 0.1 * std::sin(x * 7)},
                      {"grad_norm", 1 + 0.5 * std::cos(x)},
                      {"learning_rate", 1e-4},
                      {"tokens_per_second", 5000 + 100 * std::sin(x)},
                      {"step_seconds", 1.0},
                      {"phase_seconds", {{"load", 0.01}, {"forward", 0.3}, {"backward", 0.6}}},
                      {"flops_per_second", 1e9},
                      {"memory_bytes", {{"weights", 1000000}, {"total", 3000000}}},
                      {"skipped_steps", 0},
                      {"rollbacks", 0}};
  for (int d = 0; d < domains; ++d)
    j["domain_loss"]["domain" + std::to_string(d)] = 2 + d + 1 / (1 + x / 50);
  for (int l = 0; l < layers; ++l) {
    j["load_max_over_mean"].push_back(1.25 + 0.1 * std::sin(x + l));
    j["router_entropy"].push_back(1.3);
    if (step % 10 == 0) {
      std::vector<int> load;
      for (int e = 0; e < experts; ++e)
        load.push_back(int(100 * (1 + 0.9 * std::sin(x / 9 + l + 3.7 * e))));
      j["expert_load"].push_back(load);
    }
  }
  if (step % 10 == 0) j["held_out_loss"] = {{"domain0", 2.5}, {"domain1", 3.5}};
  return j;
}

/// A run's folder with these lines of metrics and this configuration.
inline std::filesystem::path write_run(const TestFolder& folder, const std::string& name,
                                       const std::vector<nlohmann::json>& lines,
                                       const std::string& config = "run: {seed: 1}\n",
                                       const std::string& tail = "") {
  const std::filesystem::path run = folder / name;
  std::filesystem::create_directories(run);
  std::ofstream metrics(run / "metrics.jsonl");
  for (const nlohmann::json& line : lines) metrics << line.dump() << "\n";
  metrics << tail;
  std::ofstream(run / "config.yaml") << config;
  std::ofstream(run / "heartbeat.json") << R"({"time":1.5,"step":3,"phase":"complete"})";
  return run;
}

inline std::vector<nlohmann::json> metrics_lines(int steps) {
  std::vector<nlohmann::json> lines;
  for (int step = 1; step <= steps; ++step) lines.push_back(metrics_line(step));
  return lines;
}

}  // namespace moe::test
