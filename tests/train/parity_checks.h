// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/rng.h"
#include "kernels/backend.h"
#include "train/engine.h"
#include "train/model_source.h"

namespace moe::testing {

/// A small LLaMA-MoE with every feature that could go wrong between layouts: uneven experts,
/// grouped-query heads, noisy mlp gate, shared experts with a gate of their own, a dense layer, all
/// router losses, padding and unscored tokens.
inline ModelConfig parity_model(bool tied = false) {
  ModelConfig c;
  c.vocab_size = 37;
  c.hidden_size = 16;
  c.intermediate_size = 22;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.tie_embeddings = tied;
  c.initializer_range = 0.4;
  c.moe.experts = 5;
  c.moe.top_k = 2;
  c.moe.expert_sizes = {{5, 5, 4, 4, 4}, {5, 5, 4, 4, 4}, {}};
  c.moe.shared_sizes = {{}, {3, 2}, {}};
  c.moe.shared_gate = true;
  c.moe.shared_scale = 1.5;
  c.moe.score_scale.assign(3, 2.5);
  return c;
}

/// The same with experts that no number of ranks divides.
inline ModelConfig seven_experts() {
  ModelConfig c = parity_model();
  c.moe.experts = 7;
  c.moe.expert_sizes = {{5, 5, 4, 4, 4, 4, 4}, {5, 5, 4, 4, 4, 4, 4}, {}};
  c.intermediate_size = 30;
  return c;
}

/// With experts in the attention of all layers but the second.
inline ModelConfig with_attention_experts(ModelConfig c, AttentionExpert kind, std::int64_t experts,
                                          std::int64_t k) {
  AttentionMoeConfig& a = c.attention_moe;
  a.kind = kind;
  a.experts = experts;
  a.top_k = k;
  a.layers.assign(std::size_t(c.layers), true);
  a.layers[1] = false;
  a.score_scale.assign(std::size_t(c.layers), double(experts) / double(k));
  a.softmax_over_all = k == 1;
  return c;
}

inline EngineOptions parity_options(DType dtype) {
  EngineOptions o;
  o.dtype = dtype;
  o.micro_batch = 2;
  o.bucket_part_bytes = 2048;  // several buckets
  o.domains = 2;
  o.router.cv_squared = 0.02;
  o.router.switch_top_k = 0.03;
  o.router.z = 0.004;
  o.attention_router = o.router;
  return o;
}

/// A dense model of another width and depth than parity_model().
inline ModelConfig dense_teacher() {
  ModelConfig c = parity_model();
  c.moe = {};
  c.hidden_size = 24;
  c.head_dim = 6;
  c.layers = 2;
  return c;
}

/// With a teacher of the rank's own, as programs have it, that counts beside the labels.
inline EngineOptions taught(EngineOptions options, const ModelConfig& teacher = dense_teacher(),
                            std::uint64_t seed = 9) {
  const auto loaded = std::make_shared<const LoadedModel>(
      ModelSource{teacher, initial_weights(teacher, seed), {}}, options.dtype, options.device);
  options.teacher = {loaded, &loaded->model()};
  return options;
}

struct GlobalBatch {
  Batch all;
  GlobalCounts counts;
};

/// 8 sequences of 6 tokens; some end in padding, some tokens are not scored. With `documents` all
/// but two are of two documents; padding is of the last one or each its own.
inline GlobalBatch parity_batch(std::int64_t step, std::int64_t vocabulary = 37,
                                bool documents = false) {
  constexpr std::int64_t sequences = 8, length = 6;
  GlobalBatch g;
  g.all.tokens = Tensor::empty({sequences, length}, DType::i32);
  g.all.labels = Tensor::empty({sequences, length}, DType::i32);
  if (documents) g.all.document_starts = Tensor::zeros({sequences, length}, DType::i32);
  const Philox random(7, RandomPurpose::test, {std::uint64_t(step)});
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t real = length - (s % 3 == 2 ? 2 : 0);
    for (std::int64_t t = 0; t < length; ++t) {
      const auto i = std::uint64_t(s * length + t);
      const bool padding = t >= real;
      const bool scored = !padding && random.uniform(1000 + i) < 0.9;
      g.all.tokens.data<std::int32_t>()[i] =
          padding ? -1 : std::int32_t(random.below(i, std::uint64_t(vocabulary)));
      g.all.labels.data<std::int32_t>()[i] =
          scored ? std::int32_t(random.below(500 + i, std::uint64_t(vocabulary))) : -1;
      if (documents && t >= s % length)
        g.all.document_starts.data<std::int32_t>()[i] =
            std::int32_t(padding && s == 2 ? t : s % length);
      g.counts.routed += !padding;
      g.counts.labelled += scored;
    }
    g.all.sequence_ids.push_back(step * sequences + s);
    g.all.domains.push_back(std::int32_t(s % 2));
  }
  return g;
}

inline Batch part_of(const Batch& all, int rank, int ranks) {
  const Share share = share_of(all.tokens.rows(), rank, ranks);
  const auto cut = [&](auto& v) {
    return std::vector(v.begin() + share.first, v.begin() + share.first + share.count);
  };
  return {all.tokens.slice(share.first, share.count), all.labels.slice(share.first, share.count),
          cut(all.sequence_ids), cut(all.domains),
          all.document_starts.defined() ? all.document_starts.slice(share.first, share.count)
                                        : Tensor()};
}

/// One parameter's rows as this rank holds them.
struct Rows {
  std::int64_t first_row = 0;
  Tensor values;  // f64
};

inline Tensor to_f64(const Tensor& t) {
  Tensor d = Tensor::empty(t.shape(), DType::f64);
  backend(Device::cpu).cast(d, t.to(Device::cpu));
  return d;
}

/// A usual rate. Adam divides gradients by their own size, so an entry near zero moves by a rate
/// whose sign f32 may not know: what that does to the weights grows with the rate.
inline constexpr double kRate = 3e-3;

/// What a job of one first step for the gradients and three steps for the weights gave on a rank.
struct Outcome {
  StepResult first;
  std::map<std::string, Rows> gradients, weights;
};

/// Initial weights, with what begins at zero as after some training: from zero, three Adam steps
/// would be nothing but normalised gradients, which has no small relative error in f32.
inline ParameterRows parity_weights(const ModelConfig& config) {
  return [rows = initial_weights(config, 3)](const std::string& name, std::int64_t first,
                                             std::int64_t count) {
    Tensor t = rows(name, first, count);
    const bool trained = name.ends_with("noise.weight") || name.ends_with("weight_scale") ||
                         name.ends_with("experts.bias");
    if (!trained) return t;
    for (std::int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = 0.1f * float(i % 7 - 3);
    return t;
  };
}

inline Outcome run_job(Communicator& world, int ep, const ModelConfig& config,
                       const EngineOptions& options, const ExchangeOptions& exchange = {},
                       bool documents = false) {
  const ProcessGrid grid(world, ep, exchange);
  Engine engine(config, options, grid, parity_weights(config));
  Outcome out;
  for (std::int64_t step = 1; step <= 3; ++step) {
    const GlobalBatch batch = parity_batch(step, config.vocab_size, documents);
    const StepResult r = engine.train_step(part_of(batch.all, world.rank(), world.size()),
                                           batch.counts, step, kRate);
    if (step > 1) continue;
    out.first = r;
    engine.gradients().gather();
    for (std::size_t i = 0; i < engine.parameters().all().size(); ++i) {
      const Parameter& p = engine.parameters().all()[i];
      if (!p.trained) continue;
      out.gradients[p.name()] = {p.first_row, to_f64(engine.gradients().gradient(i))};
    }
  }
  for (const Parameter& p : engine.parameters().all())
    out.weights[p.name()] = {p.first_row, to_f64(p.variable.value)};
  return out;
}

/// ‖a - b‖ / ‖b‖ over the rows that `part` holds of `whole`.
inline double relative_difference(const Rows& part, const Rows& whole) {
  const Tensor ref = whole.values.slice(part.first_row - whole.first_row, part.values.rows());
  double difference = 0, norm = 0;
  for (std::int64_t i = 0; i < ref.size(); ++i) {
    const double a = part.values.data<double>()[i], b = ref.data<double>()[i];
    difference += (a - b) * (a - b);
    norm += b * b;
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

struct Tolerance {
  double scalar, gradient, weight;
};
/// DESIGN's metric: f64 differs by the order of sums alone; f32 is held against f64.
inline Tolerance tolerance_of(DType dtype) {
  return dtype == DType::f64 ? Tolerance{1e-12, 1e-12, 1e-12} : Tolerance{1e-6, 5e-6, 1e-6};
}

/// Every way in which `got` is not `want`; empty when the layouts agree.
inline std::string differences(const Outcome& got, const Outcome& want,
                               const Tolerance& tolerance) {
  std::string report;
  const auto scalar = [&](const char* what, double a, double b) {
    if (!(std::abs(a - b) <= tolerance.scalar * std::max(std::abs(b), 1e-3)))
      report += str(what, ": ", a, " instead of ", b, "\n");
  };
  scalar("loss", got.first.loss, want.first.loss);
  scalar("divergence from the teacher", got.first.teacher_kl.value_or(0),
         want.first.teacher_kl.value_or(0));
  scalar("gradient norm", got.first.grad_norm, want.first.grad_norm);
  const auto routing = [&](const RoutingResult& a, const RoutingResult& b) {
    if (a.loads != b.loads) report += "routing differs\n";
    scalar("CV^2 loss", a.cv_squared, b.cv_squared);
    scalar("Switch loss", a.switch_top_k, b.switch_top_k);
    scalar("z loss", a.z, b.z);
    if (a.dropped != b.dropped)
      report += str(a.dropped, " pairs dropped instead of ", b.dropped, "\n");
    for (std::size_t l = 0; l < b.probabilities.size(); ++l)
      for (std::size_t e = 0; e < b.probabilities[l].size(); ++e)
        scalar("probability", a.probabilities[l][e], b.probabilities[l][e]);
  };
  routing(got.first.routing, want.first.routing);
  routing(got.first.attention_routing, want.first.attention_routing);
  for (std::size_t d = 0; d < want.first.domain_loss.size(); ++d)
    scalar("domain loss", got.first.domain_loss[d], want.first.domain_loss[d]);
  const auto tensors = [&](const char* what, const auto& a, const auto& b, double limit) {
    for (const auto& [name, rows] : a) {
      const double d = relative_difference(rows, b.at(name));
      if (!(d <= limit)) report += str(what, " of ", name, " differs by ", d, "\n");
    }
  };
  tensors("gradient", got.gradients, want.gradients, tolerance.gradient);
  tensors("weight", got.weights, want.weights, tolerance.weight);
  return report;
}

/// The job in f64 on one process: what everything is held against.
inline Outcome reference_outcome(const ModelConfig& config, const EngineOptions& options,
                                 bool documents = false) {
  const std::unique_ptr<Communicator> alone = single_rank();
  EngineOptions exact = options;
  exact.dtype = DType::f64;
  return run_job(*alone, 1, config, exact, {}, documents);
}

}  // namespace moe::testing
