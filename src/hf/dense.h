// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "config/model_config.h"
#include "config/model_parameters.h"

namespace moe {

/// For each layer, the neuron of the dense model that each row of a mixture's experts is: routed
/// experts first, in their order, then shared ones. A layer without ids keeps the order of the
/// experts, shared ones first; a list without layers says so of all.
using NeuronOrder = std::vector<std::vector<std::int64_t>>;

/// The dense model that a mixture was split from. Throws InputError for a model without experts.
ModelConfig dense_config_of(const ModelConfig& moe);

/// The parameters of that dense model, from those of the mixture: a dense model split without
/// copies comes back bit for bit when the order is given. Weights are taken as they are, without
/// gates and score scales (a Mixtral folder holds its scale in its weights). Throws InputError, at
/// once, when neurons are copied or missing: ids that are no permutation, or, without ids, experts
/// that are together wider or narrower than the dense model; and when they are asked for, if copies
/// of a key/value head in several experts of the attention differ. Calls must not overlap; a
/// layer's matrix is kept until another is asked for.
ParameterRows dense_rows(const ModelConfig& moe, const ParameterRows& rows,
                         const NeuronOrder& order = {});

}  // namespace moe
