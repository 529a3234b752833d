// SPDX-License-Identifier: Apache-2.0
#include "hf/attention_heads.h"

#include <string_view>

#include "core/error.h"
#include "hf/convert.h"

namespace moe {
namespace {

/// The matrix of "layers.N" + block + "X.weight" with X one of q, k, v and o.
std::optional<AttentionMatrix> matrix_in(const std::string& parameter, std::string_view block) {
  constexpr std::string_view kLayers = "layers.", kWeight = ".weight";
  const std::size_t at = parameter.find(block);
  if (!parameter.starts_with(kLayers) || at == std::string::npos) return std::nullopt;
  const std::string_view rest = std::string_view(parameter).substr(at + block.size());
  if (rest.size() != 1 + kWeight.size() || !rest.ends_with(kWeight)) return std::nullopt;
  return AttentionMatrix{std::stoll(parameter.substr(kLayers.size())), std::string(1, rest[0])};
}

}  // namespace

std::vector<std::int64_t> expert_query_heads(const ModelConfig& config) {
  const AttentionMoeConfig& a = config.attention_moe;
  const std::int64_t group = config.heads / config.kv_heads;
  // Query heads that lie together in the dense model, and how often an expert has such a run.
  const bool queries = a.kind == AttentionExpert::queries;
  const std::int64_t run = queries ? group / a.experts : config.heads / a.experts;
  const std::int64_t runs = queries ? config.kv_heads : 1;
  std::vector<std::int64_t> heads;
  for (std::int64_t e = 0; e < a.experts; ++e)
    for (std::int64_t j = 0; j < runs; ++j)
      for (std::int64_t i = 0; i < run; ++i) heads.push_back(j * group + e * run + i);
  return heads;
}

std::vector<std::int64_t> expert_key_heads(const ModelConfig& config) {
  const AttentionMoeConfig& a = config.attention_moe;
  MOE_CHECK(a.kind == AttentionExpert::heads, "routed queries leave keys and values dense");
  const std::int64_t own = config.expert_kv_heads();
  std::vector<std::int64_t> heads;
  for (std::int64_t e = 0; e < a.experts; ++e)
    for (std::int64_t i = 0; i < own; ++i) heads.push_back(e * config.kv_heads / a.experts + i);
  return heads;
}

Tensor gather_blocks(const Tensor& x, const std::vector<std::int64_t>& blocks, std::int64_t rows) {
  Tensor result = Tensor::empty({std::int64_t(blocks.size()) * rows, x.cols()}, x.dtype());
  for (std::size_t i = 0; i < blocks.size(); ++i)
    result.slice(std::int64_t(i) * rows, rows).copy_from(x.slice(blocks[i] * rows, rows));
  return result;
}

Tensor transposed(const Tensor& x) {
  Tensor result = Tensor::empty({x.cols(), x.rows()}, x.dtype());
  transpose_words(x.bytes(), x.cols(), result.bytes(), x.rows(), x.rows(), x.cols(),
                  size_of(x.dtype()));
  return result;
}

std::optional<AttentionMatrix> dense_attention_matrix(const std::string& parameter) {
  return matrix_in(parameter, ".attention.");
}

std::optional<AttentionMatrix> expert_attention_matrix(const std::string& parameter) {
  return matrix_in(parameter, ".attention.experts.");
}

}  // namespace moe
