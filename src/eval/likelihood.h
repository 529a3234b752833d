// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "eval/question.h"
#include "nn/transformer.h"

namespace moe {

/// A request as ids.
struct EncodedRequest {
  std::vector<std::int32_t> ids;  // context, then continuation
  std::int64_t continuation = 0;  // how many ids at the end are scored
  bool truncated = false;         // the context lost ids on its left
};

/// Text to ids, without BOS.
using Encode = std::function<std::vector<std::int32_t>(std::string_view)>;

/// As lm-evaluation-harness does it: white space at the end of the context moves to the
/// continuation, then the ids of both together are cut behind as many as the context alone has.
/// `bos` stands before everything. Contexts lose ids on the left (BOS stays) until the model's
/// `positions` hold all ids but the last. Throws InputError, beginning with `where`, when the
/// continuation has no ids or alone is too long, or when nothing stands before it.
EncodedRequest encode_request(const Request& request, const Encode& encode,
                              std::optional<std::int32_t> bos, std::int64_t positions,
                              const std::string& where);

struct RequestScore {
  double log_likelihood = 0;  // sum over the continuation's ids, in nats
  std::int64_t tokens = 0;    // of the continuation
  bool greedy = false;        // each of them is the likeliest one at its place
};

/// Scores requests, `batch` at a time and those of similar length together, spread over the ranks;
/// the same on every rank, in the order of `requests`. Every rank holds the whole model. Collective
/// over `world`. `done` hears how many requests this rank is through with.
std::vector<RequestScore> score_requests(const Transformer& model,
                                         std::span<const EncodedRequest> requests,
                                         std::int64_t batch, Communicator& world,
                                         const std::function<void(std::int64_t)>& done = {});

}  // namespace moe
