// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

struct CrossEntropy {
  Variable loss;      // acc[1]: factor * sum of the tokens' losses
  Tensor token_loss;  // acc[rows]: each token's loss, 0 where not scored
};

/// Output head and softmax cross-entropy in one, over chunks of rows: logits exist for one chunk at
/// a time, and their gradient takes their place. x: T[rows, hidden]; head: [vocabulary, hidden];
/// labels: i32[rows], negative where not scored. With a tape active, the gradients of x and head
/// are computed together with the loss, so nothing of the logits is kept for backward.
CrossEntropy linear_cross_entropy(const Variable& x, const Variable& head, const Tensor& labels,
                                  double factor);

}  // namespace moe::ops
