// SPDX-License-Identifier: Apache-2.0
#include "eval/model_difference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "kernels/backend.h"

namespace moe {
namespace {

constexpr std::int64_t kRows = 1024;  // of a parameter compared at once

/// A model cut off after some layers: the same weights, fewer layers.
class CutModel {
 public:
  CutModel(const ModelSource& source, DType dtype)
      : config_(source.config),
        world_(single_rank()),
        grid_(*world_, 1),
        parameters_(config_, dtype) {
    parameters_.load(source.rows);
  }

  /// acc[tokens, vocabulary]
  Tensor logits(const Tensor& tokens, std::int64_t layers) const {
    ModelConfig config = config_;
    config.layers = layers;
    return Transformer(config, parameters_, grid_).logits(tokens, {});
  }

 private:
  ModelConfig config_;
  std::unique_ptr<Communicator> world_;
  ProcessGrid grid_;
  ParameterStore parameters_;
};

struct Largest {
  double difference = 0, logit = 0;
};

/// NaN in either counts as an infinite difference. Rows of padding are left out.
Largest largest_of(const Tensor& a, const Tensor& b, const Tensor& tokens) {
  Largest largest;
  for_accumulator(a.dtype(), [&]<class A>(A) {
    for (std::int64_t t = 0; t < a.rows(); ++t) {
      if (tokens.data<std::int32_t>()[t] < 0) continue;
      for (std::int64_t i = t * a.cols(); i < (t + 1) * a.cols(); ++i) {
        const double d = std::abs(double(a.data<A>()[i]) - double(b.data<A>()[i]));
        largest.difference = std::max(largest.difference, std::isnan(d) ? INFINITY : d);
        largest.logit = std::max(largest.logit, std::abs(double(a.data<A>()[i])));
      }
    }
  });
  return largest;
}

bool same_values(const ModelSource& a, const ModelSource& b, const ParameterSpec& p) {
  for (std::int64_t first = 0; first < p.shape[0]; first += kRows) {
    const std::int64_t n = std::min(kRows, p.shape[0] - first);
    const auto widened = [&](const ModelSource& source) {
      const Tensor stored = source.rows(p.name, first, n);
      Tensor t = Tensor::empty(stored.shape(), DType::f64);
      backend(Device::cpu).cast(t, stored);
      return t;
    };
    const Tensor x = widened(a), y = widened(b);
    if (std::memcmp(x.bytes(), y.bytes(), x.nbytes()) != 0) return false;
  }
  return true;
}

std::string first_difference(const ModelSource& a, const ModelSource& b) {
  std::map<std::string, ParameterSpec> others;
  for (ParameterSpec& p : model_parameters(b.config)) others.emplace(p.name, p);
  for (const ParameterSpec& p : model_parameters(a.config)) {
    const auto found = others.find(p.name);
    if (found == others.end() || found->second.shape != p.shape || !same_values(a, b, p))
      return p.name;
    others.erase(found);
  }
  return others.empty() ? "" : others.begin()->first;
}

}  // namespace

ModelDifference compare_models(const ModelSource& a, const ModelSource& b, const HeldOut& text,
                               std::int64_t sequences, DType dtype, double tolerance) {
  MOE_REQUIRE(a.config.vocab_size == b.config.vocab_size,
              "the models' vocabularies differ: ", a.config.vocab_size, " and ",
              b.config.vocab_size, " tokens");
  const CutModel one(a, dtype), other(b, dtype);
  ModelDifference result;
  const std::int64_t layers = std::min(a.config.layers, b.config.layers);
  const std::int64_t count = std::min(sequences, text.sequences());
  for (std::int64_t s = 0; s < count; ++s) {
    const Tensor tokens = text.load(s, 1).tokens;
    result.tokens += tokens.size();
    const Largest whole = largest_of(one.logits(tokens, a.config.layers),
                                     other.logits(tokens, b.config.layers), tokens);
    result.largest = std::max(result.largest, whole.difference);
    result.largest_logit = std::max(result.largest_logit, whole.logit);
    if (result.first_layer || whole.difference <= tolerance * whole.logit) continue;
    for (std::int64_t l = 0; l <= layers && !result.first_layer; ++l) {
      const Largest cut = largest_of(one.logits(tokens, l), other.logits(tokens, l), tokens);
      if (cut.difference > tolerance * cut.logit) result.first_layer = l - 1;
    }
    if (!result.first_layer) result.first_layer = layers;
  }
  result.first_parameter = first_difference(a, b);
  return result;
}

}  // namespace moe
