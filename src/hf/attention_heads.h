// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "core/tensor.h"

namespace moe {

/// Where the heads of a dense attention lie among the rows of its experts
/// (ModelConfig::attention_moe), one expert after the other: for each query head of the experts,
/// the dense query head that it is. A permutation. With E experts and G query heads to each
/// key/value head, expert e has
///   heads:   the query heads e * heads / E and on, heads / E of them;
///   queries: of each key/value head j the query heads j * G + e * G / E and on, G / E of them.
std::vector<std::int64_t> expert_query_heads(const ModelConfig& config);
/// For each key/value head of the experts of kind heads, the dense one that it is: where there are
/// more experts than heads, those that share a head have a copy each.
std::vector<std::int64_t> expert_key_heads(const ModelConfig& config);

/// Block i of the result is block blocks[i] of x; a block is `rows` rows. Any type.
Tensor gather_blocks(const Tensor& x, const std::vector<std::int64_t>& blocks, std::int64_t rows);
/// x[i, j] at [j, i]. Any type.
Tensor transposed(const Tensor& x);

/// A matrix of a layer's attention: "layers.3.attention.o.weight" or
/// "layers.3.attention.experts.o.weight" is (3, "o"); nothing for other parameters.
struct AttentionMatrix {
  std::int64_t layer = 0;
  std::string part;  // q, k, v or o
};
std::optional<AttentionMatrix> dense_attention_matrix(const std::string& parameter);
std::optional<AttentionMatrix> expert_attention_matrix(const std::string& parameter);

}  // namespace moe
