// SPDX-License-Identifier: Apache-2.0
#include "nn/parameter_layout.h"

#include <algorithm>
#include <ranges>

#include "comm/process_grid.h"
#include "config/parameter_families.h"

namespace moe {
namespace {

/// Elements; every parameter starts at the beginning of a cache line.
constexpr std::int64_t kAlignment = 32;

}  // namespace

ParameterLayout::ParameterLayout(const ModelConfig& config, int expert_rank, int ep,
                                 std::span<const std::string> frozen) {
  if (config.is_moe()) {
    MOE_REQUIRE(ep <= config.moe.experts, "parallel.expert is ", ep, " but the model has ",
                config.moe.experts, " experts: use at most as many ranks per expert group");
    const Share share = share_of(config.moe.experts, expert_rank, ep);
    first_expert_ = share.first;
    local_experts_ = share.count;
  } else {
    MOE_REQUIRE(ep == 1, "parallel.expert is ", ep, " but the model is dense: set it to 1");
  }
  for (ParameterSpec& spec : model_parameters(config)) {
    const char* family = kParameterFamilyNames[std::size_t(family_of(spec.name))];
    HeldParameter p;
    p.spec = std::move(spec);
    p.trained = p.spec.trained && std::ranges::find(frozen, family) == frozen.end();
    p.shape = p.spec.shape;
    if (p.spec.placement == Placement::expert) {
      const auto& offsets = p.spec.expert_offsets;
      p.first_row = offsets[std::size_t(first_expert_)];
      p.shape[0] = offsets[std::size_t(first_expert_ + local_experts_)] - p.first_row;
    }
    parameters_.push_back(std::move(p));
  }
  for (HeldParameter& p : parameters_ | std::views::reverse) {
    if (!p.trained) continue;
    std::int64_t& end = elements_[std::size_t(p.spec.placement)];
    p.offset = end;
    end += (p.size() + kAlignment - 1) / kAlignment * kAlignment;
  }
}

}  // namespace moe
