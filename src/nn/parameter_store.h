// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/tape.h"
#include "nn/parameter_layout.h"

namespace moe {

struct Parameter : HeldParameter {
  Variable variable;  // a leaf when it is trained, else a constant
};

/// A model's parameters as a flat, ordered, named list, as this rank holds them.
class ParameterStore {
 public:
  /// Values are undefined until load(). dtype: f32, bf16 or f64. `frozen`: see ParameterLayout.
  /// Throws InputError when ep exceeds the number of experts.
  ParameterStore(const ModelConfig& config, DType dtype, int expert_rank = 0, int ep = 1,
                 Device device = Device::cpu, std::span<const std::string> frozen = {});

  /// Asks for the rows this rank holds, and converts them to the store's type.
  void load(const ParameterRows& rows);

  /// Throws Error for an unknown name.
  const Variable& operator[](const std::string& name) const;
  std::vector<Parameter>& all() { return parameters_; }
  const std::vector<Parameter>& all() const { return parameters_; }
  const ParameterLayout& layout() const { return layout_; }

  /// T[elements]: the trained parameters of a placement, each from its offset on.
  const Tensor& flat(Placement placement) const { return flat_[std::size_t(placement)]; }

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  std::int64_t first_expert() const { return layout_.first_expert(); }
  std::int64_t local_experts() const { return layout_.local_experts(); }

 private:
  DType dtype_;
  Device device_;
  ParameterLayout layout_;
  std::array<Tensor, 2> flat_;
  std::vector<Parameter> parameters_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// Random initial weights: N(0, initializer_range^2), ones for norms, zeros for gate noise. Element
/// i of a parameter depends on (seed, name, i) alone, so every layout starts the same. f32.
ParameterRows initial_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace moe
