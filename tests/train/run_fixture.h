// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/token_writer.h"
#include "train/trainer.h"

namespace moe::testing {

/// Runs of a small mixture on two domains in a folder of their own, ranks as threads.
class RunFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    for (const char* domain : {"a", "b"}) write_shard(domain);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write_shard(const std::string& domain) {
    TokenFileInfo info;
    info.domain = domain;
    info.vocabulary_size = 40;
    TokenWriter writer(info, folder_);
    const Philox random(1, RandomPurpose::test, {std::uint64_t(domain[0])});
    for (std::uint64_t d = 0; d < 40; ++d) {
      std::vector<std::int32_t> document;
      for (std::uint64_t i = 0; i < 10 + d; ++i)
        document.push_back(std::int32_t(random.below(100 * d + i, 40)));
      writer.append(document);
    }
    writer.write(folder_ / (domain + ".h5"));
  }

  TrainConfig config(const std::string& run, std::int64_t steps, std::int64_t ep) const {
    const std::string text = str(
        "run: {folder: ", (folder_ / run).string(), ", log_every: 1000}\n",
        "model: {vocab_size: 40, hidden_size: 16, intermediate_size: 20, layers: 2, heads: 4, "
        "kv_heads: 2, experts: 4, top_k: 2, gate: mlp}\n",
        "data: {sequence_length: 12, train: [{domain: a, files: [", (folder_ / "a.h5").string(),
        "], weight: 0.3}, {domain: b, files: [", (folder_ / "b.h5").string(),
        "], weight: 0.7}], held_out: [{domain: a, files: [", (folder_ / "a.h5").string(), "]}]}\n",
        "batch: {global: 8, micro: 2}\nparallel: {expert: ", ep, "}\n", "train: {steps: ", steps,
        ", checkpoint_every: 20, eval_every: 10, eval_sequences: 5}\n",
        "optimizer: {learning_rate: 0.01}\nschedule: {kind: constant, warmup_steps: 5}\n",
        "router: {cv_squared: 0.01, z: 0.001}\n");
    return parse_train_config(text, "test.yaml");
  }

  void train(int ranks, const TrainConfig& c, const std::string& resume = "none",
             const std::vector<std::string>& faults = {}) const {
    run_ranks(ranks, [&](Communicator& world) {
      StartOptions start;
      start.resume = resume;
      for (const std::string& text : faults) start.faults.push_back(parse_fault(text));
      Trainer(c, start, world).run();
    });
  }

  /// Loss, held-out loss and gradient norm of every step, as written: every bit.
  std::vector<std::vector<double>> curve(const std::string& run) const {
    std::ifstream in(folder_ / run / "metrics.jsonl");
    std::vector<std::vector<double>> rows;
    for (std::string line; std::getline(in, line);) {
      const auto m = nlohmann::json::parse(line);
      rows.push_back({m.at("step"), m.at("loss"), m.at("grad_norm"), m.at("learning_rate"),
                      m.contains("held_out_loss") && !m.at("held_out_loss").empty()
                          ? m.at("held_out_loss").at("a").get<double>()
                          : 0.0});
    }
    return rows;
  }

  CheckpointReader checkpoint(const std::string& run, int step) const {
    return CheckpointReader(folder_ / run / "checkpoints" / fmt::format("step-{:08}", step));
  }

  std::filesystem::path folder_;
};

}  // namespace moe::testing
