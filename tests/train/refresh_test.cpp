// SPDX-License-Identifier: Apache-2.0
// Gates fitted anew in a run: to what the experts give, the same on every layout and after a stop.
#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "train/parity_checks.h"
#include "train/run_fixture.h"

namespace moe {
namespace {

using namespace testing;

ModelConfig linear_gates() {
  ModelConfig c = parity_model();
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  c.moe.gate_bias = true;
  return c;
}

struct Refreshed {
  std::map<std::string, Tensor> weights;  // f64, replicated ones
};

Refreshed refreshed(Communicator& world, int ep, const ModelConfig& config,
                    const EngineOptions& options) {
  const ProcessGrid grid(world, ep);
  Engine engine(config, options, grid, parity_weights(config));
  const GlobalBatch batch = parity_batch(1);
  engine.refresh_routers(part_of(batch.all, world.rank(), world.size()));
  Refreshed r;
  for (const Parameter& p : engine.parameters().all())
    if (p.spec.placement == Placement::replicated)
      r.weights[p.name()] = to_f64(p.variable.value).clone();
  return r;
}

TEST(RouterRefresh, EveryLayoutFitsTheSameGatesAndNothingElseMoves) {
  const ModelConfig c = linear_gates();
  EngineOptions o = parity_options(DType::f64);
  const std::unique_ptr<Communicator> alone = single_rank();
  const Refreshed want = refreshed(*alone, 1, c, o);
  for (const auto& [name, value] : want.weights) {
    const Tensor start = to_f64(parity_weights(c)(name, 0, value.shape()[0]));
    EXPECT_EQ(relative_difference({0, start}, {0, value}) == 0,
              name.find(".router.") == std::string::npos)
        << name;
  }
  for (const auto& [ep, dp] : {std::pair{2, 1}, {1, 2}, {2, 2}, {4, 1}}) {
    o.micro_batch = ep;
    o.zero = dp == 2;
    run_ranks(ep * dp, [&, ep = ep](Communicator& world) {
      const Refreshed got = refreshed(world, ep, c, o);
      for (const auto& [name, value] : want.weights)
        EXPECT_LE(relative_difference({0, got.weights.at(name)}, {0, value}), 1e-5)
            << name << ", EP " << ep << ", rank " << world.rank();
    });
  }
}

/// What experts give, by plain loops from their weights.
TEST(RouterRefresh, NormsAreOfWhatEveryExpertGivesAndPaddingIsLeftOut) {
  ModelConfig c = linear_gates();
  c.moe.expert_bias = true;
  const std::unique_ptr<Communicator> world = single_rank();
  const ProcessGrid grid(*world, 1);
  Engine engine(c, parity_options(DType::f64), grid, parity_weights(c));
  std::vector<ExpertOutputs> outputs;
  ForwardContext context;
  context.routing.outputs = &outputs;
  const GlobalBatch batch = parity_batch(1);
  (void)engine.model().hidden_states(batch.all.tokens, context);
  ASSERT_EQ(outputs.size(), 2u);  // the third layer is dense
  const ExpertOutputs& o = outputs[1];
  EXPECT_EQ(o.layer, 1);
  ASSERT_EQ(o.x.rows(), batch.counts.routed);
  const auto weight = [&](const char* what) {
    return to_f64(engine.parameters()[str("layers.1.experts.", what)].value);
  };
  const Tensor gate = weight("gate.weight"), up = weight("up.weight"), down = weight("down.weight"),
               bias = weight("bias");
  const std::vector<std::int64_t> sizes = c.layer_expert_sizes(1);
  for (const std::int64_t t : {std::int64_t{0}, o.x.rows() - 1}) {
    std::int64_t neuron = 0;
    for (std::int64_t e = 0; e < 5; ++e) {
      std::vector<double> y(16);
      for (std::int64_t j = 0; j < 16; ++j) y[std::size_t(j)] = bias.data<double>()[e * 16 + j];
      for (std::int64_t n = 0; n < sizes[std::size_t(e)]; ++n, ++neuron) {
        double g = 0, u = 0;
        for (std::int64_t j = 0; j < 16; ++j) {
          g += gate.data<double>()[neuron * 16 + j] * double(o.x.data<float>()[t * 16 + j]);
          u += up.data<double>()[neuron * 16 + j] * double(o.x.data<float>()[t * 16 + j]);
        }
        for (std::int64_t j = 0; j < 16; ++j)
          y[std::size_t(j)] += g / (1 + std::exp(-g)) * u * down.data<double>()[neuron * 16 + j];
      }
      const double norm = std::sqrt(std::inner_product(y.begin(), y.end(), y.begin(), 0.0));
      EXPECT_NEAR(double(o.norms.data<float>()[t * 5 + e]), norm, 1e-5 * norm);
    }
  }
}

TEST(RouterRefresh, TheFittedGateChoosesTheExpertsThatGiveMostMoreOftenThanTheOldOne) {
  const ModelConfig c = linear_gates();
  const std::unique_ptr<Communicator> world = single_rank();
  const ProcessGrid grid(*world, 1);
  Engine engine(c, parity_options(DType::f64), grid, parity_weights(c));
  const GlobalBatch batch = parity_batch(1);
  // Share of the first layer's choices that are among the k of the largest norm.
  const auto agreement = [&] {
    std::vector<ExpertOutputs> outputs;
    std::vector<ExpertChoice> choices;
    ForwardContext context;
    context.routing.outputs = &outputs;
    context.routing.choices = &choices;
    (void)engine.model().hidden_states(batch.all.tokens, context);
    const float* norms = outputs[0].norms.data<float>();
    const std::int32_t* chosen = choices[0].experts.data<std::int32_t>();
    double agree = 0;
    for (std::int64_t t = 0, real = 0; t < 48; ++t) {
      if (chosen[2 * t] < 0) continue;
      const float* row = norms + 5 * real++;
      for (int j = 0; j < 2; ++j)
        agree +=
            std::count_if(row, row + 5, [&](float n) { return n > row[chosen[2 * t + j]]; }) < 2;
    }
    return agree / double(2 * batch.counts.routed);
  };
  const double before = agreement();
  engine.refresh_routers(batch.all);
  const double after = agreement();
  EXPECT_LT(before, 0.6);
  EXPECT_GT(after, before + 0.2);
}

TEST(RouterRefresh, BlendsMastersWithWeightsAndStartsTheirMomentsAnew) {
  const ModelConfig c = linear_gates();
  EngineOptions o = parity_options(DType::bf16);
  const std::unique_ptr<Communicator> world = single_rank();
  const ProcessGrid grid(*world, 1);
  const auto gate_after = [&](double blend) {
    o.router.refresh_blend = blend;
    Engine engine(c, o, grid, parity_weights(c));
    const GlobalBatch batch = parity_batch(1);
    (void)engine.train_step(batch.all, batch.counts, 1, kRate);
    const Tensor before = to_f64(engine.parameters()["layers.0.router.weight"].value).clone();
    engine.refresh_routers(batch.all);
    const Tensor after = to_f64(engine.parameters()["layers.0.router.weight"].value).clone();
    for (const AdamW::State& s : engine.optimizer().states()) {
      const Parameter& p = engine.parameters().all()[s.rows.parameter];
      const Tensor m = to_f64(s.m), master = to_f64(s.master), w = to_f64(p.variable.value);
      const bool fresh = std::all_of(m.data<double>(), m.data<double>() + m.size(),
                                     [](double v) { return v == 0; });
      const bool gate = p.name().ends_with(".router.weight") || p.name().ends_with(".router.bias");
      EXPECT_EQ(fresh, gate) << p.name();
      for (std::int64_t i = 0; i < master.size(); ++i)
        EXPECT_EQ(double(float(bf16(float(master.data<double>()[i])))), w.data<double>()[i]);
    }
    // Nothing of the first layer's fit depends on its gate.
    engine.refresh_routers(batch.all);
    const Tensor again = to_f64(engine.parameters()["layers.0.router.weight"].value);
    EXPECT_EQ(relative_difference({0, again}, {0, after}) == 0, blend == 1);
    return std::pair(before, after);
  };
  const auto [before, whole] = gate_after(1);
  const auto [same, half] = gate_after(0.5);
  for (std::int64_t i = 0; i < whole.size(); ++i)
    EXPECT_NEAR(half.data<double>()[i], (before.data<double>()[i] + whole.data<double>()[i]) / 2,
                0.01 * (std::abs(before.data<double>()[i]) + std::abs(whole.data<double>()[i])));
}

using RefreshRun = RunFixture;

TEST_F(RefreshRun, HappensEveryNStepsAndResumesToTheBit) {
  const auto with = [&](const std::string& run, std::int64_t steps, std::int64_t every) {
    TrainConfig c = config(run, steps, 2);
    c.model.gate = GateKind::linear;
    c.model.gate_noise = false;
    c.router.refresh_every = every;
    train(2, c, std::filesystem::exists(folder_ / run) ? "auto" : "none");
    return curve(run);
  };
  const auto straight = with("straight", 8, 3), plain = with("plain", 8, 0);
  (void)with("resumed", 4, 3);
  auto resumed = with("resumed", 8, 3);
  resumed[3].back() = straight[3].back();  // an evaluation more, at the first part's end
  EXPECT_EQ(straight, resumed);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(straight[i][1] == plain[i][1], i < 3) << i;
  std::ifstream in(folder_ / "straight" / "metrics.jsonl");
  int step = 0;
  for (std::string line; std::getline(in, line);)
    EXPECT_EQ(nlohmann::json::parse(line).at("phase_seconds").contains("refresh"), ++step % 3 == 0);
}

}  // namespace
}  // namespace moe
