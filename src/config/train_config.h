// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/data_options.h"
#include "config/exchange_options.h"
#include "config/model_config.h"
#include "config/parameter_families.h"
#include "config/recompute.h"
#include "config/router_options.h"
#include "config/transport.h"
#include "config/yaml_reader.h"
#include "core/device.h"
#include "core/dtype.h"

namespace moe {

/// Everything that moe-train is told, as configs/README.md explains key by key.
struct TrainConfig {
  struct Run {
    std::string folder;
    std::int64_t seed = 42;
    DeviceChoice device = DeviceChoice::automatic;
    std::int64_t threads = 0;
    std::int64_t log_every = 1;
    std::int64_t expert_load_every = 10;
    bool tensorboard = true;
    bool overwrite = false;
  } run;

  /// Of the experts of the feed-forward or of the attention.
  struct RouterSettings {
    std::optional<std::int64_t> experts, top_k;
    std::optional<GateKind> gate;
    std::optional<bool> gate_noise;
    std::optional<double> score_scale;
    std::optional<bool> softmax_over_all;
  };

  /// Unset fields follow the model of init_from, or, from scratch, ModelConfig's defaults.
  struct Model : RouterSettings {
    std::string init_from;
    DType dtype = DType::f32;
    std::optional<std::int64_t> vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads,
        max_positions;
    std::optional<double> rms_norm_eps, rope_theta;
    std::optional<bool> tie_embeddings;
    std::string tokenizer;
    struct Attention : RouterSettings {
      std::optional<AttentionExpert> kind;
    } attention;
  } model;

  struct TrainDomain {
    std::string domain;
    std::vector<std::string> files;
    double weight = 1;
    std::int64_t max_epochs = 0;
    std::optional<double> reference_loss;
  };
  struct HeldOutDomain {
    std::string domain;
    std::vector<std::string> files;
  };
  struct Data {
    std::vector<TrainDomain> train;
    std::vector<HeldOutDomain> held_out;
    std::int64_t sequence_length = 512;
    PackingOptions packing;
    MixtureOptions mixture;
  } data;

  struct Batch {
    std::int64_t global = 16;
    std::int64_t micro = 4;
  } batch;

  struct Parallel {
    std::int64_t expert = 1;
    ExchangeOptions exchange;
    Transport transport = Transport::automatic;
    double bucket_mb = 2;
    bool zero = true;
    DType gradient_dtype = DType::f32;
    double watchdog_seconds = 600;
    Recompute recompute = Recompute::none;
  } parallel;

  struct Train {
    std::int64_t steps = 0;
    std::int64_t eval_every = 0;
    std::int64_t eval_sequences = 64;
    std::int64_t checkpoint_every = 0;
    std::int64_t keep_last = 2;
    std::int64_t keep_every = 0;
    bool async_checkpoints = true;
    std::vector<std::string> freeze;
  } train;

  struct Guard {
    std::int64_t max_skipped = 5;
    std::int64_t max_rollbacks = 3;
    double spike_factor = 0;
    std::int64_t spike_window = 64;
  } guard;

  struct Optimizer {
    double learning_rate = 2e-4;
    double beta1 = 0.9, beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    double clip_norm = 1;
    FamilyFactors rates;  // on the learning rate
  } optimizer;

  struct Schedule {
    enum class Kind : std::uint8_t { cosine, constant, wsd } kind = Kind::cosine;
    std::int64_t warmup_steps = 100;
    double floor = 0.1;
    std::int64_t decay_steps = 0;
  } schedule;

  RouterOptions router, attention_router;

  /// Learning from another model, the dense parent as a rule (docs/numerics.md).
  struct Distill {
    std::string teacher;  // model folder or training checkpoint; empty: nobody teaches
    double weight = 1, lm_weight = 1;
    double temperature = 1;
  } distill;

  /// A part of a run that begins with the weights of the one before. What its section does not
  /// name is as the run has it.
  struct Stage {
    std::string name;
    std::string export_format;  // of the model folder that its end becomes; empty: none
    bool keep_optimizer = false;
    Data data;
    Batch batch;
    Train train;
    Optimizer optimizer;
    Schedule schedule;
    RouterOptions router, attention_router;
    Distill distill;
  };
  std::vector<Stage> stages;  // empty: the run is one

  /// Stage i as a run of its own, in a folder of its own within run.folder. Where it begins is for
  /// the caller to say: model.init_from is the whole run's.
  TrainConfig of_stage(std::size_t i) const;

  /// Throws InputError naming the first key that cannot be. Whether batch.global and the experts
  /// divide among the ranks is for the trainer, which knows them.
  void validate() const;
};

/// The keys of `config`, bound to its members.
ConfigSection keys_of(TrainConfig& config);

/// Reads, overrides and validates. `name` stands for the text in messages. Throws InputError.
TrainConfig parse_train_config(const std::string& text, const std::string& name,
                               std::span<const std::string> overrides = {});
TrainConfig load_train_config(const std::filesystem::path& file,
                              std::span<const std::string> overrides = {});

/// The effective configuration: reading it gives `config` again.
std::string to_yaml(const TrainConfig& config);
void save_config(const TrainConfig& config, const std::filesystem::path& file);

/// The architecture for random weights: needs vocab_size, hidden_size, intermediate_size, layers
/// and heads, throws InputError naming the missing one. Experts share the neurons evenly, the first
/// ones hold one more.
ModelConfig model_from(const TrainConfig& config);

/// Applies what config.model says to the architecture that init_from holds: top_k, score_scale,
/// gate_noise and softmax_over_all override it, of the attention too; the rest must agree with it.
/// Throws InputError naming the key that does not.
void apply_model_settings(const TrainConfig& config, ModelConfig& loaded);

/// The model as a step of training has it: with the experts per token of router.top_k_from's
/// schedule. For counting; weights and scales are the model's.
ModelConfig model_in_step(const TrainConfig& config, ModelConfig model, std::int64_t step);

}  // namespace moe
