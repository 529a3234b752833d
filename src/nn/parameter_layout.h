// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "config/model_parameters.h"

namespace moe {

/// What a rank holds of one parameter: all rows, or those of its own experts.
struct HeldParameter {
  ParameterSpec spec;
  std::int64_t first_row = 0;  // of the whole parameter
  Shape shape;                 // [rows held, ...]
  bool trained = true;         // by gradient descent in this run: spec.trained and not frozen
  std::int64_t offset = 0;     // of a trained parameter's first element, see ParameterLayout

  const std::string& name() const { return spec.name; }
  std::int64_t rows() const { return shape[0]; }
  std::int64_t cols() const { return shape.size() > 1 ? shape[1] : 1; }
  std::int64_t size() const { return rows() * cols(); }
};

/// Which rows of a model's parameters a rank holds, and where. It follows from the placement alone:
/// expert parameters are cut by expert, contiguously, over the `ep` members of an expert group;
/// everything else is whole.
///
/// Trained parameters of one placement lie in one piece of memory, the last of the list first: the
/// order in which backward makes their gradients, and gradients and optimiser cut it into buckets.
/// What lies between them belongs to nobody.
class ParameterLayout {
 public:
  /// `frozen`: families (config/parameter_families.h) that are not trained. Throws InputError when
  /// ep exceeds the number of experts.
  ParameterLayout(const ModelConfig& config, int expert_rank, int ep,
                  std::span<const std::string> frozen = {});

  const std::vector<HeldParameter>& all() const { return parameters_; }
  /// Length of the piece of a placement.
  std::int64_t elements(Placement placement) const { return elements_[std::size_t(placement)]; }
  std::int64_t first_expert() const { return first_expert_; }
  std::int64_t local_experts() const { return local_experts_; }

 private:
  std::int64_t first_expert_ = 0, local_experts_ = 0;
  std::array<std::int64_t, 2> elements_{};
  std::vector<HeldParameter> parameters_;
};

}  // namespace moe
