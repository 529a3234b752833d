// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_parameters.h"

namespace moe {

/// What a parameter is for. Every parameter of a model is of one family.
enum class ParameterFamily : std::uint8_t {
  embeddings,  // embed, head
  norms,
  attention,  // its projections, also where they are experts
  router,     // every gate: of experts, of shared experts, of attention's experts
  experts,
  shared,  // shared experts
  ffn,     // dense layers
};
inline constexpr std::array<const char*, 7> kParameterFamilyNames = {
    "embeddings", "norms", "attention", "router", "experts", "shared", "ffn"};

/// A factor for each family, 1 unless set.
struct FamilyFactors : std::array<double, kParameterFamilyNames.size()> {
  FamilyFactors() { fill(1); }
};

/// The family of a parameter, from the whole parts of its name: attention_norm is a norm and no
/// attention. Throws Error for a name that no model has.
ParameterFamily family_of(std::string_view parameter);

/// Throws InputError for a name that is no family, or one that is given twice.
void require_families(std::span<const std::string> names, const char* key);

/// What a run that freezes families changes and what it leaves as it is.
struct FrozenPlan {
  struct Family {
    std::string name;
    std::int64_t parameters = 0;
    bool frozen = false;
  };
  std::vector<Family> families;  // that the model has, in their order
  std::int64_t trained = 0, frozen = 0;
};

/// Throws InputError when the model has no parameter of one of the families, or when nothing is
/// left to train.
FrozenPlan plan_frozen(std::span<const std::string> freeze, const ModelConfig& model);

/// The plan as one line: "trained: experts (1.2 M), norms (512); frozen: router (4 k)".
std::string to_text(const FrozenPlan& plan);

}  // namespace moe
