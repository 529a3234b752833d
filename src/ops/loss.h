// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "autograd/tape.h"

namespace moe::ops {

struct CrossEntropy {
  Variable loss;            // acc[1]: factor * sum of what the tokens cost
  Tensor token_loss;        // acc[rows]: each token's cross-entropy, 0 where not scored
  Tensor token_divergence;  // acc[rows]: KL(teacher || student), 0 there too; undefined: no teacher
};

/// What a teacher made of the same rows, and what counts: a token costs
///   loss_weight * cross-entropy + weight * temperature^2 * KL(teacher || student),
/// the divergence of both softmaxes at that temperature.
struct Taught {
  Tensor x;     // T[rows, the teacher's hidden size]; undefined: no teacher
  Tensor head;  // T[vocabulary, the teacher's hidden size]
  double temperature = 1, weight = 1, loss_weight = 1;
};

/// Output head and softmax cross-entropy in one, over chunks of rows: logits exist for one chunk at
/// a time, and their gradient takes their place. x: T[rows, hidden]; head: [vocabulary, hidden];
/// labels: i32[rows], negative where not scored. With a tape active, the gradients of x and head
/// are computed together with the loss, so nothing of the logits is kept for backward. A teacher's
/// logits exist for the same chunk alone; no gradient goes to it.
CrossEntropy linear_cross_entropy(const Variable& x, const Variable& head, const Tensor& labels,
                                  double factor, const Taught& taught = {});

}  // namespace moe::ops
