// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "data/token_stream.h"
#include "nn/transformer.h"
#include "optim/adamw.h"

namespace moe {

/// Fits every linear gate of the feed-forward's experts to the tokens of `batch` (this rank's
/// share), computed as they are when the model is evaluated: the targets are a token's top_k
/// experts by the norm of what each would give, the fit is GateRegression::logistic
/// (docs/numerics.md). The gate becomes (1 - blend) * gate + blend * fit on every rank, its moments
/// zeros. All weights must be there. Collective: every rank brings the same number of sequences.
void refresh_routers(const Transformer& model, ParameterStore& parameters, AdamW& optimizer,
                     const Batch& batch, std::int64_t micro_batch, double blend,
                     Communicator& world);

}  // namespace moe
