// SPDX-License-Identifier: Apache-2.0
#include "nn/kv_cache.h"

#include <algorithm>

#include "core/error.h"

namespace moe {

KvRows::KvRows(std::int64_t cols, DType dtype, Device device, std::int64_t capacity)
    : keys_(Tensor::empty({capacity, cols}, dtype, device)), values_(empty_like(keys_)) {}

void KvRows::append(const Tensor& keys, const Tensor& values) {
  MOE_CHECK(keys.cols() == keys_.cols() && values.shape() == keys.shape(), "a cache of ",
            keys_.cols(), " columns gets keys ", join(keys.shape()), " and values ",
            join(values.shape()));
  const std::int64_t length = length_ + keys.rows();
  if (length > keys_.rows()) {
    const std::int64_t capacity = std::max(length, 2 * keys_.rows());
    for (Tensor* t : {&keys_, &values_}) {
      Tensor larger = Tensor::empty({capacity, t->cols()}, t->dtype(), t->device());
      larger.slice(0, length_).copy_from(t->slice(0, length_));
      *t = larger;
    }
  }
  keys_.slice(length_, keys.rows()).copy_from(keys);
  values_.slice(length_, keys.rows()).copy_from(values);
  length_ = length;
}

KvCache::KvCache(const ModelConfig& c, DType dtype, Device device, std::int64_t capacity) {
  for (std::int64_t l = 0; l < c.layers; ++l) {
    std::vector<KvRows>& rows = layers.emplace_back();
    const bool own = c.is_attention_moe_layer(l) && c.attention_moe.kind == AttentionExpert::heads;
    if (!own) {
      rows.emplace_back(c.kv_heads * c.head_dim, dtype, device, capacity);
      continue;
    }
    const AttentionMoeConfig& a = c.attention_moe;
    for (std::int64_t e = 0; e < a.experts; ++e)
      rows.emplace_back(c.expert_kv_heads() * c.head_dim, dtype, device,
                        capacity * a.top_k / a.experts);
  }
}

}  // namespace moe
