// SPDX-License-Identifier: Apache-2.0
#include "train/engine.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "comm/collective_log.h"
#include "comm/watchdog.h"

namespace moe {
namespace {

/// Adds the time since its construction to a total.
class Timer {
 public:
  explicit Timer(double& total) : total_(total) {}
  ~Timer() {
    total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// This rank's sums, added up over all ranks in one collective.
struct Sums {
  std::vector<double> domain_loss, domain_tokens;
  std::vector<RouterStatistics> layers;

  void add_tokens(const Tensor& token_loss, const Tensor& labels,
                  std::span<const std::int32_t> domains) {
    const std::int64_t length = labels.cols();
    const auto* label = labels.data<std::int32_t>();
    const Tensor host = token_loss.to(Device::cpu);
    for_accumulator(host.dtype(), [&]<class A>(A) {
      for (std::int64_t s = 0; s < labels.rows(); ++s) {
        double sum = 0;
        std::int64_t count = 0;
        for (std::int64_t t = s * length; t < (s + 1) * length; ++t) {
          sum += double(host.data<A>()[t]);
          count += label[t] >= 0;
        }
        const auto d = std::size_t(domains[std::size_t(s)]);
        domain_loss[d] += sum;
        domain_tokens[d] += double(count);
      }
    });
  }

  void reduce(Communicator& world, std::int64_t experts) {
    std::vector<double> flat;
    visit(experts, [&](double& v) { flat.push_back(v); });
    Tensor t = Tensor::of<double>({std::int64_t(flat.size())}, flat);
    world.all_reduce(t, ReduceOp::sum).wait();
    const double* next = t.data<double>();
    visit(experts, [&](double& v) { v = *next++; });
  }

 private:
  template <class F>
  void visit(std::int64_t experts, F&& f) {
    for (double& v : domain_loss) f(v);
    for (double& v : domain_tokens) f(v);
    for (RouterStatistics& s : layers) {
      f(s.cv_squared);
      f(s.switch_top_k);
      f(s.z);
      s.tokens_per_expert.resize(std::size_t(experts));
      for (std::int64_t& n : s.tokens_per_expert) {
        double v = double(n);
        f(v);
        n = std::int64_t(v);
      }
    }
  }
};

}  // namespace

Engine::Engine(const ModelConfig& config, const EngineOptions& options, const ProcessGrid& grid,
               const ParameterRows& weights)
    : config_(config),
      options_(options),
      grid_(grid),
      parameters_(config_, options.dtype, grid.expert_group().rank(), grid.ep()) {
  model_ = std::make_unique<Transformer>(config_, parameters_, grid_);
  const DType acc = accumulator(options.dtype);
  plan_ = std::make_unique<BucketPlan>(parameters_.layout(), grid_.position(), acc,
                                       options.bucket_bytes, options.zero);
  gradients_ = std::make_unique<GradientBuckets>(
      parameters_, *plan_, grid_, acc == DType::f64 ? acc : options.gradient_transport);
  if (!options.gradients_only)
    optimizer_ = std::make_unique<AdamW>(parameters_, *plan_, options.optimizer);
  gather_ = std::make_unique<WeightGather>(parameters_, *plan_, grid_);
  model_->set_weights_needed([this](std::size_t count) { gather_->wait_for_first(count); });
  load_weights(weights);
}

void Engine::load_weights(const ParameterRows& rows) {
  parameters().load(rows);
  if (optimizer_) optimizer_->load_masters(rows);
}

ParameterStore& Engine::parameters() {
  gather_->wait_for_first(parameters_.all().size());
  return parameters_;
}

StepResult Engine::compute_gradients(const Batch& batch, const GlobalCounts& counts,
                                     std::int64_t step, const StepFaults& faults) {
  const std::int64_t sequences = batch.tokens.rows();
  MOE_CHECK(counts.labelled > 0 && counts.routed > 0, "a batch without tokens");
  const double scale = faults.nan_gradient ? std::numeric_limits<double>::quiet_NaN()
                                           : 1.0 / double(counts.labelled);
  StepResult result;
  Sums sums;
  sums.domain_loss.assign(std::size_t(options_.domains), 0);
  sums.domain_tokens = sums.domain_loss;
  if (config_.is_moe()) sums.layers.resize(std::size_t(config_.layers));

  set_phase_step(step);
  take_waiting_seconds();  // what was waited for between steps is not theirs
  gradients_->begin_step();
  for (std::int64_t first = 0; first < sequences; first += options_.micro_batch) {
    const std::int64_t n = std::min(options_.micro_batch, sequences - first);
    const Tensor labels = batch.labels.slice(first, n);
    ForwardContext context;
    context.training = true;
    context.seed = options_.seed;
    context.step = step;
    context.sequence_ids =
        std::span(batch.sequence_ids).subspan(std::size_t(first), std::size_t(n));
    context.router_losses = options_.router;
    context.inverse_routed = 1.0 / double(counts.routed);
    context.hot_expert = faults.hot_expert;
    context.statistics = config_.is_moe() ? &sums.layers : nullptr;
    if (first + n == sequences) gradients_->begin_last_micro_batch();

    Tape tape;
    ModelLoss loss;
    {
      Timer timer(result.seconds["forward"]);
      loss = model_->loss(batch.tokens.slice(first, n), labels, scale, context,
                          options_.recompute_blocks);
      sums.add_tokens(loss.token_loss, labels,
                      std::span(batch.domains).subspan(std::size_t(first), std::size_t(n)));
    }
    Timer timer(result.seconds["backward"]);
    set_phase("backward");
    tape.backward(loss.total);
  }
  {
    Timer timer(result.seconds["reduce"]);
    gradients_->finish();
    set_phase("statistics");
    sums.reduce(grid_.world(), config_.moe.experts);
    result.grad_norm = gradients_->global_norm();
  }
  result.exposed_seconds = take_waiting_seconds();

  double total = 0;
  for (std::size_t d = 0; d < sums.domain_loss.size(); ++d) {
    total += sums.domain_loss[d];
    result.domain_loss.push_back(sums.domain_tokens[d] > 0
                                     ? sums.domain_loss[d] / sums.domain_tokens[d]
                                     : std::numeric_limits<double>::quiet_NaN());
  }
  result.loss = total / double(counts.labelled);
  for (RouterStatistics& s : sums.layers) {
    result.cv_squared += s.cv_squared;
    result.switch_top_k += s.switch_top_k;
    result.z += s.z;
    result.loads.push_back(std::move(s.tokens_per_expert));
  }
  return result;
}

StepResult Engine::train_step(const Batch& batch, const GlobalCounts& counts, std::int64_t step,
                              double learning_rate) {
  StepResult result = compute_gradients(batch, counts, step);
  update(result, learning_rate);
  return result;
}

void Engine::update(StepResult& result, double learning_rate) {
  MOE_CHECK(optimizer_ != nullptr, "an engine of gradients only has no update");
  set_phase("optimizer");
  Timer timer(result.seconds["optimizer"]);
  result.clip = clip_factor(result.grad_norm, options_.optimizer.clip_norm);
  optimizer_->step(*gradients_, learning_rate, result.clip,
                   [this](std::size_t bucket) { gather_->start(bucket); });
  for (const auto& [phase, waited] : take_waiting_seconds())
    result.exposed_seconds[phase] += waited;
}

}  // namespace moe
