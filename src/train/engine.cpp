// SPDX-License-Identifier: Apache-2.0
#include "train/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "comm/collective_log.h"
#include "comm/watchdog.h"
#include "core/clock.h"
#include "optim/selection_bias.h"
#include "train/router_refresh.h"
#include "train/step_statistics.h"

namespace moe {

Engine::Engine(const ModelConfig& config, const EngineOptions& options, const ProcessGrid& grid,
               const ParameterRows& weights)
    : config_(config),
      options_(options),
      grid_(grid),
      parameters_(config_, options.dtype, grid.expert_group().rank(), grid.ep(), options.device,
                  options.freeze) {
  model_ = std::make_unique<Transformer>(config_, parameters_, grid_);
  if (const Transformer* teacher = options_.teacher.get())
    MOE_CHECK(teacher->config().vocab_size == config_.vocab_size &&
                  teacher->dtype() == options_.dtype && teacher->device() == options_.device,
              "a teacher of vocabulary ", teacher->config().vocab_size, " in ",
              name(teacher->dtype()), " for a model of vocabulary ", config_.vocab_size, " in ",
              name(options_.dtype), ", or on another device");
  const DType acc = accumulator(options.dtype);
  plan_ = std::make_unique<BucketPlan>(parameters_.layout(), grid_.position(), acc,
                                       options.bucket_part_bytes, options.zero);
  gradients_ = std::make_unique<GradientBuckets>(
      parameters_, *plan_, grid_, acc == DType::f64 ? acc : options.gradient_transport);
  if (!options.gradients_only) {
    optimizer_ = std::make_unique<AdamW>(parameters_, *plan_, options.optimizer);
    frozen_ = std::make_unique<FrozenMasters>(parameters_, grid_);
  }
  gather_ = std::make_unique<WeightGather>(parameters_, *plan_, grid_);
  model_->set_weights_needed([this](std::size_t count) { gather_->wait_for_first(count); });
  const auto first_counts = [&](const RouterConfig& router) {
    const std::int64_t n = config_.layers * router.experts;
    if (n == 0) return Tensor();
    return Tensor::of<std::int64_t>({config_.layers, router.experts},
                                    std::vector<std::int64_t>(std::size_t(n), 1))
        .to(options_.device);
  };
  previous_counts_ = first_counts(config_.moe);
  attention_previous_counts_ = first_counts(config_.attention_moe);
  load_weights(weights);
}

void Engine::load_weights(const ParameterRows& rows) {
  parameters().load(rows);
  if (!optimizer_) return;
  optimizer_->load_masters(rows);
  frozen_->load(rows);
}

ParameterStore& Engine::parameters() {
  gather_->wait_for_first(parameters_.all().size());
  return parameters_;
}

ops::Taught Engine::ask_teacher(const Tensor& tokens, const Tensor& document_starts) const {
  if (!options_.teacher) return {};
  ForwardContext context;
  context.document_starts = document_starts;
  const TrainConfig::Distill& d = options_.distill;
  return {options_.teacher->hidden_states(tokens, context), options_.teacher->head(), d.temperature,
          d.weight, d.lm_weight};
}

StepResult Engine::compute_gradients(const Batch& batch, const GlobalCounts& counts,
                                     std::int64_t step, const StepFaults& faults) {
  const std::int64_t sequences = batch.tokens.rows();
  MOE_CHECK(counts.labelled >= 0 && counts.routed > 0, "a batch without tokens");
  const double scale = faults.nan_gradient
                           ? std::numeric_limits<double>::quiet_NaN()
                           : 1.0 / double(std::max<std::int64_t>(counts.labelled, 1));
  StepResult result;
  const auto top_k = [step](const RouterOptions& options, const RouterConfig& router) {
    return router.experts == 0 ? 0 : options.top_k_in(step, router.top_k, router.experts);
  };
  result.routing.top_k = top_k(options_.router, config_.moe);
  result.attention_routing.top_k = top_k(options_.attention_router, config_.attention_moe);
  StepStatistics statistics(config_, options_.domains, options_.device);

  set_phase_step(step);
  take_waiting_seconds();  // what was waited for between steps is not theirs
  gradients_->begin_step();
  for (std::int64_t first = 0; first < sequences; first += options_.micro_batch) {
    const std::int64_t n = std::min(options_.micro_batch, sequences - first);
    const Tensor tokens = batch.tokens.slice(first, n), labels = batch.labels.slice(first, n);
    ForwardContext context;
    context.training = true;
    context.recompute = options_.recompute;
    context.seed = options_.seed;
    context.step = step;
    context.sequence_ids =
        std::span(batch.sequence_ids).subspan(std::size_t(first), std::size_t(n));
    if (batch.document_starts.defined())
      context.document_starts = batch.document_starts.slice(first, n);
    context.inverse_routed = 1.0 / double(counts.routed);
    context.routing = {options_.router, result.routing.top_k, previous_counts_, faults.hot_expert,
                       statistics.routers()};
    context.attention_routing = {options_.attention_router,
                                 result.attention_routing.top_k,
                                 attention_previous_counts_,
                                 {},
                                 statistics.attention_routers()};
    if (first + n == sequences) gradients_->begin_last_micro_batch();

    ops::Taught taught;
    if (options_.teacher) {
      Timer timer(result.seconds["teacher"]);
      taught = ask_teacher(tokens, context.document_starts);
    }
    Tape tape;
    ModelLoss loss;
    {
      Timer timer(result.seconds["forward"]);
      loss = model_->loss(tokens, labels, scale, context, taught);
      statistics.add_tokens(loss, labels,
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
    statistics.finish(grid_.world(), counts.labelled, result);
    // Where the student's own loss is finite, it is not the student that is broken.
    if (result.teacher_kl && std::isfinite(result.loss) && !std::isfinite(*result.teacher_kl))
      throw Error(str("step ", step,
                      ": the teacher's output is not finite, the model's is: run it ",
                      "in a wider model.dtype, or choose another distill.teacher"));
    result.grad_norm = gradients_->global_norm();
  }
  result.exposed_seconds = take_waiting_seconds();
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
  const auto after_step = [&](const RoutingResult& routing, const Tensor& counts,
                              const char* router, double bias_rate) {
    for (std::size_t l = 0; l < routing.loads.size(); ++l)
      counts.slice(std::int64_t(l), 1)
          .copy_from(Tensor::of<std::int64_t>({1, counts.cols()}, routing.loads[l]));
    if (bias_rate > 0) update_selection_bias(parameters_, router, routing.loads, bias_rate);
  };
  after_step(result.routing, previous_counts_, "router", options_.router.bias_update_rate);
  after_step(result.attention_routing, attention_previous_counts_, "attention.router",
             options_.attention_router.bias_update_rate);
  for (const auto& [phase, waited] : take_waiting_seconds())
    result.exposed_seconds[phase] += waited;
}

void Engine::refresh_routers(const Batch& batch) {
  moe::refresh_routers(*model_, parameters(), *optimizer_, batch, options_.micro_batch,
                       options_.router.refresh_blend, grid_.world());
}

}  // namespace moe
