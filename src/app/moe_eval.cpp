// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "app/app.h"
#include "app/device_choice.h"
#include "train/held_out_loss.h"
#include "train/model_source.h"

namespace moe {
namespace {

constexpr std::int64_t kDefaultLength = 2048;  // windows are all this wide, also the last

struct LossOptions {
  std::string model, dtype = "f32";
  std::vector<std::string> data;
  bool per_document = false, json = false;
  std::int64_t length = 0, batch = 4, top_k = 0;
  double scale = 0;
  DeviceChoice device = DeviceChoice::automatic;
};

int run_loss(const LossOptions& o) {
  ModelSource source = open_model(o.model);
  ModelConfig& c = source.config;
  if (o.top_k > 0 || o.scale > 0) {
    MOE_REQUIRE(c.is_moe(), "--top-k and --scale are for models with experts; ", o.model,
                " is dense");
    if (o.top_k > 0) c.moe.top_k = o.top_k;
    const double scale = o.scale > 0 ? o.scale : double(c.moe.experts) / double(c.moe.top_k);
    c.moe.score_scale.assign(std::size_t(c.layers), scale);
    c.validate();
  }
  const LoadedModel loaded(source, float_dtype_named(o.dtype), choose_device(o.device));
  const std::vector<std::filesystem::path> files(o.data.begin(), o.data.end());
  MOE_REQUIRE(o.length <= c.max_positions, "--length ", o.length, " exceeds the model's ",
              c.max_positions, " positions");
  const std::int64_t length = o.length > 0 ? o.length : std::min(c.max_positions, kDefaultLength);
  const HeldOut data =
      o.per_document
          ? HeldOut::documents(
                files, length, c.vocab_size,
                c.bos_token >= 0 ? std::optional(std::int32_t(c.bos_token)) : std::nullopt)
          : HeldOut::windows(files, length, c.vocab_size);
  const HeldOutLoss result =
      held_out_loss(loaded.model(), data, data.sequences(), o.batch, loaded.world());
  if (!o.json) {
    std::printf("loss %.6f nats a token, perplexity %.3f, over %lld tokens in %lld sequences\n",
                result.loss, std::exp(result.loss), static_cast<long long>(result.tokens),
                static_cast<long long>(data.sequences()));
    return kExitOk;
  }
  nlohmann::json out = {
      {"tokens", result.tokens},       {"loss", result.loss}, {"perplexity", std::exp(result.loss)},
      {"sequences", data.sequences()}, {"length", length},    {"per_document", o.per_document}};
  std::printf("%s\n", out.dump().c_str());
  return kExitOk;
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const moe::ProgramText text = {
      "moe-eval", "How well a model predicts held-out text.",
      "  moe-eval loss --model demo/moe --data demo/shards/docs.held-out.h5\n"
      "  moe-eval loss --model runs/x --data a.h5 b.h5 --per-document --json\n"};
  return moe::run_program(argc, argv, text, [](CLI::App& app) -> moe::Action {
    auto o = std::make_shared<moe::LossOptions>();
    app.require_subcommand(1);
    CLI::App* loss = app.add_subcommand(
        "loss", "Mean cross-entropy in nats over every scored token of the shards");
    loss->add_option("--model", o->model, "Hugging Face folder, training checkpoint or run folder")
        ->required();
    loss->add_option("--data", o->data, "Token shards")->required();
    loss->add_flag("--per-document", o->per_document,
                   "Each document alone: BOS, then every id after it is scored (default: windows "
                   "over the stream, as in training)");
    loss->add_option("--length", o->length,
                     "Inputs of a sequence (default: the model's positions, 2048 at most)")
        ->check(CLI::PositiveNumber);
    loss->add_option("--batch", o->batch, "Sequences computed at once")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    loss->add_option("--top-k", o->top_k, "Another number of experts per token, scale E/k")
        ->check(CLI::PositiveNumber);
    loss->add_option("--scale", o->scale, "Another score scale")->check(CLI::PositiveNumber);
    loss->add_option("--dtype", o->dtype, "f32, bf16 or f64")->capture_default_str();
    moe::add_device_option(*loss, o->device);
    loss->add_flag("--json", o->json, "One JSON object: tokens, loss, ...");
    return [o] { return moe::run_loss(*o); };
  });
}
