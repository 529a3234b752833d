// SPDX-License-Identifier: Apache-2.0
#include "config/train_config.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "config/parameter_families.h"
#include "core/error.h"

namespace moe {
namespace {

ConfigSection keys_of_run(TrainConfig::Run& c) {
  return {{
      {"folder", &c.folder, "folder of the run: metrics, effective config, checkpoints", true},
      {"seed", &c.seed, "seed of everything random"},
      {"device",
       config_choice(c.device, {{"auto", DeviceChoice::automatic},
                                {"cpu", DeviceChoice::cpu},
                                {"cuda", DeviceChoice::cuda}}),
       "what computes; auto: a CUDA device where the build knows CUDA and the machine has one"},
      {"threads", &c.threads, "threads per rank; 0: cores / ranks on this host"},
      {"log_every", &c.log_every, "steps between two lines on the terminal"},
      {"expert_load_every", &c.expert_load_every,
       "steps between two records of every expert's load in the metrics; 0: none"},
      {"tensorboard", &c.tensorboard, "write event files for TensorBoard beside the metrics"},
      {"overwrite", &c.overwrite, "start anew in a folder that already holds a run"},
  }};
}

/// A choice among the values of an enumeration 0, 1, ..., which may be unset: it is then left out.
template <class Enum>
ConfigChoice optional_choice(std::optional<Enum>& value, std::vector<std::string> names) {
  return {std::move(names),
          [&value]() -> std::optional<std::size_t> {
            if (!value) return std::nullopt;
            return std::size_t(*value);
          },
          [&value](std::size_t i) { value = Enum(i); }};
}

ConfigSection keys_of_attention(TrainConfig::Model::Attention& c) {
  return {{
      {"kind", optional_choice(c.kind, {"queries", "heads"}),
       "what an expert of the attention is; from scratch unset: queries"},
      {"experts", &c.experts, "experts of each attention; from scratch unset or 0: dense"},
      {"top_k", &c.top_k, "of them per token; overrides init_from's; from scratch unset: 2"},
      {"gate", optional_choice(c.gate, {"linear", "mlp"}), "from scratch unset: linear"},
      {"gate_noise", &c.gate_noise, "as model.gate_noise; from scratch unset: false"},
      {"score_scale", &c.score_scale, "as model.score_scale"},
      {"softmax_over_all", &c.softmax_over_all, "as model.softmax_over_all"},
  }};
}

ConfigSection keys_of_model(TrainConfig::Model& c) {
  return {{
      {"init_from", &c.init_from,
       "Hugging Face folder or training checkpoint to take the weights from; empty: random weights "
       "of the shape below"},
      {"dtype",
       config_choice(c.dtype, {{"f32", DType::f32}, {"bf16", DType::bf16}, {"f64", DType::f64}}),
       "number type of weights and activations; masters and sums stay f32 (f64)"},
      {"vocab_size", &c.vocab_size,
       "vocabulary; like all sizes: needed from scratch, else checked"},
      {"hidden_size", &c.hidden_size, "width of the residual stream"},
      {"intermediate_size", &c.intermediate_size, "FFN neurons of the dense model, all experts"},
      {"layers", &c.layers, "transformer blocks"},
      {"heads", &c.heads, "attention heads; each hidden_size / heads wide"},
      {"kv_heads", &c.kv_heads, "key and value heads; from scratch unset: as many as heads"},
      {"max_positions", &c.max_positions, "longest context; from scratch unset: 2048"},
      {"rms_norm_eps", &c.rms_norm_eps, "epsilon of the norms; from scratch unset: 1e-5"},
      {"rope_theta", &c.rope_theta, "base of the rotary positions; from scratch unset: 10000"},
      {"tie_embeddings", &c.tie_embeddings,
       "the output head shares the embedding; from scratch unset: false"},
      {"tokenizer", &c.tokenizer, "tokenizer folder or file that exports are given"},
      {"experts", &c.experts, "experts per layer; from scratch unset or 0: a dense FFN"},
      {"top_k", &c.top_k, "experts per token; overrides init_from's; from scratch unset: 2"},
      {"gate", optional_choice(c.gate, {"linear", "mlp"}),
       "router network; from scratch unset: mlp"},
      {"gate_noise", &c.gate_noise,
       "noisy top-k gating in training; overrides init_from's; from scratch unset: true"},
      {"score_scale", &c.score_scale,
       "factor on every expert's output, 0: experts / top_k; overrides init_from's; from scratch "
       "unset: 0"},
      {"softmax_over_all", &c.softmax_over_all,
       "weights by softmax over all experts, not the chosen ones; overrides init_from's; unset "
       "with top_k 1: true"},
      {"attention", keys_of_attention(c.attention), ""},
  }};
}

ConfigSection keys_of_train_domain(TrainConfig::TrainDomain& c) {
  return {{
      {"domain", &c.domain, "name of the domain", true},
      {"files", &c.files, "its token shards, in order; patterns with * too", true},
      {"weight", &c.weight, "share of the sequences, relative to the other weights"},
      {"max_epochs", &c.max_epochs,
       "times that the domain may be read, others then take its share; 0: any number"},
      {"reference_loss", &c.reference_loss,
       "held-out loss that a dynamic mixture wants, nats a token"},
  }};
}

ConfigSection keys_of_held_out_domain(TrainConfig::HeldOutDomain& c) {
  return {{
      {"domain", &c.domain, "name of the domain", true},
      {"files", &c.files, "its token shards, in order; patterns with * too", true},
  }};
}

ConfigSection keys_of_mixture(MixtureOptions& c) {
  return {{
      {"dynamic", &c.dynamic,
       "at each evaluation domains above their reference_loss gain weight, those below lose some"},
      {"rate", &c.rate, "factor on that difference of losses, in the exponent of the weight"},
      {"clip", &c.clip, "count a domain below its reference_loss as one that is at it"},
      {"smoothing", &c.smoothing, "part of the weight that all domains then share evenly"},
  }};
}

ConfigSection keys_of_data(TrainConfig::Data& c, bool needed) {
  return {{
      {"train", config_list(c.train, keys_of_train_domain), "domains to train on", needed},
      {"held_out", config_list(c.held_out, keys_of_held_out_domain), "domains to evaluate on"},
      {"sequence_length", &c.sequence_length, "tokens per sequence"},
      {"packing",
       config_choice(c.packing.packing,
                     {{"concatenate", Packing::concatenate}, {"best_fit", Packing::best_fit}}),
       "documents one after the other and cut at every multiple of the length, or whole where they "
       "fit and the rest padding"},
      {"document_masks", &c.packing.document_masks,
       "neither attention nor labels cross from one document to the next; positions count from "
       "each one's beginning"},
      {"mixture", keys_of_mixture(c.mixture), ""},
  }};
}

ConfigSection keys_of_batch(TrainConfig::Batch& c) {
  return {{
      {"global", &c.global, "sequences per step, all ranks together"},
      {"micro", &c.micro, "sequences that a rank computes at once"},
  }};
}

ConfigSection keys_of_parallel(TrainConfig::Parallel& c) {
  return {{
      {"expert", &c.expert, "ranks that share the experts (EP); the others are data parallel"},
      {"exchange_chunks", &c.exchange.chunks,
       "parts in which tokens travel to a rank's experts, while those of other parts compute; 1: "
       "nothing overlaps; results are the same to the bit"},
      {"all_to_all",
       config_choice(c.exchange.all_to_all, {{"auto", AllToAll::automatic},
                                             {"flat", AllToAll::flat},
                                             {"hierarchical", AllToAll::hierarchical}}),
       "road of tokens within an expert group: from rank to rank, or between hosts and then within "
       "them; auto: the latter with several ranks on each of several hosts"},
      {"ranks_per_host", &c.exchange.ranks_per_host,
       "ranks that all_to_all takes for those of one host, in order; 0: as MPI finds"},
      {"transport",
       config_choice(
           c.transport,
           {{"auto", Transport::automatic}, {"nccl", Transport::nccl}, {"host", Transport::host}}),
       "road of tensors on CUDA devices: NCCL, or MPI by way of host memory; auto: NCCL where each "
       "rank has a device of its own"},
      {"bucket_mb", &c.bucket_mb,
       "gradients that leave together, MB for each rank that shares them"},
      {"zero", &c.zero,
       "each rank keeps and updates its share of the optimizer state alone (ZeRO stage 1)"},
      {"gradient_dtype",
       config_choice(c.gradient_dtype, {{"f32", DType::f32}, {"bf16", DType::bf16}}),
       "number type in which gradients travel; sums stay f32 (f64 models send f64)"},
      {"watchdog_seconds", &c.watchdog_seconds,
       "a collective that takes longer ends the job; 0: no watchdog"},
      {"recompute",
       config_choice(
           c.recompute,
           {{"none", Recompute::none}, {"cheap", Recompute::cheap}, {"block", Recompute::block}}),
       "activations to compute again in the backward pass instead of keeping them; cheap: norms "
       "and "
       "copies of rows"},
  }};
}

ConfigSection keys_of_train(TrainConfig::Train& c, bool needed) {
  return {{
      {"steps", &c.steps, "optimizer steps of the whole run", needed},
      {"eval_every", &c.eval_every, "steps between evaluations; 0: none"},
      {"eval_sequences", &c.eval_sequences, "held-out sequences per domain and evaluation"},
      {"checkpoint_every", &c.checkpoint_every, "steps between checkpoints; 0: at the end only"},
      {"keep_last", &c.keep_last, "newest checkpoints that stay"},
      {"keep_every", &c.keep_every,
       "checkpoints whose step is a multiple of it stay for ever; 0: none"},
      {"async_checkpoints", &c.async_checkpoints,
       "write checkpoints from a copy in memory while training goes on; false: stand still and "
       "need "
       "no copy"},
      {"freeze", &c.freeze,
       "families of parameters that stay as they are, to the bit: embeddings, norms, attention, "
       "router, experts, shared, ffn"},
  }};
}

ConfigSection keys_of_guard(TrainConfig::Guard& c) {
  return {{
      {"max_skipped", &c.max_skipped, "skipped steps in a row after which the run rolls back"},
      {"max_rollbacks", &c.max_rollbacks,
       "times that the run goes back to a checkpoint; the next time it stops"},
      {"spike_factor", &c.spike_factor,
       "a loss above this times the median of the last accepted ones is skipped; 0: none"},
      {"spike_window", &c.spike_window, "accepted losses that the median is taken of"},
  }};
}

ConfigSection keys_of_optimizer(TrainConfig::Optimizer& c) {
  return {{
      {"learning_rate", &c.learning_rate, "highest learning rate of AdamW"},
      {"beta1", &c.beta1, "decay of the first moment"},
      {"beta2", &c.beta2, "decay of the second moment"},
      {"eps", &c.eps, "added to the root of the second moment"},
      {"weight_decay", &c.weight_decay, "decoupled, on all but the norms"},
      {"clip_norm", &c.clip_norm, "largest global gradient norm; 0: no clipping"},
  }};
}

ConfigSection keys_of_schedule(TrainConfig::Schedule& c) {
  using Kind = TrainConfig::Schedule::Kind;
  return {{
      {"kind",
       config_choice(c.kind,
                     {{"cosine", Kind::cosine}, {"constant", Kind::constant}, {"wsd", Kind::wsd}}),
       "learning rate after the warm-up; wsd: constant, then linear decay"},
      {"warmup_steps", &c.warmup_steps, "steps of linear warm-up"},
      {"floor", &c.floor, "least learning rate, as a fraction of optimizer.learning_rate"},
      {"decay_steps", &c.decay_steps, "last steps of the run in which wsd decays"},
  }};
}

ConfigSection keys_of_router(RouterOptions& c) {
  using Scope = BalanceScope;
  return {{
      {"cv_squared", &c.cv_squared, "weight of the squared variation of importance and load (v1)"},
      {"switch", &c.switch_top_k, "weight of the Switch loss: experts times the sum of f P"},
      {"z", &c.z, "weight of the router z-loss"},
      {"scope",
       config_choice(c.scope, {{"sequence", Scope::sequence},
                               {"step", Scope::step},
                               {"global_batch", Scope::global_batch},
                               {"rank", Scope::rank}}),
       "tokens that the balance losses look at together; rank is v1's way"},
      {"v1_load_formula", &c.v1_load_formula, "v1's load, which compares the noise alone"},
      {"noise_anneal_steps", &c.noise_anneal_steps,
       "steps in which gate noise falls in a straight line to none; 0: it stays"},
      {"capacity_factor", &c.capacity_factor,
       "pairs that an expert takes from a sequence, over the mean, the lightest dropped; 0: all"},
      {"bias_update_rate", &c.bias_update_rate,
       "change of an expert's selection bias after each step (loss-free balancing); 0: none"},
  }};
}

template <class T>
T needed(const std::optional<T>& value, const char* key) {
  MOE_REQUIRE(value.has_value(), "model.", key, " is needed when model.init_from is empty");
  return *value;
}

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
}

/// How messages name the settings of one kind of routers.
struct RouterKeys {
  const char *section, *router, *where;
};
constexpr RouterKeys kFfnKeys = {"model.", "router.", ""};
constexpr RouterKeys kAttentionKeys = {"model.attention.", "attention_router.",
                                       " in its attention"};

void apply_router_settings(const TrainConfig::RouterSettings& m, double bias_update_rate,
                           std::int64_t layers, const RouterKeys& keys, RouterConfig& loaded) {
  MOE_REQUIRE(!m.experts || *m.experts == loaded.experts, keys.section, "experts is ", *m.experts,
              " but the loaded model has ", loaded.experts);
  if (loaded.experts == 0) {
    MOE_REQUIRE(!m.top_k && !m.gate && !m.gate_noise && (!m.score_scale || *m.score_scale == 0) &&
                    !m.softmax_over_all,
                keys.section,
                "top_k, gate, gate_noise, score_scale and softmax_over_all need a model with "
                "experts",
                keys.where);
    MOE_REQUIRE(bias_update_rate == 0, keys.router, "bias_update_rate needs a model with experts",
                keys.where);
    return;
  }
  MOE_REQUIRE(!m.gate || *m.gate == loaded.gate, keys.section,
              "gate differs from the loaded model's gate");
  if (bias_update_rate > 0) loaded.selection_bias = true;
  loaded.top_k = m.top_k.value_or(loaded.top_k);
  MOE_REQUIRE(loaded.top_k >= 1 && loaded.top_k <= loaded.experts, keys.section,
              "top_k must lie between 1 and the number of experts (", loaded.experts, "), is ",
              loaded.top_k);
  loaded.gate_noise = m.gate_noise.value_or(loaded.gate_noise);
  // With k = 1 a softmax over the chosen expert is the constant 1: the router would learn nothing.
  loaded.softmax_over_all =
      m.softmax_over_all.value_or(loaded.softmax_over_all || loaded.top_k == 1);
  MOE_REQUIRE(!m.score_scale || *m.score_scale >= 0, keys.section,
              "score_scale must not be negative, is ", *m.score_scale);
  if (!m.score_scale) return;
  const double scale =
      *m.score_scale == 0 ? double(loaded.experts) / double(loaded.top_k) : *m.score_scale;
  loaded.score_scale.assign(std::size_t(layers), scale);
}

TrainConfig::Stage stage_like(const TrainConfig& c) {
  TrainConfig::Stage stage;
  stage.data = c.data;
  stage.batch = c.batch;
  stage.train = c.train;
  stage.optimizer = c.optimizer;
  stage.schedule = c.schedule;
  stage.router = c.router;
  stage.attention_router = c.attention_router;
  return stage;
}

ConfigSection keys_of_stage(TrainConfig::Stage& c) {
  const auto section = [](const char* key, ConfigSection keys) {
    return ConfigField{key, std::move(keys), "for this stage", false, true};
  };
  return {{
      {"name", &c.name, "name of the stage and of its folder in run.folder", true},
      {"export", &c.export_format,
       "write the stage's end as a model folder, `model` in its folder: llama, llama-moe, "
       "llama-moe-v2, mixtral or native; empty: do not"},
      {"keep_optimizer", &c.keep_optimizer,
       "go on with the optimizer's state of the stage before; false: begin anew"},
      section("data", keys_of_data(c.data, false)),
      section("batch", keys_of_batch(c.batch)),
      section("train", keys_of_train(c.train, false)),
      section("optimizer", keys_of_optimizer(c.optimizer)),
      section("schedule", keys_of_schedule(c.schedule)),
      section("router", keys_of_router(c.router)),
      section("attention_router", keys_of_router(c.attention_router)),
  }};
}

}  // namespace

ConfigSection keys_of(TrainConfig& c) {
  // Where every stage may name its own, the run needs none.
  const bool needed = c.stages.empty();
  return {{
      {"run", keys_of_run(c.run), ""},
      {"model", keys_of_model(c.model), ""},
      {"data", keys_of_data(c.data, needed), ""},
      {"batch", keys_of_batch(c.batch), ""},
      {"parallel", keys_of_parallel(c.parallel), ""},
      {"train", keys_of_train(c.train, needed), ""},
      {"guard", keys_of_guard(c.guard), ""},
      {"optimizer", keys_of_optimizer(c.optimizer), ""},
      {"schedule", keys_of_schedule(c.schedule), ""},
      {"router", keys_of_router(c.router), ""},
      {"attention_router", keys_of_router(c.attention_router), ""},
      {"stages", config_list(c.stages, keys_of_stage, stage_like(c)),
       "parts of the run, one after the other, each from the weights of the one before"},
  }};
}

namespace {

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

TrainConfig TrainConfig::of_stage(std::size_t i) const {
  const Stage& stage = stages.at(i);
  TrainConfig c = *this;
  c.stages.clear();
  c.run.folder = (std::filesystem::path(run.folder) / stage.name).string();
  c.data = stage.data;
  c.batch = stage.batch;
  c.train = stage.train;
  c.optimizer = stage.optimizer;
  c.schedule = stage.schedule;
  c.router = stage.router;
  c.attention_router = stage.attention_router;
  return c;
}

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
  if (model.init_from.empty()) (void)model_from(*this);
}

TrainConfig parse_train_config(const std::string& text, const std::string& name,
                               std::span<const std::string> overrides) {
  TrainConfig config;
  // Stages begin as the whole run is, --set included, and what must be there depends on whether
  // there are stages: so the text is read once for what the run is, and then again.
  read_yaml(text, name, overrides, keys_of(config), Required::ignored);
  read_yaml(text, name, overrides, keys_of(config));
  try {
    config.validate();
  } catch (const InputError& e) {
    throw InputError(name + ": " + e.what());
  }
  return config;
}

TrainConfig load_train_config(const std::filesystem::path& file,
                              std::span<const std::string> overrides) {
  MOE_REQUIRE(!std::filesystem::is_directory(file), file.string(),
              ": cannot be read (is a directory)");
  std::ifstream in(file, std::ios::binary);
  MOE_REQUIRE(in, file.string(), ": cannot be read (", std::strerror(errno), ")");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return parse_train_config(text, file.string(), overrides);
}

std::string to_yaml(const TrainConfig& config) {
  TrainConfig copy = config;
  return write_yaml(keys_of(copy));
}

void save_config(const TrainConfig& config, const std::filesystem::path& file) {
  std::ofstream out(file, std::ios::binary);
  out << to_yaml(config);
  out.close();
  if (!out) throw Error(str(file.string(), ": cannot be written (", std::strerror(errno), ")"));
}

ModelConfig model_from(const TrainConfig& config) {
  const TrainConfig::Model& m = config.model;
  ModelConfig c;
  c.vocab_size = needed(m.vocab_size, "vocab_size");
  c.hidden_size = needed(m.hidden_size, "hidden_size");
  c.intermediate_size = needed(m.intermediate_size, "intermediate_size");
  c.layers = needed(m.layers, "layers");
  c.heads = needed(m.heads, "heads");
  c.kv_heads = m.kv_heads.value_or(c.heads);
  MOE_REQUIRE(c.heads > 0 && c.hidden_size % c.heads == 0, "model.hidden_size (", c.hidden_size,
              ") must be a multiple of model.heads (", c.heads, ")");
  MOE_REQUIRE(c.layers > 0, "model.layers must be positive, is ", c.layers);
  c.head_dim = c.hidden_size / c.heads;
  c.max_positions = m.max_positions.value_or(c.max_positions);
  c.rms_norm_eps = m.rms_norm_eps.value_or(c.rms_norm_eps);
  c.rope_theta = m.rope_theta.value_or(c.rope_theta);
  c.tie_embeddings = m.tie_embeddings.value_or(c.tie_embeddings);
  MOE_REQUIRE(config.data.sequence_length <= c.max_positions, "data.sequence_length (",
              config.data.sequence_length, ") exceeds model.max_positions (", c.max_positions, ")");

  c.moe.experts = m.experts.value_or(0);
  MOE_REQUIRE(c.moe.experts >= 0, "model.experts must not be negative, is ", c.moe.experts);
  c.moe.gate = m.gate.value_or(c.moe.gate);
  if (c.is_moe()) {
    MOE_REQUIRE(c.moe.experts <= c.intermediate_size, "model.experts (", c.moe.experts,
                ") exceeds model.intermediate_size (", c.intermediate_size, ")");
    std::vector<std::int64_t> sizes(std::size_t(c.moe.experts),
                                    c.intermediate_size / c.moe.experts);
    for (std::int64_t e = 0; e < c.intermediate_size % c.moe.experts; ++e) ++sizes[std::size_t(e)];
    c.moe.expert_sizes.assign(std::size_t(c.layers), sizes);
    c.moe.score_scale.assign(std::size_t(c.layers), 1);
  }
  c.attention_moe.experts = m.attention.experts.value_or(0);
  MOE_REQUIRE(c.attention_moe.experts >= 0, "model.attention.experts must not be negative, is ",
              c.attention_moe.experts);
  if (c.is_attention_moe()) {
    c.attention_moe.kind = m.attention.kind.value_or(c.attention_moe.kind);
    c.attention_moe.gate = m.attention.gate.value_or(c.attention_moe.gate);
    c.attention_moe.layers.assign(std::size_t(c.layers), true);
    c.attention_moe.score_scale.assign(std::size_t(c.layers), 1);
  }
  TrainConfig settings = config;
  if (c.is_moe() && !m.score_scale) settings.model.score_scale = 0;
  if (c.is_attention_moe() && !m.attention.score_scale) settings.model.attention.score_scale = 0;
  apply_model_settings(settings, c);
  return c;
}

void apply_model_settings(const TrainConfig& config, ModelConfig& loaded) {
  const TrainConfig::Model& m = config.model;
  const auto agrees = [&](const char* key, const auto& wanted, auto held) {
    MOE_REQUIRE(!wanted || *wanted == held, "model.", key, " is ", *wanted,
                " but the loaded model has ", held);
  };
  agrees("vocab_size", m.vocab_size, loaded.vocab_size);
  agrees("hidden_size", m.hidden_size, loaded.hidden_size);
  agrees("intermediate_size", m.intermediate_size, loaded.intermediate_size);
  agrees("layers", m.layers, loaded.layers);
  agrees("heads", m.heads, loaded.heads);
  agrees("kv_heads", m.kv_heads, loaded.kv_heads);
  agrees("max_positions", m.max_positions, loaded.max_positions);
  agrees("rms_norm_eps", m.rms_norm_eps, loaded.rms_norm_eps);
  agrees("rope_theta", m.rope_theta, loaded.rope_theta);
  agrees("tie_embeddings", m.tie_embeddings, loaded.tie_embeddings);
  MOE_REQUIRE(!m.attention.kind || !loaded.is_attention_moe() ||
                  *m.attention.kind == loaded.attention_moe.kind,
              "model.attention.kind differs from the loaded model's");
  apply_router_settings(m, config.router.bias_update_rate, loaded.layers, kFfnKeys, loaded.moe);
  apply_router_settings(m.attention, config.attention_router.bias_update_rate, loaded.layers,
                        kAttentionKeys, loaded.attention_moe);
  loaded.validate();
}

}  // namespace moe
