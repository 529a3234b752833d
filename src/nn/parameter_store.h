// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/tape.h"
#include "config/model_parameters.h"

namespace moe {

/// One parameter as this rank holds it: all rows, or those of its own experts.
struct Parameter {
  ParameterSpec spec;
  std::int64_t first_row = 0;  // of the whole parameter
  Variable variable;           // [rows held, ...]; a leaf when it is trained, else a constant
  std::int64_t offset = 0;     // of its first element in ParameterStore::flat(); trained ones

  const std::string& name() const { return spec.name; }
  std::int64_t rows() const { return variable.value.rows(); }
};

/// A model's parameters as a flat, ordered, named list. Which rows this rank holds follows from the
/// placement alone: expert parameters are cut by expert, contiguously, over the `ep` members of an
/// expert group; everything else is whole.
///
/// Trained parameters of one placement lie in one piece of memory, the last of the list first: the
/// order in which backward needs them, and gradients and optimiser cut it into buckets.
class ParameterStore {
 public:
  /// Values are undefined until load(). dtype: f32, bf16 or f64. Throws InputError when ep exceeds
  /// the number of experts.
  ParameterStore(const ModelConfig& config, DType dtype, int expert_rank = 0, int ep = 1);

  /// Asks for the rows this rank holds, and converts them to the store's type.
  void load(const ParameterRows& rows);

  /// Throws Error for an unknown name.
  const Variable& operator[](const std::string& name) const;
  std::vector<Parameter>& all() { return parameters_; }
  const std::vector<Parameter>& all() const { return parameters_; }

  /// T[elements]: the trained parameters of a placement, each from its offset on. What lies between
  /// them belongs to nobody.
  const Tensor& flat(Placement placement) const { return flat_[std::size_t(placement)]; }

  DType dtype() const { return dtype_; }
  std::int64_t first_expert() const { return first_expert_; }
  std::int64_t local_experts() const { return local_experts_; }

 private:
  DType dtype_;
  std::int64_t first_expert_ = 0, local_experts_ = 0;
  std::array<Tensor, 2> flat_;
  std::vector<Parameter> parameters_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// Random initial weights: N(0, initializer_range^2), ones for norms, zeros for gate noise. Element
/// i of a parameter depends on (seed, name, i) alone, so every layout starts the same. f32.
ParameterRows initial_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace moe
