// SPDX-License-Identifier: Apache-2.0
#include "nn/parameter_store.h"

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

}  // namespace

ParameterStore::ParameterStore(const ModelConfig& config, DType dtype, int expert_rank, int ep,
                               Device device, std::span<const std::string> frozen)
    : dtype_(dtype), device_(device), layout_(config, expert_rank, ep, frozen) {
  MemoryScope scope(MemoryKind::weights);
  for (const Placement placement : {Placement::replicated, Placement::expert})
    flat_[std::size_t(placement)] = Tensor::empty({layout_.elements(placement)}, dtype, device);
  for (const HeldParameter& p : layout_.all()) {
    index_[p.name()] = parameters_.size();
    const DType type = p.spec.trained ? dtype : accumulator(dtype);
    parameters_.push_back(
        {p, p.trained
                ? Variable::leaf(flat(p.spec.placement).slice(p.offset, p.size()).view(p.shape))
                : Variable::constant(Tensor::empty(p.shape, type, device))});
  }
}

void ParameterStore::load(const ParameterRows& rows) {
  for (Parameter& p : parameters_) {
    const Tensor source = rows(p.name(), p.first_row, p.rows());
    MOE_CHECK(source.size() == p.variable.value.size(), p.name(), ": ", join(source.shape()),
              " given for ", join(p.variable.value.shape()));
    backend(device_).cast(p.variable.value, source.to(device_));
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
