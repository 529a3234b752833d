// SPDX-License-Identifier: Apache-2.0
#include "ops/embedding.h"

#include "kernels/backend.h"

namespace moe::ops {

Variable embedding(const Variable& table, const Tensor& tokens) {
  const Tensor t = table.value;
  const auto* id = tokens.data<std::int32_t>();
  for (std::int64_t i = 0; i < tokens.size(); ++i)
    MOE_CHECK(id[i] < t.rows(), "token ", id[i], " lies beyond the vocabulary of ", t.rows());
  const Tensor ids = tokens.to(t.device());
  Backend& device = backend(t.device());
  Tensor y = Tensor::empty({ids.size(), t.cols()}, t.dtype(), t.device());
  device.embedding_forward(y, t, ids);
  return record("embedding", {table}, y, [&device, t, ids](std::span<const Tensor> dy) {
    Tensor dtable = Tensor::empty(t.shape(), accumulator(t.dtype()), t.device());
    device.embedding_backward(dtable, dy[0], ids);
    return std::vector<Tensor>{dtable};
  });
}

}  // namespace moe::ops
