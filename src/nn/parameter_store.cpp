// SPDX-License-Identifier: Apache-2.0
#include "nn/parameter_store.h"

#include <functional>
#include <numeric>

#include "comm/process_grid.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "kernels/backend.h"

namespace moe {
namespace {

std::uint64_t hash_of(const std::string& text) {  // FNV-1a
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const unsigned char c : text) h = (h ^ c) * 0x100000001b3ull;
  return h;
}

/// Elements; every parameter starts at the beginning of a cache line.
constexpr std::int64_t kAlignment = 32;

std::int64_t elements_of(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

ParameterStore::ParameterStore(const ModelConfig& config, DType dtype, int expert_rank, int ep)
    : dtype_(dtype) {
  if (config.is_moe()) {
    MOE_REQUIRE(ep <= config.moe.experts, "parallel.expert is ", ep, " but the model has ",
                config.moe.experts, " experts: use at most as many ranks per expert group");
    const Share share = share_of(config.moe.experts, expert_rank, ep);
    first_expert_ = share.first;
    local_experts_ = share.count;
  } else {
    MOE_REQUIRE(ep == 1, "parallel.expert is ", ep, " but the model is dense: set it to 1");
  }
  MemoryScope scope(MemoryKind::weights);
  for (ParameterSpec& spec : model_parameters(config)) {
    index_[spec.name] = parameters_.size();
    parameters_.push_back({std::move(spec), 0, {}, 0});
  }
  std::array<std::int64_t, 2> elements{};
  std::vector<Shape> shapes(parameters_.size());
  for (std::size_t i = parameters_.size(); i-- > 0;) {
    Parameter& p = parameters_[i];
    Shape& shape = shapes[i] = p.spec.shape;
    if (p.spec.placement == Placement::expert) {
      const auto& offsets = p.spec.expert_offsets;
      p.first_row = offsets[std::size_t(first_expert_)];
      shape[0] = offsets[std::size_t(first_expert_ + local_experts_)] - p.first_row;
    }
    if (!p.spec.trained) continue;
    std::int64_t& end = elements[std::size_t(p.spec.placement)];
    p.offset = end;
    end += (elements_of(shape) + kAlignment - 1) / kAlignment * kAlignment;
  }
  for (std::size_t kind = 0; kind < flat_.size(); ++kind)
    flat_[kind] = Tensor::empty({elements[kind]}, dtype);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    p.variable =
        p.spec.trained
            ? Variable::leaf(
                  flat(p.spec.placement).slice(p.offset, elements_of(shapes[i])).view(shapes[i]))
            : Variable::constant(Tensor::empty(shapes[i], accumulator(dtype)));
  }
}

void ParameterStore::load(const ParameterRows& rows) {
  for (Parameter& p : parameters_) {
    const Tensor source = rows(p.name(), p.first_row, p.rows());
    MOE_CHECK(source.size() == p.variable.value.size(), p.name(), ": ", join(source.shape()),
              " given for ", join(p.variable.value.shape()));
    backend(p.variable.value.device()).cast(p.variable.value, source);
  }
}

const Variable& ParameterStore::operator[](const std::string& name) const {
  const auto at = index_.find(name);
  MOE_CHECK(at != index_.end(), "the model has no parameter '", name, "'");
  return parameters_[at->second].variable;
}

ParameterRows initial_weights(const ModelConfig& config, std::uint64_t seed) {
  std::unordered_map<std::string, ParameterSpec> specs;
  for (ParameterSpec& s : model_parameters(config)) specs.emplace(s.name, s);
  return [specs = std::move(specs), seed, range = config.initializer_range](
             const std::string& name, std::int64_t first, std::int64_t count) {
    const ParameterSpec& spec = specs.at(name);
    Shape shape = spec.shape;
    shape[0] = count;
    Tensor t = Tensor::empty(shape, DType::f32);
    float* out = t.data<float>();
    if (spec.initial != Initial::normal) {
      std::fill_n(out, t.size(), spec.initial == Initial::ones ? 1.0f : 0.0f);
      return t;
    }
    const Philox random(seed, RandomPurpose::initial_weights, {hash_of(name)});
    const std::int64_t base = first * t.cols();
    parallel_for(t.size(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        out[i] = float(range * random.normal(std::uint64_t(base + i)));
    });
    return t;
  };
}

}  // namespace moe
