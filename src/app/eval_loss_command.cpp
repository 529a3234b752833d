// SPDX-License-Identifier: Apache-2.0
#include "app/eval_loss_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/device_choice.h"
#include "app/eval_model.h"
#include "eval/shard_losses.h"

namespace moe {
namespace {

constexpr std::int64_t kDefaultLength = 2048;  // windows are all this wide, also the last

struct LossOptions {
  EvalModelOptions model;
  std::vector<std::string> data;
  std::string scores;
  bool per_document = false, json = false;
  std::int64_t length = 0, batch = 4;
};

nlohmann::ordered_json as_json(const HeldOutLoss& loss, std::int64_t sequences) {
  return {{"tokens", loss.tokens},
          {"loss", loss.loss},
          {"perplexity", std::exp(loss.loss)},
          {"sequences", sequences}};
}

void print(const ShardLosses& losses, const LossOptions& o, std::int64_t length) {
  if (o.json) {
    auto out = as_json(losses.total(), losses.sequences());
    out["length"] = length;
    out["per_document"] = o.per_document;
    for (const DomainLoss& d : losses.domains)
      out["domains"][d.domain] = as_json(d.loss, d.sequences);
    std::printf("%s\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  const auto line = [](const HeldOutLoss& loss, std::int64_t sequences) {
    std::printf("loss %.6f nats a token, perplexity %.3f, over %lld tokens in %lld sequences\n",
                loss.loss, std::exp(loss.loss), static_cast<long long>(loss.tokens),
                static_cast<long long>(sequences));
  };
  if (losses.domains.size() > 1)
    for (const DomainLoss& d : losses.domains) {
      std::printf("%s: ", d.domain.c_str());
      line(d.loss, d.sequences);
    }
  line(losses.total(), losses.sequences());
}

int run(const LossOptions& o, Communicator& world, int local_rank) {
  MOE_REQUIRE(o.scores.empty() || o.per_document, "--scores needs --per-document");
  require_writable(o.scores);
  const ModelSource source = open_eval_model(o.model);
  const ModelConfig& c = source.config;
  MOE_REQUIRE(o.length <= c.max_positions, "--length ", o.length, " exceeds the model's ",
              c.max_positions, " positions");
  const std::int64_t length = o.length > 0 ? o.length : std::min(c.max_positions, kDefaultLength);
  const LoadedModel loaded(source, float_dtype_named(o.model.dtype),
                           choose_device(o.model.device, local_rank));
  std::unique_ptr<Progress> progress;
  const ShardLosses losses =
      shard_losses(loaded.model(), {o.data.begin(), o.data.end()}, o.per_document, length, o.batch,
                   world, [&](std::int64_t done, std::int64_t of) {
                     if (!progress) progress = std::make_unique<Progress>("scoring", of, "tokens");
                     progress->update(done, done);
                   });
  progress.reset();
  if (world.rank() > 0) return kExitOk;
  if (!o.scores.empty()) write_result(o.scores, document_scores_jsonl(losses, o.data));
  print(losses, o, length);
  return kExitOk;
}

}  // namespace

Action define_eval_loss(CLI::App& app, int& argc, char**& argv) {
  auto o = std::make_shared<LossOptions>();
  add_model_options(app, o->model);
  app.add_option("--data", o->data, "Token shards; the losses of each domain among them are told")
      ->required();
  app.add_flag("--per-document", o->per_document,
               "Each document alone: BOS, then every id after it is scored (default: windows over "
               "each domain's stream, as in training)");
  app.add_option("--scores", o->scores,
                 "Write the loss of every document, one JSON line each (moe-data select reads it)");
  app.add_option("--length", o->length,
                 "Inputs of a sequence (default: the model's positions, 2048 at most)")
      ->check(CLI::PositiveNumber);
  app.add_option("--batch", o->batch, "Sequences computed at once")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", o->json, "One JSON object: tokens, loss, ..., domains");
  return [o, &argc, &argv] {
    return run_data_parallel(argc, argv, [&](Communicator& world, int local_rank) {
      return run(*o, world, local_rank);
    });
  };
}

}  // namespace moe
