// SPDX-License-Identifier: Apache-2.0
#include "split/importance.h"

#include <cmath>

#include "core/parallel.h"
#include "kernels/backend.h"
#include "ops/elementwise.h"
#include "ops/loss.h"
#include "ops/norm.h"

namespace moe {
namespace {

/// Consecutive batches whose layers' inputs are held together.
struct Wave {
  std::size_t first, last;  // batches
  std::int64_t first_token;
};

std::vector<Wave> waves_of(const CalibrationText& text, std::int64_t layers, std::int64_t hidden,
                           std::int64_t boundary_bytes) {
  std::vector<Wave> waves;
  std::int64_t held = 0, token = 0;
  for (std::size_t b = 0; b < text.batches.size(); ++b) {
    const Tensor& ids = text.batches[b].tokens;
    const std::int64_t bytes = ids.size() * hidden * (layers + 1) * 4;
    if (waves.empty() || held + bytes > boundary_bytes) {
      waves.push_back({b, b, token});
      held = 0;
    }
    held += bytes;
    waves.back().last = b + 1;
    for (std::int64_t t = 0; t < ids.size(); ++t) token += ids.data<std::int32_t>()[t] >= 0;
  }
  return waves;
}

/// sums[c, n] += |h dh| of the tokens of cluster c. h, dh: f32 [tokens, neurons].
void add_scores(const Tensor& sums, const Tensor& h, const Tensor& dh, const std::int32_t* ids,
                const std::int32_t* cluster) {
  const std::int64_t neurons = h.cols();
  parallel_for(neurons, 256, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t counted = 0;
    for (std::int64_t t = 0; t < h.rows(); ++t) {
      if (ids[t] < 0) continue;
      double* row = sums.data<double>() + cluster[counted++] * neurons;
      const float *a = h.data<float>() + t * neurons, *b = dh.data<float>() + t * neurons;
      for (std::int64_t n = begin; n < end; ++n) row[n] += double(std::fabs(a[n] * b[n]));
    }
  });
}

class Pass {
 public:
  Pass(const ModelFolder& dense, const CalibrationText& text, std::int64_t clusters)
      : dense_(dense), config_(dense.config()), text_(text) {
    for (std::int64_t l = 0; l < config_.layers; ++l)
      sums_.push_back(Tensor::zeros({clusters, config_.intermediate_size}, DType::f64));
  }

  void run(const Wave& wave, const TokenClusters& clusters_of) {
    std::vector<std::vector<Tensor>> inputs = forward(wave);
    std::vector<Tensor> dx = loss_gradients(wave, inputs.back());
    for (std::int64_t l = config_.layers - 1; l >= 0; --l) {
      inputs.pop_back();
      const DenseLayer layer(dense_, l);
      const std::int32_t* cluster = clusters_of(l).data() + wave.first_token;
      for (std::size_t b = wave.first; b < wave.last; ++b) {
        Tensor& d = dx[b - wave.first];
        d = backward(layer, text_.batches[b], inputs.back()[b - wave.first], d,
                     sums_[std::size_t(l)], cluster);
        const auto* ids = text_.batches[b].tokens.data<std::int32_t>();
        for (std::int64_t t = 0; t < text_.batches[b].tokens.size(); ++t) cluster += ids[t] >= 0;
      }
    }
  }

  std::vector<Tensor>& sums() { return sums_; }

 private:
  /// The input of every layer, and of the final norm, for each batch.
  std::vector<std::vector<Tensor>> forward(const Wave& wave) const {
    const NoTape no_recording;
    CalibrationText part;
    part.batches.assign(text_.batches.begin() + std::ptrdiff_t(wave.first),
                        text_.batches.begin() + std::ptrdiff_t(wave.last));
    std::vector<std::vector<Tensor>> inputs = {embed(dense_, part)};
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      const DenseLayer layer(dense_, l);
      std::vector<Tensor> next;
      for (std::size_t b = 0; b < part.batches.size(); ++b) {
        const Tensor& ids = part.batches[b].tokens;
        const Tensor middle =
            layer.after_attention(Variable::constant(inputs.back()[b]), ids.rows(), ids.cols())
                .value;
        const Tensor u = layer.ffn_input(Variable::constant(middle)).value;
        Tensor y = middle.clone();
        backend(Device::cpu)
            .gemm(y, ffn_activations(u, layer.gate(), layer.up()), false, layer.down(), false, 1);
        next.push_back(std::move(y));
      }
      inputs.push_back(std::move(next));
    }
    return inputs;
  }

  std::vector<Tensor> loss_gradients(const Wave& wave, const std::vector<Tensor>& x) const {
    const Variable norm = Variable::constant(dense_.read("norm.weight", DType::f32));
    const Variable head = Variable::constant(
        dense_.read(config_.tie_embeddings ? "embed.weight" : "head.weight", DType::f32));
    std::vector<Tensor> dx;
    for (std::size_t b = wave.first; b < wave.last; ++b) {
      const Tensor& labels = text_.batches[b].labels;
      Tape tape;
      const Variable leaf = Variable::leaf(x[b - wave.first]);
      tape.backward(ops::linear_cross_entropy(ops::rmsnorm(leaf, norm, config_.rms_norm_eps), head,
                                              labels.view({labels.size()}),
                                              1.0 / double(text_.all_labels))
                        .loss);
      dx.push_back(leaf.slot->grad);
    }
    return dx;
  }

  /// The gradient of the layer's input from that of its output; adds to the neurons' scores.
  Tensor backward(const DenseLayer& layer, const Batch& batch, const Tensor& x, const Tensor& dy,
                  const Tensor& sums, const std::int32_t* cluster) const {
    Backend& device = backend(Device::cpu);
    Tape tape;
    const Variable leaf = Variable::leaf(x);
    const Variable middle = layer.after_attention(leaf, batch.tokens.rows(), batch.tokens.cols());
    const Variable u = layer.ffn_input(middle);

    Tensor g = Tensor::empty({x.rows(), layer.gate().rows()}, DType::f32), v = empty_like(g),
           h = empty_like(g), dh = empty_like(g);
    device.gemm(g, u.value, false, layer.gate(), true, 0);
    device.gemm(v, u.value, false, layer.up(), true, 0);
    device.gemm(dh, dy, false, layer.down(), true, 0);
    device.swiglu_forward(h, g, v);
    add_scores(sums, h, dh, batch.tokens.data<std::int32_t>(), cluster);
    device.swiglu_backward(g, v, h, dh, g, v);
    Tensor du = Tensor::empty(u.value.shape(), DType::f32);
    device.gemm(du, g, false, layer.gate(), false, 0);
    device.gemm(du, v, false, layer.up(), false, 1);

    const Variable outputs[] = {middle, u};
    const Tensor gradients[] = {dy, du};
    tape.backward(outputs, gradients);
    return leaf.slot->grad;
  }

  const ModelFolder& dense_;
  const ModelConfig& config_;
  const CalibrationText& text_;
  std::vector<Tensor> sums_;
};

}  // namespace

std::vector<Tensor> importance_scores(const ModelFolder& dense, const CalibrationText& text,
                                      const TokenClusters& clusters_of, std::int64_t clusters,
                                      Communicator& world, std::int64_t boundary_bytes) {
  const ModelConfig& config = dense.config();
  Pass pass(dense, text, clusters);
  for (const Wave& wave : waves_of(text, config.layers, config.hidden_size, boundary_bytes))
    pass.run(wave, clusters_of);
  for (std::int64_t l = 0; l < config.layers; ++l) {
    Tensor& sums = pass.sums()[std::size_t(l)];
    Tensor counts = Tensor::zeros({clusters}, DType::f64);
    for (const std::int32_t c : clusters_of(l)) counts.data<double>()[c] += 1;
    world.all_reduce(sums, ReduceOp::sum).wait();
    world.all_reduce(counts, ReduceOp::sum).wait();
    for (std::int64_t c = 0; c < clusters; ++c)
      for (std::int64_t n = 0; n < sums.cols(); ++n)
        if (const double tokens = counts.data<double>()[c]; tokens > 0)
          sums.data<double>()[c * sums.cols() + n] /= tokens;
  }
  return std::move(pass.sums());
}

}  // namespace moe
