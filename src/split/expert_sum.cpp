// SPDX-License-Identifier: Apache-2.0
#include "split/expert_sum.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "split/dense_layer.h"

namespace moe {
namespace {

Tensor rows_of(const Tensor& x, const std::vector<std::int64_t>& rows) {
  const Tensor y = Tensor::empty({std::int64_t(rows.size()), x.cols()}, DType::f32);
  for (std::size_t i = 0; i < rows.size(); ++i)
    std::memcpy(y.data<float>() + std::int64_t(i) * x.cols(), x.data<float>() + rows[i] * x.cols(),
                std::size_t(x.cols()) * sizeof(float));
  return y;
}

/// body(first, count) for the parts of so many rows.
template <class Body>
void for_parts(std::int64_t rows, Body&& body) {
  for (std::int64_t first = 0; first < rows; first += kTextPart)
    body(first, std::min(kTextPart, rows - first));
}

}  // namespace

ExpertSum::ExpertSum(const FfnMatrices& ffn, const Partition& partition) : offsets_{0} {
  for (const auto& expert : partition.experts)
    offsets_.push_back(offsets_.back() + std::int64_t(expert.size()));
  std::vector<std::int64_t> order = concatenated(partition.experts);
  const std::vector<std::int64_t> shared = concatenated(partition.shared);
  order.insert(order.end(), shared.begin(), shared.end());
  gate_ = rows_of(ffn.gate, order);
  up_ = rows_of(ffn.up, order);
  down_ = rows_of(ffn.down, order);
}

void ExpertSum::set_down(Tensor down, Tensor bias) {
  MOE_CHECK(down.shape() == down_.shape(), "down projections ", join(down.shape()), " for ",
            join(down_.shape()));
  down_ = std::move(down);
  bias_ = std::move(bias);
}

Tensor ExpertSum::activations(const Tensor& inputs) const {
  return ffn_activations(inputs, gate_, up_);
}

Tensor ExpertSum::output(const Tensor& inputs, const TokenRouting& routing, double scale) const {
  Backend& device = backend(Device::cpu);
  Tensor y = Tensor::empty({inputs.rows(), down_.cols()}, DType::f32);
  const std::int64_t k = routing.experts.cols();
  for_parts(inputs.rows(), [&](std::int64_t first, std::int64_t n) {
    const Tensor h = activations(inputs.slice(first, n));
    Tensor weights = Tensor::zeros({n, experts()}, DType::f32);
    parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        float* w = weights.data<float>() + t * experts();
        for (std::int64_t j = 0; j < k; ++j) {
          const std::int64_t at = (first + t) * k + j;
          w[routing.experts.data<std::int32_t>()[at]] +=
              float(scale) * routing.weights.data<float>()[at];
        }
        float* a = h.data<float>() + t * h.cols();
        for (std::int64_t e = 0; e < experts(); ++e)
          for (std::int64_t i = offsets_[std::size_t(e)]; i < offsets_[std::size_t(e) + 1]; ++i)
            a[i] *= w[e];
      }
    });
    Tensor part = y.slice(first, n);
    device.gemm(part, h, false, down_, false, 0);
    if (bias_.defined()) device.gemm(part, weights, false, bias_, false, 1);
  });
  return y;
}

Tensor ExpertSum::norms(const Tensor& inputs) const {
  Backend& device = backend(Device::cpu);
  const Tensor norms = Tensor::empty({inputs.rows(), experts()}, DType::f32);
  for (std::int64_t e = 0; e < experts(); ++e) {
    const std::int64_t begin = offsets_[std::size_t(e)];
    const std::int64_t count = offsets_[std::size_t(e) + 1] - begin;
    const Tensor gate = gate_.slice(begin, count), up = up_.slice(begin, count);
    // ||h down||^2 = h (down down^T) h^T, which is less work for fewer neurons than channels.
    const Tensor down = down_.slice(begin, count);
    const bool few = count < down.cols();
    Tensor gram = few ? Tensor::empty({count, count}, DType::f32) : down;
    if (few) device.gemm(gram, down, false, down, true, 0);
    for_parts(inputs.rows(), [&](std::int64_t first, std::int64_t n) {
      const Tensor h = ffn_activations(inputs.slice(first, n), gate, up);
      Tensor y = Tensor::empty({n, gram.cols()}, DType::f32);
      device.gemm(y, h, false, gram, false, 0);
      const Tensor& other = few ? h : y;
      parallel_for(n, 64, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t t = from; t < to; ++t) {
          double sum = 0;
          for (std::int64_t c = t * y.cols(); c < (t + 1) * y.cols(); ++c)
            sum += double(y.data<float>()[c]) * double(other.data<float>()[c]);
          norms.data<float>()[(first + t) * experts() + e] = float(std::sqrt(std::max(sum, 0.0)));
        }
      });
    });
  }
  return norms;
}

Tensor dense_ffn_output(const Tensor& inputs, const FfnMatrices& ffn) {
  Tensor y = Tensor::empty({inputs.rows(), ffn.down.cols()}, DType::f32);
  for_parts(inputs.rows(), [&](std::int64_t first, std::int64_t n) {
    Tensor part = y.slice(first, n);
    backend(Device::cpu)
        .gemm(part, ffn_activations(inputs.slice(first, n), ffn.gate, ffn.up), false, ffn.down,
              false, 0);
  });
  return y;
}

}  // namespace moe
