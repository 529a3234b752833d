// SPDX-License-Identifier: Apache-2.0
#include "nn/hot_expert.h"

#include <cmath>
#include <limits>

#include "core/error.h"

namespace moe {

Tensor with_hot_expert(const Tensor& scores, const HotExpert& hot, std::int64_t length) {
  const auto [expert, share] = hot;
  if (expert < 0) return scores;
  MOE_CHECK(expert < scores.cols(), "hot expert ", expert, " of ", scores.cols());
  const Tensor host = Tensor::empty(scores.shape(), scores.dtype());
  host.copy_from(scores);
  for_accumulator(host.dtype(), [&]<class A>(A) {
    for (std::int64_t i = 0; i < host.rows(); ++i) {
      const auto t = double(i % length);
      if (std::floor((t + 1) * share) > std::floor(t * share))
        host.data<A>()[i * host.cols() + expert] = std::numeric_limits<A>::infinity();
    }
  });
  return host.to(scores.device());
}

}  // namespace moe
