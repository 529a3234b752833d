// SPDX-License-Identifier: Apache-2.0
#include "train/step_statistics.h"

#include <limits>
#include <numeric>
#include <utility>

#include "train/engine.h"

namespace moe {
namespace {

/// Numbers of many kinds in one row, so that one collective adds up all of them. Counts below 2^53
/// stay exact.
class Row {
 public:
  void put(std::span<const double> values) {
    row_.insert(row_.end(), values.begin(), values.end());
  }
  void put(const Tensor& t) {
    const Tensor host = t.to(Device::cpu);
    for (std::int64_t i = 0; i < host.size(); ++i)
      row_.push_back(host.dtype() == DType::i64 ? double(host.data<std::int64_t>()[i])
                                                : host.data<double>()[i]);
  }
  void sum(Communicator& world) {
    Tensor t = Tensor::of<double>({std::int64_t(row_.size())}, row_);
    world.all_reduce(t, ReduceOp::sum).wait();
    row_.assign(t.data<double>(), t.data<double>() + t.size());
  }
  /// The next `n`, in the order they were put.
  std::span<const double> take(std::size_t n) {
    at_ += n;
    return std::span(row_).subspan(at_ - n, n);
  }

 private:
  std::vector<double> row_;
  std::size_t at_ = 0;
};

void put(Row& row, const std::optional<RouterStatistics>& routers) {
  if (!routers) return;
  for (const Tensor* t :
       {&routers->chosen, &routers->placed, &routers->probabilities, &routers->losses})
    row.put(*t);
}

/// What put() wrote, summed.
void take(Row& row, const std::optional<RouterStatistics>& routers, RoutingResult& result) {
  if (!routers) return;
  const auto layers = std::size_t(routers->chosen.rows());
  const auto experts = std::size_t(routers->chosen.cols());
  const auto by_layer = [&](auto& list) {
    using Numbers = typename std::remove_reference_t<decltype(list)>::value_type;
    for (std::size_t l = 0; l < layers; ++l) {
      const auto values = row.take(experts);
      list.push_back(Numbers(values.begin(), values.end()));
    }
  };
  by_layer(result.loads);
  const auto placed = row.take(layers * experts);
  by_layer(result.probabilities);
  for (const auto& load : result.loads)
    for (const std::int64_t n : load) result.dropped += n;
  for (const double n : placed) result.dropped -= std::int64_t(n);
  for (std::size_t l = 0; l < layers; ++l) {
    const auto losses = row.take(3);
    result.cv_squared += losses[0];
    result.switch_top_k += losses[1];
    result.z += losses[2];
  }
}

}  // namespace

StepStatistics::StepStatistics(const ModelConfig& config, std::int64_t domains, Device device)
    : domain_loss_(std::size_t(domains), 0), domain_tokens_(domain_loss_) {
  if (config.is_moe()) routers_.emplace(config.layers, config.moe.experts, device);
  if (config.is_attention_moe())
    attention_routers_.emplace(config.layers, config.attention_moe.experts, device);
}

void StepStatistics::add_tokens(const ModelLoss& loss, const Tensor& labels,
                                std::span<const std::int32_t> domains) {
  taught_ = loss.token_divergence.defined();
  tokens_.push_back(
      {loss.token_loss, loss.token_divergence, labels, {domains.begin(), domains.end()}});
}

void StepStatistics::count(const Tokens& tokens) {
  const std::int64_t length = tokens.labels.cols();
  const auto* label = tokens.labels.data<std::int32_t>();
  const Tensor host = tokens.loss.to(Device::cpu);
  const Tensor divergence = taught_ ? tokens.divergence.to(Device::cpu) : Tensor();
  for_accumulator(host.dtype(), [&]<class A>(A) {
    for (std::int64_t t = 0; taught_ && t < divergence.size(); ++t)
      divergence_ += double(divergence.data<A>()[t]);
    for (std::int64_t s = 0; s < tokens.labels.rows(); ++s) {
      double sum = 0;
      std::int64_t count = 0;
      for (std::int64_t t = s * length; t < (s + 1) * length; ++t) {
        sum += double(host.data<A>()[t]);
        count += label[t] >= 0;
      }
      const auto d = std::size_t(tokens.domains[std::size_t(s)]);
      domain_loss_[d] += sum;
      domain_tokens_[d] += double(count);
    }
  });
}

void StepStatistics::finish(Communicator& world, std::int64_t labelled, StepResult& result) {
  for (const Tokens& tokens : std::exchange(tokens_, {})) count(tokens);
  Row row;
  row.put(domain_loss_);
  row.put(domain_tokens_);
  row.put(std::span(&divergence_, 1));
  put(row, routers_);
  put(row, attention_routers_);
  row.sum(world);

  const std::size_t domains = domain_loss_.size();
  const auto loss = row.take(domains), tokens = row.take(domains);
  const double divergence = row.take(1)[0];
  for (std::size_t d = 0; d < domains; ++d)
    result.domain_loss.push_back(tokens[d] > 0 ? loss[d] / tokens[d]
                                               : std::numeric_limits<double>::quiet_NaN());
  const auto labels = double(std::max<std::int64_t>(labelled, 1));
  result.loss = std::accumulate(loss.begin(), loss.end(), 0.0) / labels;
  if (taught_) result.teacher_kl = divergence / labels;
  take(row, routers_, result.routing);
  take(row, attention_routers_, result.attention_routing);
}

}  // namespace moe
