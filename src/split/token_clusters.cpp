// SPDX-License-Identifier: Apache-2.0
#include "split/token_clusters.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "split/balanced_assignment.h"
#include "split/partition.h"

namespace moe {
namespace {

constexpr int kMaxIterations = 100;

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

class Run {
 public:
  Run(const Tensor& x, std::int64_t clusters, TokenMetric metric, bool balanced)
      : x_(x), clusters_(clusters), metric_(metric), balanced_(balanced) {
    result_.weight = Tensor::zeros({clusters, x.cols()}, DType::f32);
    result_.bias = Tensor::zeros({clusters}, DType::f32);
    result_.labels.assign(std::size_t(x.rows()), -1);
    lengths_.resize(std::size_t(x.rows()));
    parallel_for(x.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        lengths_[std::size_t(t)] = std::sqrt(dot(row(t), row(t), x_.cols()));
    });
  }

  /// k-means++ (Arthur & Vassilvitskii 2007): far tokens are likelier seeds.
  void seed(const Philox& random) {
    std::vector<double> far(std::size_t(x_.rows()), 1.0);
    for (std::int64_t c = 0; c < clusters_; ++c) {
      double total = 0;
      for (const double d : far) total += d;
      double draw = random.uniform(std::uint64_t(c)) * total;
      std::int64_t chosen = 0;
      while (chosen + 1 < x_.rows() && (draw -= far[std::size_t(chosen)]) >= 0) ++chosen;
      set_centre(c, row(chosen));
      parallel_for(x_.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          double& d = far[std::size_t(t)];
          const double now = distance(t, c);
          d = c == 0 ? now : std::min(d, now);
        }
      });
    }
  }

  /// Gives each token to its best cluster; whether any token moved.
  bool assign() {
    const std::vector<std::int32_t> before = result_.labels;
    std::vector<double> scores(std::size_t(x_.rows() * clusters_));
    parallel_for(x_.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        double* s = scores.data() + t * clusters_;
        for (std::int64_t c = 0; c < clusters_; ++c) s[c] = dot(row(t), centre(c), x_.cols());
        if (metric_ == TokenMetric::l2)
          for (std::int64_t c = 0; c < clusters_; ++c) s[c] -= half_square(c);
        result_.labels[std::size_t(t)] = std::int32_t(std::max_element(s, s + clusters_) - s);
      }
    });
    if (balanced_) balance(scores);
    return result_.labels != before;
  }

  void update(const Philox& random, int iteration) {
    Tensor sums = Tensor::zeros({clusters_, x_.cols()}, DType::f64);
    std::vector<std::int64_t> counts(std::size_t(clusters_), 0);
    for (const std::int32_t label : result_.labels) ++counts[std::size_t(label)];
    parallel_for(x_.cols(), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = 0; t < x_.rows(); ++t) {
        double* sum = sums.data<double>() + result_.labels[std::size_t(t)] * x_.cols();
        const double length = lengths_[std::size_t(t)];
        const double factor = metric_ == TokenMetric::l2 ? 1 : (length > 0 ? 1 / length : 0);
        for (std::int64_t i = begin; i < end; ++i) sum[i] += factor * double(row(t)[i]);
      }
    });
    std::vector<float> mean(std::size_t(x_.cols()));
    for (std::int64_t c = 0; c < clusters_; ++c) {
      const std::int64_t n = counts[std::size_t(c)];
      if (n == 0) {  // starts again at some token
        const std::uint64_t draw = std::uint64_t(iteration) * std::uint64_t(clusters_);
        set_centre(c, row(std::int64_t(random.below(1'000'000 + draw + std::uint64_t(c),
                                                    std::uint64_t(x_.rows())))));
        continue;
      }
      for (std::int64_t i = 0; i < x_.cols(); ++i)
        mean[std::size_t(i)] = float(sums.data<double>()[c * x_.cols() + i] / double(n));
      set_centre(c, mean.data());
    }
  }

  TokenClustering finish() {
    if (metric_ == TokenMetric::l2)
      for (std::int64_t c = 0; c < clusters_; ++c)
        result_.bias.data<float>()[c] =
            float(-half_square(c) - (balanced_ ? double(prices_[std::size_t(c)]) / unit_ : 0));
    return std::move(result_);
  }

 private:
  const float* row(std::int64_t t) const { return x_.data<float>() + t * x_.cols(); }
  float* centre(std::int64_t c) const { return result_.weight.data<float>() + c * x_.cols(); }
  double half_square(std::int64_t c) const { return dot(centre(c), centre(c), x_.cols()) / 2; }

  void set_centre(std::int64_t c, const float* values) {
    double factor = 1;
    if (metric_ == TokenMetric::cosine) {
      const double length = std::sqrt(dot(values, values, x_.cols()));
      factor = length > 0 ? 1 / length : 0;
    }
    for (std::int64_t i = 0; i < x_.cols(); ++i) centre(c)[i] = float(factor * double(values[i]));
  }

  /// From a token to a cluster's centre, squared; rounding must not make it negative.
  double distance(std::int64_t t, std::int64_t c) const {
    const double length = lengths_[std::size_t(t)], score = dot(row(t), centre(c), x_.cols());
    const double d = metric_ == TokenMetric::cosine
                         ? (length > 0 ? 2 - 2 * score / length : 0)
                         : length * length - 2 * (score - half_square(c));
    return std::max(d, 0.0);
  }

  void balance(const std::vector<double>& scores) {
    double largest = 1e-30;
    for (const double s : scores) largest = std::max(largest, std::abs(s));
    unit_ = std::ldexp(1.0, 30) / largest;
    std::vector<std::int64_t> costs(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) costs[i] = -std::llround(scores[i] * unit_);
    prices_.assign(std::size_t(clusters_), 0);
    result_.labels = balanced_assignment(costs, even_sizes(x_.rows(), clusters_), prices_);
  }

  const Tensor& x_;
  std::int64_t clusters_;
  TokenMetric metric_;
  bool balanced_;
  std::vector<double> lengths_;
  double unit_ = 1;  // integer costs to a score of 1
  std::vector<std::int64_t> prices_;
  TokenClustering result_;
};

}  // namespace

TokenMetric token_metric_named(std::string_view text) {
  MOE_REQUIRE(text == "cosine" || text == "l2", "unknown metric '", text, "': use cosine or l2");
  return text == "l2" ? TokenMetric::l2 : TokenMetric::cosine;
}

TokenClustering cluster_tokens(const Tensor& x, std::int64_t clusters, TokenMetric metric,
                               bool balanced, std::uint64_t seed, std::uint64_t stream) {
  MOE_REQUIRE(x.rows() >= clusters, "cannot make ", clusters, " clusters of ", x.rows(),
              " calibration tokens: give more text");
  MOE_REQUIRE(!balanced || metric == TokenMetric::l2,
              "balanced clusters of tokens need the metric l2: no linear gate routes by cosine "
              "similarity and price");
  const Philox random(seed, RandomPurpose::split, {0x746f6b, stream});
  Run run(x, clusters, metric, balanced);
  run.seed(random);
  for (int i = 0; run.assign() && i < kMaxIterations; ++i) run.update(random, i);
  return run.finish();
}

double routing_agreement(const Tensor& x, const TokenClustering& clustering) {
  const std::int64_t clusters = clustering.weight.rows(), cols = x.cols();
  const double agreeing = parallel_sum(x.rows(), 64, [&](std::int64_t begin, std::int64_t end) {
    double count = 0;
    for (std::int64_t t = begin; t < end; ++t) {
      std::int32_t best = 0;
      double most = -INFINITY;
      for (std::int64_t c = 0; c < clusters; ++c) {
        const double s =
            dot(x.data<float>() + t * cols, clustering.weight.data<float>() + c * cols, cols) +
            double(clustering.bias.data<float>()[c]);
        if (s > most) most = s, best = std::int32_t(c);
      }
      count += best == clustering.labels[std::size_t(t)];
    }
    return count;
  });
  return agreeing / double(x.rows());
}

}  // namespace moe
