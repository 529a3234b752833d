// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "split/split_options.h"
#include "split/text_losses.h"

namespace moe {

/// A way to split, to be compared with others at as many active neurons.
struct Arm {
  std::string name, what;
  /// Changes options that say how many experts there are, how many are shared and how many of the
  /// others chosen.
  void (*set)(SplitOptions& options);
};

/// Static pruning with a refit, the arm that routing has to beat; and the arm that all others are
/// held against.
inline constexpr const char* kNullArm = "pruned+refit";
inline constexpr const char* kOwnArm = "joint+refit";

/// Neurons that a token visits: the shared experts' and, of the routed ones, `top_k` of average
/// size.
std::int64_t active_neurons(std::int64_t neurons, std::int64_t experts, std::int64_t shared,
                            std::int64_t top_k);

/// All arms, rivals first.
const std::vector<Arm>& all_arms();
/// Those named; throws InputError for another name.
std::vector<Arm> arms_named(const std::vector<std::string>& names);

struct ArmTest {
  std::string name;
  std::vector<std::filesystem::path> shards;
};

struct ArmsOptions {
  SplitOptions split;  // input, experts, shared, top_k, calibration, validation
  std::vector<ArmTest> tests;
  std::vector<Arm> arms;
  std::vector<std::uint64_t> seeds = {42};
};

/// What one arm does to one test text, means over seeds; losses in nats a token.
struct ArmLoss {
  std::vector<double> by_seed;  // loss of the model as it would be written
  WithInterval added;           // over the dense model's, paired by document
  /// Over kOwnArm's, paired by document; positive: this arm loses more. Unset without that arm.
  std::optional<WithInterval> behind;
  double kl = 0;  // KL(dense || split), nats a token
  /// Added loss with the dense down projections: with the k experts whose outputs are longest,
  /// added up (what the partition alone costs), and with the arm's own gate.
  double by_oracle = 0, unrefitted = 0;
};

struct ArmResult {
  std::string name, what;
  std::int64_t activated = 0;  // parameters, with router, biases and everything that is not FFN
  double load_max = 0;  // busiest expert over the mean, on the text that decides; mean over layers
  double seconds = 0;   // to plan, mean over seeds
  std::vector<ArmLoss> losses;     // of each test
  std::vector<std::string> notes;  // of refits, each once
};

struct ArmsReport {
  struct Test {
    std::string name;
    std::int64_t documents = 0, tokens = 0;
    double dense_loss = 0;
    double by_neurons =
        0;  // added loss with the best neurons of every token, as many as are active
  };
  std::int64_t calibration_tokens = 0, validation_tokens = 0;
  std::int64_t active_neurons = 0, neurons = 0, dense_parameters = 0;
  std::vector<Test> tests;
  std::vector<ArmResult> arms;
};

/// Splits in memory by every arm with every seed and measures the loss on the test texts, layer by
/// layer on the split model's own stream; says on standard error what each seed of an arm added.
/// Collective. Throws InputError where calibration or validation text shares a document with a
/// test.
ArmsReport compare_arms(const ArmsOptions& options, Communicator& world);

}  // namespace moe
