// SPDX-License-Identifier: Apache-2.0
// Runs whose experts per token fall from all to the model's: a function of the step alone.
#include <gmock/gmock.h>

#include <cstring>

#include "train/run_fixture.h"
#include "train/run_plan.h"
#include "train/stages.h"
#include "train/step_metrics.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

class Annealing : public testing::RunFixture {
 protected:
  TrainConfig annealed(const std::string& run, std::int64_t steps, std::int64_t ep = 1) const {
    TrainConfig c = config(run, steps, ep);
    c.router.top_k_from = 0;
    c.router.top_k_steps = 9;
    return c;
  }
  std::vector<nlohmann::json> lines(const std::string& run) const {
    std::ifstream in(folder_ / run / "metrics.jsonl");
    std::vector<nlohmann::json> list;
    for (std::string line; std::getline(in, line);) list.push_back(nlohmann::json::parse(line));
    return list;
  }
};

TEST_F(Annealing, EveryStepChoosesAsManyExpertsAsTheScheduleSaysAndMetricsSaySo) {
  TrainConfig c = annealed("run", 11, 2);
  c.run.expert_load_every = 1;
  c.router.capacity_factor = 1;
  train(2, c);
  std::vector<std::int64_t> top_k;
  for (const auto& line : lines("run")) {
    top_k.push_back(line.at("top_k"));
    std::int64_t pairs = 0;
    for (const std::int64_t n : line.at("expert_load")[0]) pairs += n;
    EXPECT_EQ(pairs, 8 * 12 * top_k.back());
    // Where all are chosen, an even share is what every expert gets.
    EXPECT_EQ(line.at("dropped_tokens") == 0, top_k.back() == 4);
    ModelConfig m = checkpoint("run", 11).model_config();
    m.moe.top_k = top_k.back();
    EXPECT_NEAR(line.at("flops_per_second").get<double>() * line.at("step_seconds").get<double>(),
                step_flops(m, 8 * 12, 12), 1);
  }
  EXPECT_EQ(top_k, (std::vector<std::int64_t>{4, 4, 4, 3, 3, 3, 2, 2, 2, 2, 2}));
  EXPECT_EQ(checkpoint("run", 11).model_config().moe.top_k, 2);
}

TEST_F(Annealing, TheSelectionBiasMovesOnceThereIsAChoice) {
  TrainConfig c = annealed("run", 6);
  c.router.cv_squared = 0;
  c.router.bias_update_rate = 0.05;
  c.train.checkpoint_every = 3;
  train(1, c);
  const auto bias = [&](int step) {
    const Tensor b = checkpoint("run", step).read("weights/layers.0.router.selection_bias", 0, 4);
    return std::vector<float>(b.data<float>(), b.data<float>() + 4);
  };
  EXPECT_EQ(bias(3), std::vector<float>(4, 0.0F));
  EXPECT_NE(bias(6), bias(3));
}

TEST_F(Annealing, StoppedAndResumedIsTheSameToTheBit) {
  train(2, annealed("straight", 12, 2));
  train(2, annealed("resumed", 5, 2));
  train(2, annealed("resumed", 12, 2), "auto");
  // The first part's end is an evaluation more.
  auto want = curve("straight"), got = curve("resumed");
  want[4].back() = got[4].back() = 0;
  EXPECT_EQ(want, got);
}

TEST_F(Annealing, HeldOutLossIsOfTheModelsOwnNumberOfExperts) {
  for (const bool anneal : {false, true}) {
    TrainConfig c = anneal ? annealed("annealed", 3) : config("plain", 3, 1);
    c.optimizer.learning_rate = 1e-12;
    c.train.eval_every = 1;
    train(1, c);
  }
  const auto plain = lines("plain"), annealed = lines("annealed");
  for (std::size_t step = 0; step < 3; ++step) {
    EXPECT_NEAR(annealed[step].at("held_out_loss").at("a").get<double>(),
                plain[step].at("held_out_loss").at("a").get<double>(), 1e-9);
    EXPECT_GT(
        std::abs(annealed[step].at("loss").get<double>() - plain[step].at("loss").get<double>()),
        1e-6);
  }
}

TEST_F(Annealing, ThePlanIsOfTheStepWithTheMostExperts) {
  const TrainConfig c = annealed("run", 12);
  const ModelConfig model = model_from(c);
  const auto activations = [&](const TrainConfig& of) {
    return plan_run(of, model, 1).memory[0].activations;
  };
  TrainConfig all = config("run", 12, 1);
  ModelConfig four = model;
  four.moe.top_k = 4;
  EXPECT_EQ(activations(c), plan_run(all, four, 1).memory[0].activations);
  EXPECT_GT(activations(c), activations(all));
}

/// Routers learn from the dense teacher while all else stands still; then all of it learns, from
/// all experts to the model's two.
TEST_F(Annealing, StagesWarmRoutersUpOnFrozenExpertsAndThenAnneal) {
  TrainConfig parent = config("parent", 3, 1);
  parent.model.experts = parent.model.top_k = std::nullopt;
  parent.model.gate = std::nullopt;
  train(1, parent);
  const std::string text =
      str("run: {folder: ", (folder_ / "staged").string(), "}\n",
          "model: {vocab_size: 40, hidden_size: 16, intermediate_size: 20, layers: 2, heads: 4, "
          "kv_heads: 2, experts: 4, top_k: 2, gate: linear, gate_noise: false}\n",
          "data: {sequence_length: 12, train: [{domain: a, files: [", (folder_ / "a.h5").string(),
          "]}]}\n", "batch: {global: 8, micro: 2}\nschedule: {warmup_steps: 0}\n",
          "distill: {teacher: ", (folder_ / "parent").string(), "}\n",
          "stages:\n"
          "  - name: warm_up\n"
          "    train: {steps: 2, freeze: [embeddings, norms, attention, experts]}\n"
          "  - name: recover\n"
          "    train: {steps: 4}\n"
          "    router: {top_k_from: 0, top_k_steps: 3}\n"
          "    optimizer: {rates: {router: 0.5, attention: 0.3}}\n");
  const TrainConfig c = parse_train_config(text, "staged.yaml");
  run_ranks(2, [&](Communicator& world) { train_run(c, {}, world); });
  const ParameterRows start = initial_weights(model_from(c.of_stage(0)), 42);
  const CheckpointReader warm = checkpoint("staged/warm_up", 2),
                         end = checkpoint("staged/recover", 4);
  const auto same = [](const Tensor& a, const Tensor& b) {
    return std::memcmp(a.bytes(), b.bytes(), a.nbytes()) == 0;
  };
  for (const char* name : {"layers.0.experts.gate.weight", "layers.1.router.weight"}) {
    const std::int64_t rows = warm.tensor(str("weights/", name)).shape[0];
    const Tensor then = warm.read(str("weights/", name), 0, rows);
    EXPECT_EQ(same(then, start(name, 0, rows)), str(name).find("experts") != std::string::npos);
    EXPECT_FALSE(same(then, end.read(str("weights/", name), 0, rows))) << name;
  }
  std::vector<std::int64_t> top_k;
  for (const auto& line : lines("staged/recover")) {
    top_k.push_back(line.at("top_k"));
    EXPECT_TRUE(line.contains("teacher_kl"));
  }
  EXPECT_EQ(top_k, (std::vector<std::int64_t>{4, 3, 2, 2}));
  for (const auto& line : lines("staged/warm_up")) EXPECT_EQ(line.at("top_k"), 2);
}

TEST_F(Annealing, RatesOfFamiliesThatTheModelLacksAreRefused) {
  TrainConfig c = config("run", 2, 1);
  c.optimizer.rates[std::size_t(ParameterFamily::shared)] = 2;
  try {
    train(1, c);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_THAT(e.what(), HasSubstr("optimizer.rates.shared: the model has no parameters"));
  }
}

}  // namespace
}  // namespace moe
