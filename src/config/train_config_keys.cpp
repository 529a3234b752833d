// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "config/train_config.h"
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

ConfigSection keys_of_rates(TrainConfig::Optimizer& c) {
  ConfigSection section;
  for (std::size_t f = 0; f < c.rates.size(); ++f)
    section.fields.push_back(
        {kParameterFamilyNames[f], &c.rates[f], "factor on the learning rate of this family"});
  return section;
}

ConfigSection keys_of_optimizer(TrainConfig::Optimizer& c) {
  return {{
      {"learning_rate", &c.learning_rate, "highest learning rate of AdamW"},
      {"beta1", &c.beta1, "decay of the first moment"},
      {"beta2", &c.beta2, "decay of the second moment"},
      {"eps", &c.eps, "added to the root of the second moment"},
      {"weight_decay", &c.weight_decay, "decoupled, on all but the norms"},
      {"clip_norm", &c.clip_norm, "largest global gradient norm; 0: no clipping"},
      {"rates", keys_of_rates(c), ""},
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
      {"top_k_from", &c.top_k_from,
       "experts per token in the first step of training, 0: all; unset: the model's top_k"},
      {"top_k_steps", &c.top_k_steps,
       "steps in which that goes to the model's top_k, in half a cosine wave"},
      {"refresh_every", &c.refresh_every,
       "steps after which linear gates are fitted anew to the experts' outputs; 0: never"},
      {"refresh_blend", &c.refresh_blend, "share of the fitted gate in the new one"},
  }};
}

ConfigSection keys_of_distill(TrainConfig::Distill& c) {
  return {{
      {"teacher", &c.teacher,
       "Hugging Face folder or training checkpoint of the model to learn from, whole on every "
       "rank; "
       "empty: none"},
      {"weight", &c.weight, "weight of KL(teacher || student) per labelled token"},
      {"lm_weight", &c.lm_weight,
       "weight of the cross-entropy beside it; 0: learn from the teacher alone"},
      {"temperature", &c.temperature,
       "softens both distributions; the divergence counts temperature^2 times"},
  }};
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
  stage.distill = c.distill;
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
      section("distill", keys_of_distill(c.distill)),
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
      {"distill", keys_of_distill(c.distill), ""},
      {"stages", config_list(c.stages, keys_of_stage, stage_like(c)),
       "parts of the run, one after the other, each from the weights of the one before"},
  }};
}

}  // namespace moe
