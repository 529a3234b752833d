// SPDX-License-Identifier: Apache-2.0
#include "eval/likelihood.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"

namespace moe {
namespace {

/// log softmax(logits)[id], and whether `id` is the first of the largest.
template <class A>
std::pair<double, bool> score_row(const A* logits, std::int64_t vocabulary, std::int32_t id) {
  const A* best = std::max_element(logits, logits + vocabulary);
  double total = 0;
  for (std::int64_t i = 0; i < vocabulary; ++i)
    total += std::exp(double(logits[i]) - double(*best));
  return {double(logits[id]) - double(*best) - std::log(total), best - logits == id};
}

/// Requests side by side, padded on the right: causal attention never sees the padding.
void score_batch(const Transformer& model, std::span<const EncodedRequest> requests,
                 std::span<const std::size_t> of, Tensor& sums) {
  std::int64_t width = 0;
  for (const std::size_t r : of) width = std::max(width, std::int64_t(requests[r].ids.size()) - 1);
  const Tensor tokens = Tensor::empty({std::int64_t(of.size()), width}, DType::i32);
  std::fill_n(tokens.data<std::int32_t>(), tokens.size(), -1);
  std::vector<std::int32_t> places, labels;
  std::vector<std::size_t> owners;
  for (std::size_t row = 0; row < of.size(); ++row) {
    const EncodedRequest& request = requests[of[row]];
    const auto inputs = std::int64_t(request.ids.size()) - 1;
    const std::int64_t begin = std::int64_t(row) * width;
    std::copy_n(request.ids.begin(), inputs, tokens.data<std::int32_t>() + begin);
    for (std::int64_t i = inputs - request.continuation; i < inputs; ++i) {
      places.push_back(std::int32_t(begin + i));
      labels.push_back(request.ids[std::size_t(i) + 1]);
      owners.push_back(of[row]);
    }
  }
  const Tensor logits = model.logits_at(tokens, places, {}).to(Device::cpu);
  const std::int64_t vocabulary = logits.cols();
  std::vector<std::pair<double, bool>> scores(places.size());
  for_accumulator(logits.dtype(), [&]<class A>(A) {
    parallel_for(std::int64_t(places.size()), 1, [&](std::int64_t first, std::int64_t end) {
      for (std::int64_t i = first; i < end; ++i)
        scores[std::size_t(i)] =
            score_row(logits.data<A>() + i * vocabulary, vocabulary, labels[std::size_t(i)]);
    });
  });
  for (std::size_t i = 0; i < scores.size(); ++i) {
    double* sum = sums.data<double>() + 2 * owners[i];
    sum[0] += scores[i].first;
    sum[1] += scores[i].second ? 1 : 0;
  }
}

}  // namespace

EncodedRequest encode_request(const Request& request, const Encode& encode,
                              std::optional<std::int32_t> bos, std::int64_t positions,
                              const std::string& where) {
  const std::size_t kept = request.context.find_last_not_of(" \t\n\r\f\v") + 1;
  const std::string context = request.context.substr(0, kept);
  const std::vector<std::int32_t> whole = encode(request.context + request.continuation);
  const std::size_t before = context.empty() ? 0 : encode(context).size();
  EncodedRequest out;
  out.continuation = std::int64_t(whole.size()) - std::int64_t(before);
  MOE_REQUIRE(out.continuation > 0, where, ": the continuation '", request.continuation,
              "' has no tokens of its own");
  MOE_REQUIRE(bos || before > 0, where,
              ": nothing stands before the continuation, and the model has no BOS");
  MOE_REQUIRE(out.continuation <= positions, where, ": the continuation has ", out.continuation,
              " tokens, more than the ", positions, " positions that the model has");
  const std::int64_t all = std::int64_t(whole.size()) + (bos ? 1 : 0);
  const std::int64_t surplus = std::max<std::int64_t>(0, all - 1 - positions);
  out.truncated = surplus > 0;
  if (bos) out.ids.push_back(*bos);
  out.ids.insert(out.ids.end(), whole.begin() + surplus, whole.end());
  return out;
}

std::vector<RequestScore> score_requests(const Transformer& model,
                                         std::span<const EncodedRequest> requests,
                                         std::int64_t batch, Communicator& world,
                                         const std::function<void(std::int64_t)>& done) {
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // The longest first: what does not fit into memory shows at once.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return requests[a].ids.size() > requests[b].ids.size();
  });
  // [log-likelihood, greedy ids] of each request: every element has one rank that fills it in.
  Tensor sums =
      Tensor::zeros({std::max<std::int64_t>(1, std::int64_t(requests.size())), 2}, DType::f64);
  const auto step = std::size_t(batch * world.size());
  std::int64_t through = 0;
  for (std::size_t round = 0; round < order.size(); round += step) {
    const std::size_t first = round + std::size_t(world.rank() * batch);
    if (first >= order.size()) break;
    const std::size_t n = std::min(std::size_t(batch), order.size() - first);
    score_batch(model, requests, std::span(order).subspan(first, n), sums);
    through += std::int64_t(n);
    if (done) done(through);
  }
  world.all_reduce(sums, ReduceOp::sum).wait();
  std::vector<RequestScore> scores;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const double* sum = sums.data<double>() + 2 * r;
    const std::int64_t tokens = requests[r].continuation;
    scores.push_back({sum[0], tokens, sum[1] == double(tokens)});
  }
  return scores;
}

}  // namespace moe
