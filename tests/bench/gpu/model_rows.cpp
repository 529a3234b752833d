// SPDX-License-Identifier: Apache-2.0
#include "model_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "bench_model.h"
#include "bench_support.h"
#include "core/cuda_device.h"
#include "device_timer.h"
#include "layer_pass.h"
#include "train/step_metrics.h"

namespace moe {
namespace {

constexpr std::int64_t kLength = 4096;

struct Mixture {
  const char* name;
  std::int64_t experts, top_k;
};
constexpr Mixture kMixtures[] = {{"2/8", 8, 2}, {"4/16", 16, 4}};

/// LLaMA-MoE-3.5B with fewer layers. The routers' biases steer the loads.
ModelConfig model_of(const Mixture& mixture, std::int64_t layers) {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.layers = layers;
  c.heads = c.kv_heads = 32;
  c.head_dim = 128;
  c.max_positions = kLength;
  c.moe.experts = mixture.experts;
  c.moe.top_k = mixture.top_k;
  c.moe.gate = GateKind::linear;
  c.moe.gate_noise = false;
  c.moe.gate_bias = true;
  const std::vector<std::int64_t> sizes(std::size_t(mixture.experts), 11008 / mixture.experts);
  c.moe.expert_sizes.assign(std::size_t(layers), sizes);
  c.moe.score_scale.assign(std::size_t(layers), double(mixture.experts) / double(mixture.top_k));
  return c;
}

/// Normal numbers that repeat: drawing billions would take longer than all measurements. Norms are
/// ones; routers have the logarithm of the wanted loads as biases.
ParameterRows bench_weights(const ModelConfig& config, const ExpertLoads& loads) {
  constexpr std::int64_t kDrawn = (std::int64_t{1} << 20) + 7;
  Tensor drawn = Tensor::empty({kDrawn}, DType::f32);
  const std::vector<Philox> stream = {Philox(1, RandomPurpose::test)};
  backend(Device::cpu).normal(drawn, stream);
  backend(Device::cpu).scale(drawn, config.initializer_range);
  std::map<std::string, Shape> shapes;
  for (const ParameterSpec& spec : model_parameters(config)) shapes[spec.name] = spec.shape;
  return [=](const std::string& name, std::int64_t first, std::int64_t count) {
    Shape shape = shapes.at(name);
    shape[0] = count;
    Tensor t = Tensor::empty(shape, DType::f32);
    float* const to = t.data<float>();
    if (name.ends_with("router.bias")) {
      for (std::int64_t e = 0; e < count; ++e)
        to[e] = float(std::log(loads[std::size_t(first + e)] * double(loads.size())));
    } else if (name.ends_with("norm.weight")) {
      std::fill_n(to, t.size(), 1.0f);
    } else {
      for (std::int64_t at = 0; at < t.size(); at += kDrawn)
        std::memcpy(to + at, drawn.data<float>(),
                    std::size_t(std::min(kDrawn, t.size() - at)) * sizeof(float));
    }
    return t;
  };
}

double largest_skew(const StepResult& result) {
  double largest = 0;
  for (const std::vector<std::int64_t>& loads : result.routing.loads) {
    const double mean =
        double(std::accumulate(loads.begin(), loads.end(), std::int64_t{0})) / double(loads.size());
    if (mean > 0)
      largest = std::max(largest, double(*std::max_element(loads.begin(), loads.end())) / mean);
  }
  return largest;
}

ModelRow measure_step(const std::string& name, const ModelConfig& config, std::int64_t sequences,
                      const ExpertLoads& loads) {
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  EngineOptions options;
  options.dtype = DType::bf16;
  options.device = Device::cuda;
  options.micro_batch = sequences;
  Engine engine(config, options, grid, bench_weights(config, loads));
  const Batch batch = bench_batch(0, sequences, kLength);
  const std::int64_t tokens = sequences * kLength;
  std::vector<double> seconds;
  double reached = 0;
  for (int step = 1; step <= 8; ++step) {
    const double s = seconds_of([&] {
      reached = largest_skew(engine.train_step(batch, {tokens, tokens}, step, 0));
      cuda::synchronize();
    });
    if (step > 3) seconds.push_back(s);
  }
  return {name, median(seconds), double(tokens), step_flops(config, tokens, kLength), reached};
}

}  // namespace

std::int64_t layers_that_fit(std::int64_t sequences) {
  // Weights, gradients, masters and two moments; what one token leaves for backward in a layer; the
  // embeddings and a chunk of logits.
  constexpr double kBytesOfParameter = 18, kBytesOfToken = 200e3, kRest = 10e9;
  const ModelConfig one = model_of(kMixtures[1], 1), two = model_of(kMixtures[1], 2);
  const double parameters = double(count_parameters(two).total - count_parameters(one).total);
  const double layer = parameters * kBytesOfParameter + double(sequences * kLength) * kBytesOfToken;
  return std::clamp(std::int64_t((0.95 * double(cuda::free_bytes()) - kRest) / layer),
                    std::int64_t{1}, std::int64_t{32});
}

void each_layer(std::int64_t sequences, const std::function<void(const ModelRow&)>& show) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(sequences));
  std::iota(ids.begin(), ids.end(), 0);
  const ForwardContext context = layer_context(ids, kLength);
  const auto world = single_rank();
  const ProcessGrid grid(*world, 1);
  for (const Mixture& mixture : kMixtures) {
    const ModelConfig config = model_of(mixture, 1);
    ParameterStore store(config, DType::bf16, 0, 1, Device::cuda);
    store.load(bench_weights(config, balanced_loads(mixture.experts)));
    const MoeLayer experts(config, store, 0, grid);
    const Tensor x = random_on_device({context.tokens(), config.hidden_size}, DType::bf16);
    const Tensor dy = random_on_device(x.shape(), DType::bf16);
    const double seconds = device_seconds([&] {
      for (Parameter& p : store.all()) p.variable.slot->grad = {};
      layer_pass([&](const Variable& v) { return experts.forward(v, context); }, x, dy);
    });
    const double flops = 6.0 * double(context.tokens() * mixture.top_k) * 3 *
                         double(11008 / mixture.experts) * double(config.hidden_size);
    show({str("MoE layer ", mixture.name), seconds, double(context.tokens()), flops, 0});
  }
}

void each_step(std::int64_t layers, std::int64_t sequences, const std::string& trace,
               const std::function<void(const ModelRow&)>& show) {
  for (const Mixture& mixture : kMixtures) {
    const ModelConfig config = model_of(mixture, layers);
    const std::string name = str("step ", mixture.name, ", ", layers, " layers");
    show(measure_step(name, config, sequences, balanced_loads(mixture.experts)));
    show(measure_step(
        name + ", skewed", config, sequences,
        trace.empty() ? one_hot_load(mixture.experts, 4) : loads_of_trace(trace, mixture.experts)));
  }
}

}  // namespace moe
