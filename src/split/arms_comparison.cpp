// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/log.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/activation_energy.h"
#include "split/arms.h"
#include "split/expert_sum.h"
#include "split/split_plan.h"
#include "split/text_stream.h"

namespace moe {
namespace {

using Clock = std::chrono::steady_clock;

/// The neurons of each token with the most energy, as many as are active.
Tensor best_neurons_output(const Tensor& inputs, const FfnMatrices& ffn, std::int64_t active) {
  Backend& device = backend(Device::cpu);
  Tensor y = Tensor::empty({inputs.rows(), ffn.down.cols()}, DType::f32);
  for (std::int64_t first = 0; first < inputs.rows(); first += kTextPart) {
    const std::int64_t n = std::min(kTextPart, inputs.rows() - first);
    const Tensor x = inputs.slice(first, n);
    const Tensor h = ffn_activations(x, ffn.gate, ffn.up);
    const Tensor energy = activation_energy(x, ffn);
    const std::int64_t neurons = h.cols();
    parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(neurons));
      for (std::int64_t t = begin; t < end; ++t) {
        const float* v = energy.data<float>() + t * neurons;
        std::iota(order.begin(), order.end(), 0);
        std::nth_element(order.begin(), order.begin() + active - 1, order.end(),
                         [v](std::int64_t a, std::int64_t b) { return v[a] > v[b]; });
        for (auto i = order.begin() + active; i != order.end(); ++i)
          h.data<float>()[t * neurons + *i] = 0;
      }
    });
    Tensor part = y.slice(first, n);
    device.gemm(part, h, false, ffn.down, false, 0);
  }
  return y;
}

/// Whom the oracle sends the tokens to: the experts with the longest outputs, added up.
TokenRouting oracle_routing(const ExpertSum& experts, const Tensor& inputs, std::int64_t k) {
  RouterConfig units;
  units.unit_weights = true;
  return route(experts.norms(inputs), k, units);
}

/// One test text on its way through the models that one arm makes of it.
struct Streams {
  TextStream written, unrefitted, oracle;
};

class Comparison {
 public:
  Comparison(const ArmsOptions& options, Communicator& world)
      : o_(options), world_(world), dense_(options.split.input) {
    MOE_REQUIRE(!o_.tests.empty(), "arms need a test text: give token shards with --test");
    const ModelConfig& c = dense_.config();
    report_.neurons = c.intermediate_size;
    report_.active_neurons =
        active_neurons(c.intermediate_size, o_.split.experts, o_.split.shared, o_.split.top_k);
    report_.dense_parameters = count_parameters(c).total;
    for (const ArmTest& test : o_.tests) {
      CalibrationOptions text = o_.split.calibration;
      text.shards = test.shards;
      text.tokens = std::numeric_limits<std::int64_t>::max();
      texts_.push_back(load_calibration(text, dense_, 0, world));
    }
    for (const CalibrationText& text : texts_) tests_.emplace_back(dense_, text, world_);
  }

  ArmsReport run() {
    measure_dense();
    std::map<std::string, std::vector<DocumentLosses>> by_arm;  // mean over seeds, of each test
    for (const Arm& arm : o_.arms) by_arm[arm.name] = run_arm(arm);
    const auto own = by_arm.find(kOwnArm);
    for (ArmResult& arm : report_.arms)
      for (std::size_t t = 0; t < tests_.size() && own != by_arm.end(); ++t)
        if (arm.name != kOwnArm)
          arm.losses[t].behind = paired_difference(by_arm.at(arm.name)[t], own->second[t]);
    return std::move(report_);
  }

 private:
  void measure_dense() {
    std::vector<TextStream> best;
    for (const CalibrationText& text : texts_) {
      parents_.emplace_back(dense_, text);
      best.emplace_back(dense_, text);
    }
    for (std::int64_t l = 0; l < dense_.config().layers; ++l) {
      const DenseLayer layer(dense_, l);
      const FfnMatrices ffn{layer.gate(), layer.up(), layer.down()};
      for (std::size_t t = 0; t < texts_.size(); ++t) {
        parents_[t].attend(layer);
        parents_[t].add_dense_ffn(layer);
        best[t].attend(layer);
        best[t].add(best_neurons_output(best[t].ffn_input(layer), ffn, report_.active_neurons));
      }
    }
    for (std::size_t t = 0; t < texts_.size(); ++t) {
      dense_losses_.push_back(tests_[t].losses(parents_[t]));
      const DocumentLosses& d = dense_losses_.back();
      report_.tests.push_back({o_.tests[t].name, std::int64_t(d.documents.size()),
                               std::int64_t(d.labels()), d.mean(),
                               tests_[t].losses(best[t]).mean() - d.mean()});
    }
  }

  /// The mean over seeds of each test's losses.
  std::vector<DocumentLosses> run_arm(const Arm& arm) {
    ArmResult result;
    result.name = arm.name;
    result.what = arm.what;
    result.losses.resize(texts_.size());
    std::vector<std::vector<DocumentLosses>> written(texts_.size());
    const double share = 1 / double(o_.seeds.size());
    for (const std::uint64_t seed : o_.seeds) {
      SplitOptions split = o_.split;
      split.format = ModelFormat::native;
      split.dtype = DType::f32;
      split.seed = seed;
      split.dry_run = true;
      for (const ArmTest& test : o_.tests)
        split.unseen.insert(split.unseen.end(), test.shards.begin(), test.shards.end());
      arm.set(split);
      std::vector<Streams> streams;
      for (const CalibrationText& text : texts_) {
        const TextStream begin(dense_, text);
        streams.push_back({begin, begin, begin});
      }
      const auto start = Clock::now();
      double measuring = 0;
      const SplitPlan plan =
          plan_split(dense_, split, world_,
                     [&](std::int64_t, const DenseLayer& layer, const PlannedRouting* planned) {
                       const auto before = Clock::now();
                       for (Streams& s : streams) move_on(layer, planned, split.top_k, s);
                       measuring += seconds_since(before);
                     });
      const double planning = seconds_since(start) - measuring;
      result.seconds += planning * share;
      describe(plan, split.top_k, share, &result);
      for (std::size_t t = 0; t < texts_.size(); ++t) {
        written[t].push_back(tests_[t].losses(streams[t].written));
        ArmLoss& loss = result.losses[t];
        const double dense = dense_losses_[t].mean();
        loss.by_seed.push_back(written[t].back().mean());
        loss.kl += tests_[t].divergence(parents_[t], streams[t].written) * share;
        loss.by_oracle += (tests_[t].losses(streams[t].oracle).mean() - dense) * share;
        loss.unrefitted += (tests_[t].losses(streams[t].unrefitted).mean() - dense) * share;
      }
      log_info("{}, seed {}: {:+.3f} nats on {}, planned in {:.1f} s", arm.name, seed,
               result.losses[0].by_seed.back() - dense_losses_[0].mean(), o_.tests[0].name,
               planning);
    }
    std::vector<DocumentLosses> mean;
    for (std::size_t t = 0; t < texts_.size(); ++t) {
      mean.push_back(mean_of(written[t]));
      result.losses[t].added = paired_difference(mean[t], dense_losses_[t]);
    }
    report_.arms.push_back(std::move(result));
    return mean;
  }

  static void move_on(const DenseLayer& layer, const PlannedRouting* planned, std::int64_t k,
                      Streams& s) {
    for (TextStream* stream : {&s.written, &s.unrefitted, &s.oracle}) stream->attend(layer);
    if (planned == nullptr) {
      for (TextStream* stream : {&s.written, &s.unrefitted, &s.oracle})
        stream->add_dense_ffn(layer);
      return;
    }
    ExpertSum experts({layer.gate(), layer.up(), layer.down()}, planned->layer.partition);
    const auto add = [&](TextStream& stream) {
      const Tensor x = stream.ffn_input(layer);
      stream.add(experts.output(x, planned->route(x), planned->scale));
    };
    const Tensor x = s.oracle.ffn_input(layer);
    s.oracle.add(experts.output(x, oracle_routing(experts, x, k), 1));
    add(s.unrefitted);
    const auto& refit = planned->layer.refit;
    if (refit && refit->down.defined()) experts.set_down(refit->down, refit->bias);
    add(s.written);
  }

  void describe(const SplitPlan& plan, std::int64_t k, double share, ArmResult* result) {
    report_.calibration_tokens = std::max(report_.calibration_tokens, plan.calibration_tokens);
    report_.validation_tokens = std::max(report_.validation_tokens, plan.validation_tokens);
    result->activated = count_parameters(plan.config).activated;
    for (const auto& [l, layer] : plan.layers) {
      const std::vector<std::int64_t>& load = layer.quality.at(k).load;
      const double mean =
          double(std::accumulate(load.begin(), load.end(), std::int64_t{0})) / double(load.size());
      result->load_max += double(*std::max_element(load.begin(), load.end())) /
                          std::max(mean, 1e-300) * share / double(plan.layers.size());
      if (!layer.refit || layer.refit->note.empty()) continue;
      const std::string note = str("layer ", l, ": ", layer.refit->note);
      if (std::find(result->notes.begin(), result->notes.end(), note) == result->notes.end())
        result->notes.push_back(note);
    }
  }

  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  const ArmsOptions& o_;
  Communicator& world_;
  const ModelFolder dense_;
  std::vector<CalibrationText> texts_;  // of each test
  std::vector<TextLosses> tests_;
  std::vector<TextStream> parents_;  // through the dense model
  std::vector<DocumentLosses> dense_losses_;
  ArmsReport report_;
};

}  // namespace

ArmsReport compare_arms(const ArmsOptions& options, Communicator& world) {
  return Comparison(options, world).run();
}

}  // namespace moe
