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
#include "core/error.h"
#include "core/log.h"
#include "split/split_model.h"

namespace moe {
namespace {

constexpr const char* kDescription =
    "Turns a dense LLaMA checkpoint into a mixture of experts: divides the FFN neurons of every "
    "layer among experts and adds a gate. Input and output are Hugging Face folders.";

constexpr const char* kExamples = R"(Examples:
  Eight experts, two per token, as LLaMA-MoE v1 made its 3.5B (2/8) model:
    moe-split --input llama-2-7b --output llama-moe-2-8 --experts 8 --top-k 2 --seed 42

  Neurons with similar up-projections together, in a layout that ecosystem tools load as it is:
    moe-split --input llama-2-7b --output mixtral-2-8 --experts 8 --top-k 2 \
              --method clustering --cluster-on up --gate linear --format mixtral

  The dense model exactly, to check an installation:
    moe-split --input llama-2-7b --output same --experts 8 --top-k 8 --gate zeros --scale 8
)";

struct Arguments {
  SplitOptions split;
  std::string gate, format = "llama-moe", dtype;
  bool json = false;
};

DType stored_type_named(const std::string& text) {
  for (const DType t : {DType::f32, DType::bf16, DType::f16, DType::f64})
    if (text == name(t)) return t;
  throw InputError(str("unknown number type '", text, "': use f32, bf16, f16 or f64"));
}

/// Anonymous memory of this process now, in bytes; 0 where the system does not say.
std::int64_t anonymous_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  return 0;
}

/// "1376", or "21 to 22" for experts of different sizes.
std::string size_range(const SplitReport& report) {
  std::int64_t least = report.layers.at(0).sizes.at(0), most = least;
  for (const auto& layer : report.layers) {
    const auto [low, high] = std::minmax_element(layer.sizes.begin(), layer.sizes.end());
    least = std::min(least, *low);
    most = std::max(most, *high);
  }
  return least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most);
}

void print_clustering(const SplitReport& report) {
  if (report.layers.at(0).measures.empty()) return;
  fmt::print("\n{:>5}  {:>12}  {:>12}  {:>12}  {:>10}\n", "layer", "inertia", "random split",
             "unbalanced", "iterations");
  for (std::size_t l = 0; l < report.layers.size(); ++l) {
    const auto& list = report.layers[l].measures;
    const std::map<std::string, double> m(list.begin(), list.end());
    fmt::print("{:>5}  {:>12.4f}  {:>12.4f}  {:>12.4f}  {:>10}\n", l, m.at("objective"),
               m.at("objective_random"), m.at("objective_unbalanced"), int(m.at("iterations")));
  }
  fmt::print(
      "inertia: sum of squared distances of normalised rows to their expert's mean; unbalanced: "
      "to the nearest mean.\n");
}

void print_table(const SplitReport& r, const Arguments& a, std::int64_t memory) {
  const auto row = [](const char* name, const std::string& value) {
    fmt::print("{:<22}{}\n", name, value);
  };
  const auto& moe = r.config.moe;
  row("model", fmt::format("{} ({}, {})", a.split.output.string(), name(r.format), name(r.dtype)));
  row("layers", fmt::format("{}", r.config.layers));
  row("experts",
      fmt::format("{} of {} neurons, {} chosen per token", moe.experts, size_range(r), moe.top_k));
  row("method", fmt::format("{}, seed {}", r.method, r.seed));
  row("gate", fmt::format("{}{}", name(r.gate), moe.gate_noise ? ", with noise" : ""));
  row("scale", fmt::format("{:g}", moe.score_scale.at(0)));
  row("parameters", fmt::format("{} ({}), {} activated", r.parameters.total,
                                readable_count(double(r.parameters.total)),
                                readable_count(double(r.parameters.activated))));
  row("written", fmt::format("{:.1f} MB in {:.2f} s, {:.0f} MB/s", double(r.bytes) / 1e6, r.seconds,
                             double(r.bytes) / 1e6 / r.seconds));
  if (r.construction_seconds > 0.01 * r.seconds)
    row("", fmt::format("of which construction {:.2f} s", r.construction_seconds));
  if (memory > 0) row("memory", fmt::format("{:.0f} MB anonymous at most", double(memory) / 1e6));
  print_clustering(r);
}

nlohmann::ordered_json to_json(const SplitReport& r, const Arguments& a, std::int64_t memory) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const auto& layer : r.layers) {
    nlohmann::ordered_json one = {{"expert_sizes", layer.sizes}};
    for (const auto& [measure, value] : layer.measures) one[measure] = value;
    layers.push_back(one);
  }
  return {{"output", a.split.output.string()},
          {"format", name(r.format)},
          {"dtype", name(r.dtype)},
          {"method", r.method},
          {"seed", r.seed},
          {"experts", r.config.moe.experts},
          {"top_k", r.config.moe.top_k},
          {"gate", name(r.gate)},
          {"gate_noise", r.config.moe.gate_noise},
          {"scale", r.config.moe.score_scale.at(0)},
          {"parameters", {{"total", r.parameters.total}, {"activated", r.parameters.activated}}},
          {"bytes", r.bytes},
          {"seconds", r.seconds},
          {"construction_seconds", r.construction_seconds},
          {"anonymous_memory_bytes", memory},
          {"warnings", r.warnings},
          {"layers", layers}};
}

int run(Arguments& a) {
  if (!a.gate.empty()) a.split.gate = gate_init_named(a.gate);
  if (!a.dtype.empty()) a.split.dtype = stored_type_named(a.dtype);
  a.split.format = model_format_named(a.format);

  std::int64_t memory = 0;
  std::optional<Progress> progress;
  const SplitReport report = split_model(a.split, [&](std::int64_t done, std::int64_t total) {
    if (!progress) progress.emplace("splitting", total, "weights");
    progress->update(done, done);
    memory = std::max(memory, anonymous_memory());
  });
  progress.reset();
  for (const std::string& warning : report.warnings) log_warning("{}", warning);
  if (a.json)
    fmt::print("{}\n", to_json(report, a, memory).dump(2));
  else
    print_table(report, a, memory);
  return kExitOk;
}

Action define(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  SplitOptions& o = a->split;
  app.add_option("--input", o.input, "dense model: a Hugging Face folder of a LLaMA")->required();
  app.add_option("--output", o.output, "folder to make")->required();
  app.add_option("--experts", o.experts, "experts per layer")->capture_default_str();
  app.add_option("--top-k", o.top_k, "experts chosen per token")->capture_default_str();
  app.add_option("--method", o.method, "how neurons are divided: random or clustering")
      ->capture_default_str();
  app.add_option("--cluster-on", o.construction.cluster_on,
                 "clustering: the projection whose rows are compared, up or gate")
      ->capture_default_str();
  app.add_option("--cluster-starts", o.construction.cluster_starts,
                 "clustering: runs from different seeds, of which the best is taken")
      ->capture_default_str();
  app.add_option("--gate", a->gate,
                 "linear, mlp or zeros (default: mlp for llama-moe, linear for mixtral)");
  app.add_option(
      "--gate-noise", o.gate_noise,
      "on or off: noisy gates in training (default: on for llama-moe, unless the gate is "
      "zeros)");
  app.add_option("--scale", o.scale, "factor on the experts' output (default: experts / top-k)");
  app.add_option("--seed", o.seed, "of the partition and the gates")->capture_default_str();
  app.add_option("--format", a->format, "layout of the output: llama-moe or mixtral")
      ->capture_default_str();
  app.add_option("--dtype", a->dtype,
                 "f32, bf16, f16 or f64 (default: the dense model's own type)");
  app.add_flag("--force", o.force, "replace an existing output folder");
  app.add_flag("--json", a->json, "print the result as JSON");
  return [a] { return run(*a); };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  return moe::run_program(argc, argv, {"moe-split", moe::kDescription, moe::kExamples},
                          moe::define);
}
