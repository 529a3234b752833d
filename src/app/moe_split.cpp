// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "app/app.h"
#include "app/mpi_program.h"
#include "app/split_commands.h"
#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"
#include "eval/top_k_loss.h"
#include "report/split_html.h"
#include "report/split_report.h"
#include "split/split_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDescription =
    "Turns a dense LLaMA checkpoint into a mixture of experts: divides the FFN neurons of every "
    "layer, and the heads of its attention if you like, among experts and adds gates. Input and "
    "output are Hugging Face folders.";

constexpr const char* kExamples = R"(Examples:
  Eight experts, two per token, as LLaMA-MoE v1 made its 3.5B (2/8) model:
    moe-split --input llama-2-7b --output llama-moe-2-8 --experts 8 --top-k 2 --seed 42

  Neurons with similar up-projections together, in a layout that ecosystem tools load as it is:
    moe-split --input llama-2-7b --output mixtral-2-8 --experts 8 --top-k 2 \
              --method clustering --cluster-on up --gate linear --format mixtral

  One shared and seven routed experts by gradient importance, as LLaMA-MoE v2 makes them, with the
  loss right after the split for every k:
    moe-split --input llama-3-8b --output v2 --experts 7 --shared 1 --top-k 1 --method residual \
              --importance-from inputs --gate centers --scale least-squares --format native \
              --calibration shards/text.h5 --held-out shards/held-out.h5

  Experts in the attention besides, as LLaMA-MoE v2 has them: eight key/value heads with their
  queries, of which two are chosen; or routed queries alone, which keep every token's context:
    moe-split --input llama-3-8b --output v2 --gate linear --format llama-moe-v2 \
              --attention heads --attention-experts 8 --attention-top-k 2
    moe-split --input llama-3-8b --output queries --experts 0 --format native \
              --attention queries --attention-top-k 2 --attention-gate centers \
              --calibration shards/text.h5

  What loses least right after the split: neurons and gate found together, down projections refitted,
  the quarter of the neurons that matters everywhere shared (half of the FFN is active):
    moe-split --input llama-2-7b --output kept --experts 12 --shared 4 --top-k 4 --method joint \
              --gate logistic --weights unit --refit down+bias --format native \
              --calibration shards/text.h5 --held-out shards/held-out.h5

  The dense model exactly, to check an installation, and the proof:
    moe-split --input llama-2-7b --output same --experts 8 --top-k 8 --gate zeros --scale 8
    moe-split verify llama-2-7b same --data shards/held-out.h5

  All ways to split with as many active neurons, by the loss that each adds:
    moe-split arms --input llama-2-7b --experts 12 --shared 4 --top-k 4 \
              --calibration shards/text.h5 --test shards/held-out.h5 --output arms.json

  Several splits side by side, as they were measured when they were made, or on text of today:
    moe-split compare random clustering v2
    moe-split compare llama-2-7b random clustering v2 --data shards/held-out.h5 --top-k 1,2,4
)";

struct SplitArguments {
  SplitOptions split;
  std::string gate, gate_metric = "cosine", scale = "natural", format = "llama-moe", dtype;
  std::string attention, attention_gate = "random", attention_scale = "natural";
  std::string weights = "softmax", refit = "none";
  std::vector<std::string> calibration, validation, held_out;
  std::int64_t threads = 0;
  bool json = false;
};

/// Anonymous memory of this process now, in bytes; 0 where the system does not say.
std::int64_t anonymous_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  return 0;
}

/// The dense model's loss and that of the planned one for every number of chosen experts.
SplitLosses measure_losses(const SplitArguments& a, const ModelFolder& dense, const SplitPlan& plan,
                           Communicator& world) {
  constexpr std::int64_t kMicroBatch = 4;
  const DType dtype = a.split.dtype.value_or(dense.stored_dtype());
  const HeldOut text =
      held_out_documents({a.held_out.begin(), a.held_out.end()}, dense.config(),
                         std::min(a.split.calibration.length, dense.config().max_positions));
  SplitLosses losses;
  const ParameterRows dense_rows = [&](const std::string& name, std::int64_t first,
                                       std::int64_t count) {
    return dense.read(name, first, count, DType::f32);
  };
  losses.dense =
      losses_of({dense.config()}, dense_rows, DType::f32, text, kMicroBatch, world).front();
  std::map<std::int64_t, ModelConfig> planned;
  if (plan.layers.empty())
    planned[0] = plan.config;
  else
    for (const auto& [k, scale] : plan.layers.begin()->second.scale)
      planned[k] = plan.config_with(k);
  std::vector<ModelConfig> configs;
  for (const auto& [k, config] : planned) configs.push_back(config);
  const auto found =
      losses_of(configs, split_rows(dense, plan, dtype), DType::f32, text, kMicroBatch, world);
  auto loss = found.begin();
  for (const auto& [k, config] : planned) losses.by_top_k[k] = *loss++;
  return losses;
}

/// The loss of a plan that the format of the output has no place for.
HeldOutLoss loss_in_native(const SplitArguments& a, const ModelFolder& dense, SplitOptions options,
                           Communicator& world) {
  options.every_top_k = false;
  options.dry_run = true;
  SplitArguments native = a;
  native.split = options;
  return measure_losses(native, dense, plan_split(dense, options, world), world)
      .by_top_k.begin()
      ->second;
}

int run_split(SplitArguments& a, Communicator& world) {
  if (!a.gate.empty()) a.split.gate = gate_init_named(a.gate);
  if (!a.dtype.empty()) a.split.dtype = stored_type_named(a.dtype);
  a.split.gate_metric = token_metric_named(a.gate_metric);
  a.split.scale = split_scale_named(a.scale);
  a.split.weights = split_weights_named(a.weights);
  a.split.refit = split_refit_named(a.refit);
  a.split.validation.assign(a.validation.begin(), a.validation.end());
  if (!a.attention.empty()) a.split.attention.kind = attention_expert_named(a.attention);
  a.split.attention.gate = attention_gate_named(a.attention_gate);
  a.split.attention.scale = split_scale_named(a.attention_scale);
  a.split.format = model_format_named(a.format);
  a.split.calibration.shards.assign(a.calibration.begin(), a.calibration.end());
  a.split.every_top_k = !a.held_out.empty();
  a.split.unseen.assign(a.held_out.begin(), a.held_out.end());

  const ModelFolder dense(a.split.input);
  const std::optional<SplitOptions> asked_for = fit_to_format(a.split);
  if (asked_for && world.rank() == 0)
    log_info(
        "{} has no place for unit weights and biases of experts: written with {} weights, "
        "refit {}",
        name(a.split.format), name(a.split.weights), name(a.split.refit));
  SplitPlan plan = plan_split(dense, a.split, world);
  std::optional<SplitLosses> losses;
  if (!a.held_out.empty()) losses = measure_losses(a, dense, plan, world);
  if (losses && asked_for) losses->in_native = loss_in_native(a, dense, *asked_for, world);
  if (world.rank() != 0) return kExitOk;

  const std::string json = split_report_json(a.split, plan, losses);
  if (a.split.dry_run) {
    fmt::print("{}", a.json ? json : split_report_text(a.split, plan, losses));
    return kExitOk;
  }
  std::int64_t memory = 0;
  std::optional<Progress> progress;
  const SplitReport report = write_split(
      dense, a.split, std::move(plan),
      [&](const fs::path& folder) {
        write_synced(folder / kSplitReport, json);
        write_synced(folder / kSplitPictures, split_report_html(json));
      },
      [&](std::int64_t done, std::int64_t total) {
        if (!progress) progress.emplace("splitting", total, "weights");
        progress->update(done, done);
        memory = std::max(memory, anonymous_memory());
      });
  progress.reset();
  for (const std::string& warning : report.warnings) log_warning("{}", warning);
  for (const std::string& note : report.notes) log_info("{}", note);
  if (a.json) {
    auto j = nlohmann::ordered_json::parse(json);
    j["dtype"] = name(report.dtype);
    j["bytes"] = report.bytes;
    j["write_seconds"] = report.write_seconds;
    j["anonymous_memory_bytes"] = memory;
    j["warnings"] = report.warnings;
    fmt::print("{}\n", j.dump(2));
    return kExitOk;
  }
  fmt::print("{:<22}{} ({}, {})\n{}", "model", a.split.output.string(), name(report.format),
             name(report.dtype), split_report_text(a.split, report.plan, losses));
  fmt::print(
      "\nwritten: {:.1f} MB in {:.2f} s, {:.0f} MB/s, {:.0f} MB of anonymous memory at most\n",
      double(report.bytes) / 1e6, report.write_seconds,
      double(report.bytes) / 1e6 / report.write_seconds, double(memory) / 1e6);
  return kExitOk;
}

void define_split(CLI::App& app, SplitArguments& a) {
  SplitOptions& o = a.split;
  app.add_option("--input", o.input, "dense model: a Hugging Face folder of a LLaMA");
  app.add_option("--output", o.output, "folder to make");
  app.add_option("--experts", o.experts,
                 "routed experts per layer; 0, with --attention: the feed-forward stays dense")
      ->capture_default_str();
  app.add_option("--top-k", o.top_k, "experts chosen per token")->capture_default_str();
  app.add_option("--shared", o.shared,
                 "shared experts per layer, which every token visits besides (residual, "
                 "sharing-inter)")
      ->capture_default_str();
  app.add_option("--expert-size", o.expert_size,
                 "neurons of each expert (default: all neurons divided evenly)");
  app.add_flag("--uneven", o.uneven, "with --expert-size: the last expert takes what is left");
  app.add_option("--dense-layers", o.dense_layers, "layers left dense, as 0,31")->delimiter(',');
  app.add_option("--method", o.method,
                 "how neurons are divided: " + join(construction_names(), ", "))
      ->capture_default_str();

  CLI::Option_group& method = *app.add_option_group("Options of methods");
  ConstructionOptions& c = o.construction;
  method
      .add_option("--cluster-on", c.cluster_on,
                  "clustering: the projection whose rows are compared, up or gate")
      ->capture_default_str();
  method.add_option("--cluster-metric", c.cluster_metric, "clustering: l2 or cosine")
      ->capture_default_str();
  method
      .add_option("--cluster-starts", c.cluster_starts,
                  "clustering: runs from different seeds, of which the best is taken")
      ->capture_default_str();
  method
      .add_option("--importance-from", c.importance_from,
                  "gradient, sharing-*, residual: importance to clusters of documents (LLaMA-MoE "
                  "v1) or of the layer's inputs (v2)")
      ->capture_default_str();
  method.add_flag("--normalise-importance", c.normalise_importance,
                  "the same: divide scores by their cluster's mean first");
  method
      .add_option("--shared-by", c.shared_by,
                  "sharing-inter, residual: among neurons with as many votes, the larger score or "
                  "the lower index is shared")
      ->capture_default_str();
  method
      .add_option("--copy-granularity", c.copy_granularity,
                  "copy: slices that the FFN is cut into before it is copied")
      ->capture_default_str();

  CLI::Option_group& gates = *app.add_option_group("Gate and scale");
  gates.add_option("--gate", a.gate,
                   "mlp, linear, zeros; from calibration text: centers, select, select-linear, "
                   "logistic (default: mlp for llama-moe, else linear)");
  gates.add_option("--gate-noise", o.gate_noise,
                   "on or off: noisy gates in training (default: on for llama-moe and a random "
                   "gate)");
  gates
      .add_option("--gate-metric", a.gate_metric,
                  "centers: cosine, or l2, whose gate has a bias (format native)")
      ->capture_default_str();
  gates
      .add_option("--gate-temperature", o.gate_temperature,
                  "centers by cosine: divides the logits; below 1, weights are sharper")
      ->capture_default_str();
  gates.add_flag("--gate-balanced", o.gate_balanced,
                 "centers with l2: every cluster gets as many calibration tokens");
  gates
      .add_option("--weights", a.weights,
                  "of the chosen experts: softmax (times the scale), unit (experts are added up; "
                  "format native) or flat (the same for formats that know the softmax alone)")
      ->capture_default_str();
  gates
      .add_option(
          "--refit", a.refit,
          "what is fitted anew to calibration text in closed form: none, down (projections) "
          "or down+bias (and a bias of each expert; format native)")
      ->capture_default_str();
  gates
      .add_option(
          "--refit-ridge", o.refit_ridges,
          "how much the refit is held to the dense weights, in mean squares of activations; "
          "of several the one with the least error on validation text")
      ->delimiter(',')
      ->capture_default_str();
  gates.add_flag("--refit-to-dense-stream", o.refit_to_dense_stream,
                 "refit towards the dense model's residual stream, which also mends the layers "
                 "before, not towards the dense FFN's output for the same input");
  gates
      .add_option("--scale", a.scale,
                  "factor on the experts' output: a number, natural (experts / top-k), variance "
                  "(sqrt(experts * top-k)) or least-squares (per layer, on calibration text)")
      ->capture_default_str();
  gates.add_flag("--align", o.align,
                 "scale each output channel to the dense one's variance, in the down projections");
  gates.add_option("--softmax-over-all", o.softmax_over_all,
                   "weights by the softmax over all experts (default: native with top-k 1)");

  CLI::Option_group& attention = *app.add_option_group("Experts in the attention");
  AttentionSplitOptions& h = o.attention;
  attention.add_option("--attention", a.attention,
                       "what an expert is: queries (some query heads of every key/value head; keys "
                       "and values stay dense) or heads (key/value heads with their queries; sees "
                       "only tokens that chose the same expert, as LLaMA-MoE v2 has it)");
  attention.add_option("--attention-experts", h.experts,
                       "default: queries: query heads of a key/value head; heads: key/value "
                       "heads (a multiple of them copies keys and values)");
  attention.add_option("--attention-top-k", h.top_k,
                       "experts chosen per token (default: half of them)");
  attention
      .add_option("--attention-scale", a.attention_scale,
                  "factor on the experts' sum: a number, natural (experts / top-k) or variance")
      ->capture_default_str();
  attention
      .add_option("--attention-gate", a.attention_gate,
                  "random, zeros, or from calibration text centers (of clusters of what the "
                  "attention is given)")
      ->capture_default_str();
  attention
      .add_option("--attention-dense-layers", h.dense_layers,
                  "layers whose attention is left dense, as 0,31")
      ->delimiter(',');
  attention.add_option("--attention-softmax-over-all", h.softmax_over_all,
                       "weights by the softmax over all experts (default: native with "
                       "--attention-top-k 1)");

  CLI::Option_group& text = *app.add_option_group("Text");
  text.add_option("--calibration", a.calibration, "token shards that methods and gates learn from");
  text.add_option("--calibration-tokens", o.calibration.tokens, "of them, at most")
      ->capture_default_str();
  text.add_option("--calibration-length", o.calibration.length,
                  "longer documents are cut; also of held-out text")
      ->capture_default_str();
  text.add_option("--validation", a.validation,
                  "token shards that decide between fits, a seventh of --calibration-tokens of them "
                  "(default: an eighth of the calibration documents is held back)");
  text.add_option("--held-out", a.held_out,
                  "token shards on which the loss is measured right after the split, for every "
                  "number of chosen experts; none of their documents may be among the calibration "
                  "and validation text");

  app.add_option("--seed", o.seed, "of the partition and the gates")->capture_default_str();
  app.add_option("--format", a.format,
                 "layout of the output: llama-moe, llama-moe-v2, mixtral or native")
      ->capture_default_str();
  app.add_option("--dtype", a.dtype, "f32, bf16, f16 or f64 (default: the dense model's own type)");
  app.add_option("--threads", a.threads, "of each rank (default: the cores over the host's ranks)");
  app.add_option("--indices", o.indices,
                 "neuron_indices.safetensors of an earlier split: which neurons go where");
  app.add_option("--modeling-from", o.modeling_from,
                 "folder of LLaMA-MoE's own Python files, to be copied beside the model");
  app.add_flag("--dry-run", o.dry_run, "plan and report, but write nothing");
  app.add_flag("--force", o.force, "replace an existing output folder");
  app.add_flag("--json", a.json, "print the report as JSON");
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  return moe::run_program(
      argc, argv, {"moe-split", moe::kDescription, moe::kExamples},
      [&](CLI::App& app) -> moe::Action {
        auto split = std::make_shared<moe::SplitArguments>();
        moe::define_split(app, *split);
        app.require_subcommand(0, 1);
        app.set_config("--config", "",
                       "TOML file of options by their long names, as in configs/split; the command "
                       "line wins");
        app.allow_config_extras(CLI::config_extras_mode::error);
        const moe::OnRanks on_ranks = [&argc, &argv](std::int64_t threads, const auto& body) {
          if (!moe::launched_by_mpi()) {
            moe::set_threads(threads, 1);
            return body(*moe::single_rank());
          }
          return moe::run_under_mpi("moe-split", argc, argv, [&](moe::MpiWorld& mpi) {
            moe::set_threads(threads, mpi.local_ranks());
            return body(mpi.world());
          });
        };
        const moe::Subcommands commands = moe::define_split_commands(app, on_ranks);
        return [=] {
          if (const moe::Action run = commands.parsed()) return run();
          MOE_REQUIRE(!split->split.input.empty(), "--input is required");
          MOE_REQUIRE(split->split.dry_run || !split->split.output.empty(), "--output is required");
          return on_ranks(split->threads,
                          [&](moe::Communicator& world) { return moe::run_split(*split, world); });
        };
      });
}
