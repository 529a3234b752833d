// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <set>

#include "config/parameter_families.h"
#include "config/train_config.h"
#include "core/error.h"

namespace moe {
namespace {

void validate_router(const RouterOptions& router, const std::string& section) {
  const auto not_negative = [&](const char* key, double value) {
    MOE_REQUIRE(value >= 0, section, key, " must be at least 0, is ", value);
  };
  not_negative("cv_squared", router.cv_squared);
  not_negative("switch", router.switch_top_k);
  not_negative("z", router.z);
  MOE_REQUIRE(router.scope != BalanceScope::global_batch || router.cv_squared == 0, section,
              "scope global_batch is for ", section,
              "switch: CV^2 of the previous step's counts would teach the router nothing; set ",
              section, "cv_squared to 0, or choose scope sequence or step");
  not_negative("noise_anneal_steps", double(router.noise_anneal_steps));
  MOE_REQUIRE(std::isfinite(router.capacity_factor), section, "capacity_factor must be finite, is ",
              router.capacity_factor);
  not_negative("capacity_factor", router.capacity_factor);
  not_negative("bias_update_rate", router.bias_update_rate);
  MOE_REQUIRE(router.bias_update_rate < 1, section,
              "bias_update_rate must be below 1, the largest probability, is ",
              router.bias_update_rate);
  MOE_REQUIRE(router.top_k_from.value_or(0) >= 0, section,
              "top_k_from must be at least 0 (all experts), is ", *router.top_k_from);
  not_negative("top_k_steps", double(router.top_k_steps));
  not_negative("refresh_every", double(router.refresh_every));
  MOE_REQUIRE(router.refresh_blend > 0 && router.refresh_blend <= 1, section,
              "refresh_blend must lie in (0, 1], is ", router.refresh_blend);
  MOE_REQUIRE(router.top_k_from.has_value() == (router.top_k_steps > 0), section,
              "top_k_from and top_k_steps belong together: where from, and in how many steps");
}

void validate_distill(const TrainConfig::Distill& d) {
  const auto weight = [](const char* key, double value) {
    MOE_REQUIRE(value >= 0 && std::isfinite(value), "distill.", key,
                " must be finite and at least 0, is ", value);
  };
  weight("weight", d.weight);
  weight("lm_weight", d.lm_weight);
  MOE_REQUIRE(d.temperature > 0 && std::isfinite(d.temperature),
              "distill.temperature must be finite and positive, is ", d.temperature);
  MOE_REQUIRE(d.teacher.empty() || d.weight + d.lm_weight > 0,
              "distill.weight and distill.lm_weight are both 0: there is nothing to learn from");
}

void validate_stages(const TrainConfig& config) {
  MOE_REQUIRE(!config.run.folder.empty(), "run.folder is empty");
  std::set<std::string> names;
  for (std::size_t i = 0; i < config.stages.size(); ++i) {
    const std::string& name = config.stages[i].name;
    MOE_REQUIRE(!name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyz"
                                                        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
                                     std::string::npos,
                "stages.", i, ".name: '", name,
                "' must be of letters, digits, _ and -: it names a folder");
    MOE_REQUIRE(names.insert(name).second, "stages: ", name, " is given twice");
    // Names of a run's own files.
    MOE_REQUIRE(name != "checkpoints" && name != "tensorboard", "stages.", i, ".name: ", name,
                " is what a run calls a folder of its own: choose another");
    MOE_REQUIRE(i > 0 || !config.stages[i].keep_optimizer, "stages.0.keep_optimizer: no stage is ",
                "before the first");
    try {
      config.of_stage(i).validate();
    } catch (const InputError& e) {
      throw InputError(str("stage ", name, ": ", e.what()));
    }
  }
}

}  // namespace

void TrainConfig::validate() const {
  if (!stages.empty()) {
    validate_stages(*this);
    return;
  }
  const auto at_least = [](const char* key, auto value, auto least) {
    MOE_REQUIRE(value >= least, key, " must be at least ", least, ", is ", value);
  };
  const auto positive = [](const char* key, double value) {
    MOE_REQUIRE(value > 0, key, " must be positive, is ", value);
  };
  const auto fraction = [](const char* key, double value) {
    MOE_REQUIRE(value >= 0 && value < 1, key, " must lie in [0, 1), is ", value);
  };
  MOE_REQUIRE(!run.folder.empty(), "run.folder is empty");
  at_least("run.seed", run.seed, 0);
  at_least("run.threads", run.threads, 0);
  at_least("run.log_every", run.log_every, 1);
  at_least("run.expert_load_every", run.expert_load_every, 0);

  MOE_REQUIRE(!data.train.empty(), "data.train names no domain");
  at_least("data.sequence_length", data.sequence_length, 2);
  const auto domains = [](const char* key, const auto& list) {
    std::set<std::string> names;
    for (const auto& d : list) {
      MOE_REQUIRE(!d.domain.empty(), key, ": a domain without a name");
      MOE_REQUIRE(names.insert(d.domain).second, key, ": domain ", d.domain, " is given twice");
      MOE_REQUIRE(!d.files.empty(), key, ": domain ", d.domain, " names no files");
    }
  };
  domains("data.train", data.train);
  domains("data.held_out", data.held_out);
  for (const TrainDomain& d : data.train) {
    MOE_REQUIRE(d.weight > 0, "data.train: the weight of domain ", d.domain,
                " must be positive, is ", d.weight);
    MOE_REQUIRE(d.max_epochs >= 0, "data.train: max_epochs of domain ", d.domain,
                " must not be negative, is ", d.max_epochs);
    if (!data.mixture.dynamic) continue;
    MOE_REQUIRE(d.reference_loss.has_value(), "data.mixture.dynamic needs a reference_loss for ",
                "domain ", d.domain);
    MOE_REQUIRE(std::any_of(data.held_out.begin(), data.held_out.end(),
                            [&](const HeldOutDomain& h) { return h.domain == d.domain; }),
                "data.mixture.dynamic needs domain ", d.domain, " in data.held_out");
  }
  MOE_REQUIRE(!data.mixture.dynamic || train.eval_every > 0,
              "data.mixture.dynamic needs train.eval_every: weights change at evaluations");
  positive("data.mixture.rate", data.mixture.rate);
  fraction("data.mixture.smoothing", data.mixture.smoothing);

  at_least("batch.global", batch.global, 1);
  at_least("batch.micro", batch.micro, 1);
  at_least("parallel.expert", parallel.expert, 1);
  at_least("parallel.exchange_chunks", parallel.exchange.chunks, 1);
  at_least("parallel.ranks_per_host", parallel.exchange.ranks_per_host, 0);
  positive("parallel.bucket_mb", parallel.bucket_mb);
  MOE_REQUIRE(parallel.gradient_dtype == DType::f32 || (parallel.zero && model.dtype != DType::f64),
              "parallel.gradient_dtype bf16 needs parallel.zero and a model.dtype of f32 or bf16");
  at_least("parallel.watchdog_seconds", parallel.watchdog_seconds, 0);

  at_least("train.steps", train.steps, 1);
  at_least("train.eval_every", train.eval_every, 0);
  at_least("train.eval_sequences", train.eval_sequences, 1);
  at_least("train.checkpoint_every", train.checkpoint_every, 0);
  at_least("train.keep_last", train.keep_last, 1);
  at_least("train.keep_every", train.keep_every, 0);
  MOE_REQUIRE(train.eval_every == 0 || !data.held_out.empty(),
              "train.eval_every is set but data.held_out names no domain");

  require_families(train.freeze, "train.freeze");
  MOE_REQUIRE(router.bias_update_rate == 0 ||
                  std::ranges::find(train.freeze, "router") == train.freeze.end(),
              "train.freeze holds the router, which router.bias_update_rate would change: set the "
              "rate to 0, or do not freeze the router");

  MOE_REQUIRE(
      router.refresh_every == 0 || std::ranges::find(train.freeze, "router") == train.freeze.end(),
      "train.freeze holds the router, which router.refresh_every would change: set it to 0, "
      "or do not freeze the router");
  MOE_REQUIRE(attention_router.refresh_every == 0,
              "attention_router.refresh_every: only gates of "
              "the feed-forward's experts can be fitted anew (router.refresh_every)");

  at_least("guard.max_skipped", guard.max_skipped, 1);
  at_least("guard.max_rollbacks", guard.max_rollbacks, 0);
  MOE_REQUIRE(guard.spike_factor == 0 || guard.spike_factor > 1,
              "guard.spike_factor must exceed 1 (or be 0: no guard), is ", guard.spike_factor);
  at_least("guard.spike_window", guard.spike_window, 1);

  positive("optimizer.learning_rate", optimizer.learning_rate);
  fraction("optimizer.beta1", optimizer.beta1);
  fraction("optimizer.beta2", optimizer.beta2);
  positive("optimizer.eps", optimizer.eps);
  at_least("optimizer.weight_decay", optimizer.weight_decay, 0);
  at_least("optimizer.clip_norm", optimizer.clip_norm, 0);
  for (std::size_t f = 0; f < optimizer.rates.size(); ++f)
    MOE_REQUIRE(optimizer.rates[f] > 0 && std::isfinite(optimizer.rates[f]), "optimizer.rates.",
                kParameterFamilyNames[f], " must be finite and positive, is ", optimizer.rates[f],
                ": what shall stay as it is, train.freeze names");

  at_least("schedule.warmup_steps", schedule.warmup_steps, 0);
  MOE_REQUIRE(schedule.floor >= 0 && schedule.floor <= 1, "schedule.floor must lie in [0, 1], is ",
              schedule.floor);
  if (schedule.kind == Schedule::Kind::wsd) {
    at_least("schedule.decay_steps (with kind wsd)", schedule.decay_steps, 1);
    MOE_REQUIRE(schedule.decay_steps <= train.steps, "schedule.decay_steps (", schedule.decay_steps,
                ") exceeds train.steps (", train.steps, ")");
  } else {
    MOE_REQUIRE(schedule.decay_steps == 0, "schedule.decay_steps has no meaning without kind wsd");
  }

  validate_router(router, "router.");
  validate_router(attention_router, "attention_router.");
  validate_distill(distill);
  if (model.init_from.empty()) (void)model_from(*this);
}

}  // namespace moe
