// SPDX-License-Identifier: Apache-2.0
#include "train/router_refresh.h"

#include <algorithm>
#include <map>

#include "comm/watchdog.h"
#include "kernels/backend.h"
#include "split/logistic_router.h"

namespace moe {
namespace {

constexpr double kRidge = 1e-4;
constexpr int kIterations = 60;

/// Tensors of as many columns, one below the other.
Tensor stacked(const std::vector<Tensor>& parts) {
  std::int64_t rows = 0;
  for (const Tensor& t : parts) rows += t.rows();
  Tensor all = Tensor::empty({rows, parts.front().cols()}, parts.front().dtype());
  std::int64_t first = 0;
  for (const Tensor& t : parts) {
    if (t.rows() > 0) all.slice(first, t.rows()).copy_from(t);
    first += t.rows();
  }
  return all;
}

struct Layer {
  std::vector<Tensor> x, norms;  // by micro-batch
};

std::map<std::int64_t, Layer> run(const Transformer& model, const Batch& batch,
                                  std::int64_t micro_batch) {
  std::map<std::int64_t, Layer> layers;
  const std::int64_t sequences = batch.tokens.rows();
  for (std::int64_t first = 0; first < sequences; first += micro_batch) {
    const std::int64_t n = std::min(micro_batch, sequences - first);
    std::vector<ExpertOutputs> outputs;
    ForwardContext context;
    context.routing.outputs = &outputs;
    if (batch.document_starts.defined())
      context.document_starts = batch.document_starts.slice(first, n);
    (void)model.hidden_states(batch.tokens.slice(first, n), context);
    for (ExpertOutputs& o : outputs) {
      layers[o.layer].x.push_back(std::move(o.x));
      layers[o.layer].norms.push_back(std::move(o.norms));
    }
  }
  return layers;
}

}  // namespace

void refresh_routers(const Transformer& model, ParameterStore& parameters, AdamW& optimizer,
                     const Batch& batch, std::int64_t micro_batch, double blend,
                     Communicator& world) {
  const RouterConfig& router = model.config().moe;
  const DType acc = accumulator(parameters.dtype());
  const auto replace = [&](const std::string& name, const Tensor& fitted) {
    world.broadcast(fitted, 0).wait();
    const auto p = std::size_t(std::ranges::find(parameters.all(), name, &Parameter::name) -
                               parameters.all().begin());
    const Tensor old = parameters.all()[p].variable.value;
    Tensor values = Tensor::empty(old.shape(), acc, old.device()), share = empty_like(values);
    Backend& device = backend(old.device());
    device.cast(values, old);
    device.scale(values, 1 - blend);
    device.cast(share, fitted.to(old.device()));
    device.scale(share, blend);
    device.add_into(values, share);
    optimizer.replace(p, values);
  };
  set_phase("router refresh");
  for (const auto& [layer, seen] : run(model, batch, micro_batch)) {
    set_phase("router refresh", std::int32_t(layer));
    const GateRegression regression(stacked(seen.x), kRidge, router.gate_bias, world);
    const GateWeights fit =
        regression.logistic(best_experts(stacked(seen.norms), router.top_k), kIterations);
    replace(str("layers.", layer, ".router.weight"), fit.weight);
    if (router.gate_bias) replace(str("layers.", layer, ".router.bias"), fit.bias);
  }
}

}  // namespace moe
