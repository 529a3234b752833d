// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <tuple>

#include "comm/watchdog.h"
#include "core/cuda_device.h"
#include "core/log.h"
#include "hf/model_folder.h"
#include "optim/schedule.h"
#include "train/checkpoint_choice.h"
#include "train/checkpoint_folders.h"
#include "train/held_out_loss.h"
#include "train/model_source.h"
#include "train/selfcheck.h"
#include "train/step_metrics.h"
#include "train/training_state.h"

namespace moe {
namespace fs = std::filesystem;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// "8 experts, top-2" or "dense", and what the attention has.
std::string experts_of(const ModelConfig& m) {
  const auto choice = [](const RouterConfig& r) {
    return str(r.experts, " experts, top-", r.top_k);
  };
  std::string text = m.is_moe() ? choice(m.moe) : "dense";
  if (m.is_attention_moe())
    text += str("; in the attention ", choice(m.attention_moe), ", of ",
                m.attention_moe.kind == AttentionExpert::queries ? "queries" : "heads");
  return text;
}

std::string text_of_teacher(const std::string& checksum) {
  return checksum.empty() ? "none" : "the one of checksum " + checksum;
}

/// A checkpoint's weights, and initial ones of what the model has beside them.
ParameterRows weights_for(const ModelConfig& model, std::shared_ptr<const CheckpointReader> reader,
                          std::int64_t seed) {
  return with_new_parameters(weights_in(reader), reader->model_config(), model,
                             std::uint64_t(seed));
}

}  // namespace

Trainer::Trainer(TrainConfig config, const StartOptions& start, Communicator& world)
    : config_(std::move(config)),
      start_(start),
      world_(world),
      grid_(world, int(config_.parallel.expert), config_.parallel.exchange, start.host),
      view_(config_.train.steps, start.live_view && world.rank() == 0),
      guard_(config_.guard) {
  const fs::path run = config_.run.folder;
  const std::shared_ptr<const CheckpointReader> reader = find_start();
  ModelConfig model;
  ParameterRows weights;
  if (reader) {
    model = reader->model_config();
    apply_model_settings(config_, model);
    weights = weights_for(model, reader, config_.run.seed);
  } else {
    std::tie(model, weights) = starting_point(config_);
  }
  frozen_ = require_trainable(config_, model, world.size());
  const Teacher teacher = load_teacher(config_, model, start_.device);
  teacher_ = teacher.checksum;
  const EngineOptions options = engine_options(config_, start_.device, teacher);
  if (start_.selfcheck) report_selfcheck(config_, options, grid_, model, weights);
  engine_ = std::make_unique<Engine>(model, options, grid_, weights);
  drills_ = std::make_unique<const FaultDrills>(start_.faults, world.rank(), world.size(),
                                                model.moe.experts);
  data_ = std::make_unique<RunData>(open_data(config_, model));
  const Mixture& mixture = data_->loader.mixture();
  const std::int64_t mine = config_.batch.global / world_.size();
  feed_ =
      std::make_unique<BatchFeed>(data_->loader, config_.batch.global, world_.rank() * mine, mine);
  progress_.mixture = mixture.initial_state();
  checkpoints_ = std::make_unique<RunCheckpoints>(config_, start_.threads, mixture.domains(),
                                                  *drills_, *engine_);
  if (reader) {
    progress_ = checkpoints_->restore(*reader);
    guard_.set_state(progress_.guard);
    log_info("resuming {} after step {}", reader->folder().string(), progress_.step);
    if (progress_.teacher != teacher_)
      warn_once("the teacher is {}, the checkpoint's was {}: the divergence is from another model",
                text_of_teacher(teacher_), text_of_teacher(progress_.teacher));
  } else if (!start_.optimizer_from.empty()) {
    const CheckpointReader before(start_.optimizer_from);
    load_moments_and_counts(*engine_, before);
    engine_->optimizer().set_steps(optimizer_steps_in(before));
  }
  mixture.require_enough(progress_.mixture,
                         (config_.train.steps - progress_.step) * config_.batch.global);
  world.barrier().wait();  // nothing is changed on disk before every rank has read

  if (world.rank() == 0) prepare_folder(run);
  world.barrier().wait();
  print_start();
}

std::shared_ptr<const CheckpointReader> Trainer::find_start() const {
  const fs::path run = config_.run.folder;
  if (start_.resume == "auto") return newest_good_checkpoint(run / "checkpoints", world_);
  // Rank 0 looks: file systems of a cluster may not show all ranks the same.
  fs::path found;
  if (world_.rank() == 0) {
    const bool exists = fs::exists(run / "metrics.jsonl") && !config_.run.overwrite;
    if (start_.resume != "none") {
      found = find_checkpoint(start_.resume);
      const bool own =
          fs::weakly_canonical(found).parent_path() == fs::weakly_canonical(run / "checkpoints");
      MOE_REQUIRE(own || !exists, run.string(), ": another run lies here than that of ",
                  found.string(), ": choose another run.folder, or allow --set run.overwrite=true");
    } else {
      MOE_REQUIRE(!exists, run.string(),
                  ": a run lies here already: continue it with --resume auto, choose another "
                  "run.folder, or allow --set run.overwrite=true");
    }
  }
  if (start_.resume == "none") return nullptr;
  return open_verified(found, world_);
}

void Trainer::prepare_folder(const fs::path& run) {
  std::error_code error;
  if (progress_.step == 0 && config_.run.overwrite) {
    const std::string source = fs::weakly_canonical(config_.model.init_from).string() + "/";
    MOE_REQUIRE(config_.model.init_from.empty() ||
                    !source.starts_with(fs::weakly_canonical(run).string() + "/"),
                "run.overwrite would delete model.init_from (", config_.model.init_from,
                "): choose another run.folder");
    fs::remove_all(run / "checkpoints", error);
    MOE_REQUIRE(!error, run.string(), ": cannot remove its checkpoints: ", error.message());
  }
  fs::create_directories(run, error);
  MOE_REQUIRE(!error, run.string(), ": cannot make this folder: ", error.message());
  if (const std::int64_t n = abandon_checkpoints_after(run / "checkpoints", progress_.step); n > 0)
    log_warning("{} checkpoints after step {} are put aside as abandoned-step-*", n,
                progress_.step);
  TrainConfig effective = config_;
  effective.run.overwrite = false;  // the saved file must not delete the run when it is used again
  save_config(effective, run / "config.yaml");
  metrics_ = std::make_unique<RunMetrics>(config_.run, progress_.step, progress_.tokens);
  heartbeat_ = Heartbeat(run / "heartbeat.json");
}

Trainer::~Trainer() = default;

void Trainer::print_start() const {
  const ModelConfig& m = engine_->config();
  const ParameterCounts count = count_parameters(m);
  log_info("{} x {} ranks (expert x data parallel), {} threads each, {} on {}", grid_.ep(),
           grid_.dp(), start_.threads, name(config_.model.dtype),
           start_.device == Device::cuda ? cuda::device_name() : "the CPU");
  log_info("{} layers, hidden {}, {}: {:.4g} M parameters, {:.4g} M activated", m.layers,
           m.hidden_size, experts_of(m), double(count.total) / 1e6, double(count.activated) / 1e6);
  if (frozen_.frozen > 0) log_info("{}", to_text(frozen_));
  const std::int64_t tokens = config_.batch.global * config_.data.sequence_length;
  if (const Transformer* teacher = engine_->teacher())
    log_info("learns from {}: {:.4g} M parameters on every rank, {:.4g} FLOPs a step; {}",
             config_.distill.teacher, double(count_parameters(teacher->config()).total) / 1e6,
             forward_flops(teacher->config(), tokens, config_.data.sequence_length),
             to_text(config_.distill));
  log_info("{} sequences of {} a step ({} tokens), steps {} to {}; active FLOPs a step {:.4g}",
           config_.batch.global, config_.data.sequence_length, tokens, progress_.step + 1,
           config_.train.steps, step_flops(m, tokens, config_.data.sequence_length));
  for (const auto& [options, router, where] :
       {std::tuple(&config_.router, static_cast<const RouterConfig*>(&m.moe), ""),
        {&config_.attention_router, &m.attention_moe, " in the attention"}})
    if (options->top_k_from && router->experts > 0)
      log_info("top-{} in the first step{}, top-{} from step {} on",
               options->top_k_in(1, router->top_k, router->experts), where, router->top_k,
               options->top_k_steps);
}

RunEnd Trainer::run() {
  if (progress_.step >= config_.train.steps)
    log_info("nothing left to do after step {}: raise train.steps to go on", progress_.step);
  while (progress_.step < config_.train.steps && !stop_) train_one_step();
  heartbeat_.beat(progress_.step, "save");
  checkpoints_->finish();
  if (checkpoints_->newest_step() != progress_.step && progress_.step > 0) save();
  const std::map<std::string, std::int64_t> peak = peak_memory(start_.device);
  std::string kinds;
  for (const char* kind : kMemoryKindNames)
    kinds += fmt::format("{} {:.1f}, ", kind, double(peak.at(kind)) / 1e6);
  log_info("peak memory of rank 0 in MB: {}together {:.1f}", kinds, double(peak.at("total")) / 1e6);
  const bool complete = progress_.step >= config_.train.steps;
  heartbeat_.beat(progress_.step, complete ? "complete" : "interrupted");
  if (!complete) log_info("stopped after step {} as asked: --resume auto goes on", progress_.step);
  return complete ? RunEnd::complete : RunEnd::interrupted;
}

void Trainer::train_one_step() {
  const double begin = now();
  const std::int64_t step = progress_.step + 1;
  heartbeat_.beat(step, "train");
  set_phase_step(step);
  const std::int64_t rollbacks = guard_.state().rollbacks;
  drills_->begin_step(step, rollbacks);
  set_phase("load");
  const double asked = now();
  const auto [plan, batch] = feed_->next(step, progress_.mixture);
  const double loaded = now();
  const double rate =
      learning_rate(config_.schedule, config_.optimizer.learning_rate, step, config_.train.steps);
  StepResult result = engine_->compute_gradients(batch, {plan.labels, plan.tokens}, step,
                                                 drills_->faults_of(step, rollbacks));
  const Verdict verdict = agree(result);
  if (verdict == Verdict::accept) {
    engine_->update(result, rate);
    if (const std::int64_t every = config_.router.refresh_every; every > 0 && step % every == 0) {
      const double refresh = now();
      engine_->refresh_routers(batch);
      result.seconds["refresh"] = now() - refresh;
    }
    if (plan.labels > 0) guard_.accept(step, result.loss);
    progress_.tokens += plan.labels;
  } else {
    guard_.skip();
    warn_once("step {} is skipped: {} (loss {}, gradient norm {})", step, describe(verdict),
              result.loss, result.grad_norm);
  }
  progress_.mixture = plan.next;
  progress_.step = step;
  result.seconds["load"] = loaded - asked;
  const double seconds = now() - begin;
  // The first step of a process warms caches up; it would distort the time left.
  if (steps_timed_++ > 0) seconds_training_ += seconds;

  StepMetrics metrics = metrics_of(result, config_, model_in_step(config_, engine_->config(), step),
                                   start_.device, seconds);
  metrics.step = progress_.step;
  metrics.tokens = progress_.tokens;
  metrics.learning_rate = rate;
  const std::vector<DomainSize>& domains = data_->loader.mixture().domains();
  for (std::size_t d = 0; d < domains.size(); ++d) {
    metrics.domain_weights[domains[d].name] = progress_.mixture.weights[d];
    metrics.domain_epochs[domains[d].name] =
        double(progress_.mixture.consumed[d]) / double(domains[d].sequences);
  }
  metrics.skipped_steps = guard_.state().skipped_steps;
  metrics.rollbacks = guard_.state().rollbacks;
  if (verdict != Verdict::accept) metrics.skipped = describe(verdict);
  const bool last = step == config_.train.steps;
  const bool due = config_.train.eval_every > 0 && step % config_.train.eval_every == 0;
  if (due || (last && config_.train.eval_every > 0)) evaluate(metrics);
  // Not by the evaluation at the end alone: a run that is made longer must go on as if it had been.
  if (due && config_.data.mixture.dynamic) reweight(metrics);
  metrics.checkpoint = checkpoints_->poll();
  if (metrics_) {
    metrics_->write(metrics);
    const double each = steps_timed_ > 1 ? seconds_training_ / double(steps_timed_ - 1) : seconds;
    view_.show(metrics, each * double(config_.train.steps - step),
               step % config_.run.log_every == 0 || last);
  }
  if (guard_.wants_rollback()) {
    roll_back();
  } else if (config_.train.checkpoint_every > 0 && step % config_.train.checkpoint_every == 0 &&
             !last) {  // run() saves the last one and waits for it
    heartbeat_.beat(step, "save");
    checkpoints_->begin(progress());
  }
}

/// What all ranks do with this step, and whether one of them was asked to stop.
Verdict Trainer::agree(const StepResult& result) {
  set_phase("agreement");
  const Tensor wishes = Tensor::of<std::int64_t>(
      {2}, {std::int64_t(guard_.judge(result.loss, result.grad_norm)), start_.stop_requested()});
  world_.all_reduce(wishes, ReduceOp::max).wait();
  stop_ = wishes.data<std::int64_t>()[1] != 0;
  return Verdict(wishes.data<std::int64_t>()[0]);
}

/// The weights, moments and counts of a checkpoint, but the data goes on where it is.
void Trainer::roll_back() {
  checkpoints_->finish();
  const std::string why = str(config_.guard.max_skipped, " steps in a row up to step ",
                              progress_.step, " were skipped");
  constexpr const char* kAdvice =
      ": metrics.jsonl says why each was; look at the data of these steps, lower "
      "optimizer.learning_rate, or resume from an earlier checkpoint (--resume FOLDER)";
  if (!guard_.may_roll_back())
    throw Error(str(why, " after ", guard_.state().rollbacks, " rollbacks", kAdvice));
  heartbeat_.beat(progress_.step, "roll back");
  const fs::path run = config_.run.folder;
  const auto reader = rollback_checkpoint(run / "checkpoints", guard_.rollback_limit(),
                                          config_.train.checkpoint_every, world_);
  if (!reader)
    throw Error(str(why, " and there is no checkpoint of step ", guard_.rollback_limit(),
                    " or before to go back to", kAdvice));
  engine_->load_weights(weights_for(engine_->config(), reader, config_.run.seed));
  RunProgress there = checkpoints_->restore(*reader);
  guard_.roll_back(there.step, there.guard);
  there.mixture = std::move(progress_.mixture);
  progress_ = std::move(there);
  warn_once("{}: back to step {}, on with other data (rollback {} of {})", why, progress_.step,
            guard_.state().rollbacks, config_.guard.max_rollbacks);
  world_.barrier().wait();  // all have read
  if (world_.rank() == 0) {
    (void)abandon_checkpoints_after(run / "checkpoints", progress_.step);
    metrics_ = nullptr;
    metrics_ = std::make_unique<RunMetrics>(config_.run, progress_.step, progress_.tokens);
  }
}

void Trainer::evaluate(StepMetrics& metrics) {
  const auto alive = [this] { heartbeat_.beat(progress_.step, "evaluate"); };
  for (const RunData::HeldOutDomain& d : data_->held_out)
    metrics.held_out_loss[d.name] =
        held_out_loss(engine_->model(), d.data, config_.train.eval_sequences, config_.batch.micro,
                      world_, alive)
            .loss;
}

void Trainer::reweight(const StepMetrics& metrics) {
  std::vector<double> excess;
  for (const TrainConfig::TrainDomain& d : config_.data.train)
    excess.push_back(metrics.held_out_loss.at(d.domain) - *d.reference_loss);
  if (!std::all_of(excess.begin(), excess.end(), [](double e) { return std::isfinite(e); })) {
    warn_once("step {}: a held-out loss is not finite, the mixture stays as it is", metrics.step);
    return;
  }
  progress_.mixture.weights = reweighted(progress_.mixture.weights, excess, config_.data.mixture);
}

RunProgress Trainer::progress() const {
  RunProgress whole = progress_;
  whole.optimizer_steps = engine_->optimizer().steps();
  whole.guard = guard_.state();
  whole.teacher = teacher_;
  return whole;
}

void Trainer::save() {
  heartbeat_.beat(progress_.step, "save");
  checkpoints_->save(progress());
}

}  // namespace moe
