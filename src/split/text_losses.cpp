// SPDX-License-Identifier: Apache-2.0
#include "split/text_losses.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/backend.h"
#include "ops/loss.h"
#include "ops/norm.h"

namespace moe {
namespace {

constexpr std::int64_t kRows = 256;  // whose logits exist at once

/// Rows of logits to rows of log-probabilities.
void to_log_probabilities(const Tensor& logits) {
  parallel_for(logits.rows(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      float* row = logits.data<float>() + r * logits.cols();
      const float most = *std::max_element(row, row + logits.cols());
      double sum = 0;
      for (std::int64_t c = 0; c < logits.cols(); ++c) sum += double(std::exp(row[c] - most));
      const float shift = most + float(std::log(sum));
      for (std::int64_t c = 0; c < logits.cols(); ++c) row[c] -= shift;
    }
  });
}

double divergence_of(const float* parent, const float* other, std::int64_t n) {
  double sum = 0;
  for (std::int64_t c = 0; c < n; ++c)
    sum += double(std::exp(parent[c])) * double(parent[c] - other[c]);
  return sum;
}

}  // namespace

double DocumentLosses::labels() const {
  return std::accumulate(documents.begin(), documents.end(), 0.0,
                         [](double sum, const auto& d) { return sum + d.second.labels; });
}

double DocumentLosses::mean() const {
  const double sum = std::accumulate(documents.begin(), documents.end(), 0.0,
                                     [](double s, const auto& d) { return s + d.second.loss; });
  return sum / std::max(labels(), 1.0);
}

WithInterval paired_difference(const DocumentLosses& a, const DocumentLosses& b) {
  MOE_CHECK(a.documents.size() == b.documents.size(), "losses of ", a.documents.size(), " and ",
            b.documents.size(), " documents");
  const double mean = a.mean() - b.mean(), labels = a.labels();
  const auto n = double(a.documents.size());
  double squares = 0;
  for (const auto& [id, x] : a.documents) {
    const double residual = x.loss - b.documents.at(id).loss - mean * x.labels;
    squares += residual * residual;
  }
  if (n < 2) return {mean, INFINITY};
  return {mean, 1.96 * std::sqrt(squares * n / (n - 1)) / labels};
}

DocumentLosses mean_of(const std::vector<DocumentLosses>& models) {
  DocumentLosses mean = models.at(0);
  for (auto& [id, d] : mean.documents) {
    d.loss = 0;
    for (const DocumentLosses& m : models)
      d.loss += m.documents.at(id).loss / double(models.size());
  }
  return mean;
}

TextLosses::TextLosses(const ModelFolder& dense, const CalibrationText& text, Communicator& world)
    : text_(text),
      world_(world),
      eps_(dense.config().rms_norm_eps),
      norm_(dense.read("norm.weight", DType::f32)),
      head_(
          dense.read(dense.config().tie_embeddings ? "embed.weight" : "head.weight", DType::f32)) {
  for (const Batch& b : text.batches)
    for (std::int64_t t = 0; t < b.tokens.size(); ++t) {
      if (b.tokens.data<std::int32_t>()[t] < 0) continue;
      labels_.push_back(b.labels.data<std::int32_t>()[t]);
      document_of_.push_back(b.sequence_ids[std::size_t(t / b.tokens.cols())]);
    }
}

Tensor TextLosses::head_input(const TextStream& stream) const {
  const NoTape no_recording;
  return ops::rmsnorm(Variable::constant(stream.rows()), Variable::constant(norm_), eps_).value;
}

DocumentLosses TextLosses::losses(const TextStream& stream) const {
  const NoTape no_recording;
  const auto tokens = std::int64_t(labels_.size());
  const Tensor loss =
      ops::linear_cross_entropy(Variable::constant(head_input(stream)), Variable::constant(head_),
                                Tensor::of<std::int32_t>({tokens}, labels_), 1)
          .token_loss;
  Tensor last = Tensor::of<std::int64_t>(
      {1},
      {document_of_.empty() ? 0 : *std::max_element(document_of_.begin(), document_of_.end())});
  world_.all_reduce(last, ReduceOp::max).wait();
  const std::int64_t count = last.data<std::int64_t>()[0] + 1;
  Tensor sums = Tensor::zeros({count, 2}, DType::f64);
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (labels_[std::size_t(t)] < 0) continue;
    double* of = sums.data<double>() + 2 * document_of_[std::size_t(t)];
    of[0] += double(loss.data<float>()[t]);
    of[1] += 1;
  }
  world_.all_reduce(sums, ReduceOp::sum).wait();
  DocumentLosses result;
  for (std::int64_t d = 0; d < count; ++d)
    if (const double* of = sums.data<double>() + 2 * d; of[1] > 0)
      result.documents[d] = {of[0], of[1]};
  return result;
}

double TextLosses::divergence(const TextStream& parent, const TextStream& stream) const {
  Backend& device = backend(Device::cpu);
  const Tensor a = head_input(parent), b = head_input(stream);
  Tensor sums = Tensor::zeros({2}, DType::f64);
  for (std::int64_t first = 0; first < a.rows(); first += kRows) {
    const std::int64_t n = std::min(kRows, a.rows() - first);
    Tensor p = Tensor::empty({n, head_.rows()}, DType::f32), q = empty_like(p);
    device.gemm(p, a.slice(first, n), false, head_, true, 0);
    device.gemm(q, b.slice(first, n), false, head_, true, 0);
    to_log_probabilities(p);
    to_log_probabilities(q);
    sums.data<double>()[0] += parallel_sum(n, 1, [&](std::int64_t r, std::int64_t) {
      if (labels_[std::size_t(first + r)] < 0) return 0.0;
      return divergence_of(p.data<float>() + r * p.cols(), q.data<float>() + r * q.cols(),
                           p.cols());
    });
    for (std::int64_t r = 0; r < n; ++r)
      sums.data<double>()[1] += labels_[std::size_t(first + r)] >= 0;
  }
  world_.all_reduce(sums, ReduceOp::sum).wait();
  return sums.data<double>()[0] / std::max(sums.data<double>()[1], 1.0);
}

}  // namespace moe
