// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/app.h"
#include "app/device_choice.h"
#include "core/log.h"
#include "generate/generator.h"
#include "generate/prompts.h"
#include "generate/routing_text.h"
#include "generate/stop_text.h"
#include "train/model_source.h"

namespace moe {
namespace {

using Ids = std::vector<std::int32_t>;

struct Options {
  std::string model, prompt, prompts, tokenizer, dtype = "f32";
  Ids prompt_ids, stop_ids;
  std::vector<std::string> stop_texts;
  GenerateOptions generate;
  DeviceChoice device = DeviceChoice::automatic;
  bool json = false, ignore_eos = false;
};

/// The tokenizer that was asked for, or the model's own where it can be had.
std::optional<Tokenizer> open_tokenizer(const Options& o, const ModelSource& source) {
  if (!o.tokenizer.empty()) return Tokenizer::open(o.tokenizer);
  const bool needed = !o.prompt.empty() || !o.stop_texts.empty();
  try {
    return Tokenizer::open(source.folder);
  } catch (const InputError& e) {
    MOE_REQUIRE(!needed, e.what(),
                " (or give --tokenizer, or the prompt as --prompt-ids and no --stop)");
    return std::nullopt;
  }
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// The text of one continuation as its ids come.
class Reader {
 public:
  Reader(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
      : decoder_(tokenizer), stop_(stops) {}

  /// Text before the continuation; it may hold stop texts.
  std::string begin(const Ids& prompt) {
    std::string text;
    for (const std::int32_t id : prompt) text += decoder_.push(id);
    return text;
  }
  std::string push(std::int32_t id) { return keep(stop_.push(decoder_.push(id))); }
  std::string finish() { return keep(stop_.push(decoder_.finish()) + stop_.finish()); }
  bool stopped() const { return stop_.stopped(); }
  const std::string& text() const { return text_; }

 private:
  std::string keep(std::string more) {
    text_ += more;
    return more;
  }
  StreamDecoder decoder_;
  StopText stop_;
  std::string text_;
};

std::string routing_table_of(const Ids& prompt, const GeneratedText& text,
                             const std::optional<Tokenizer>& tokenizer) {
  Ids all = prompt;
  all.insert(all.end(), text.ids.begin(), text.ids.end());
  std::vector<std::string> pieces;
  if (tokenizer)
    for (const std::int32_t id : all) pieces.push_back(tokenizer->decode(std::span(&id, 1)));
  return routing_table(text.routing, all, pieces);
}

void print_json(const Ids& prompt, const GeneratedText& text, const std::string* decoded,
                bool routing) {
  nlohmann::json out = {{"prompt_ids", prompt}, {"ids", text.ids}, {"stopped", text.stopped}};
  if (decoded != nullptr) out["text"] = *decoded;
  if (routing) out["routing"] = nlohmann::json::parse(routing_json(text.routing));
  print(out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

int run(const Options& o) {
  const ModelSource source = open_model(o.model);
  const ModelConfig& c = source.config;
  const std::optional<Tokenizer> tokenizer = open_tokenizer(o, source);
  const auto bos = c.bos_token >= 0 ? std::optional(std::int32_t(c.bos_token)) : std::nullopt;

  std::vector<Ids> prompts;
  if (!o.prompts.empty())
    prompts = read_prompts(o.prompts, tokenizer ? &*tokenizer : nullptr, bos, c.vocab_size);
  else if (!o.prompt_ids.empty())
    prompts = {o.prompt_ids};
  else if (!o.prompt.empty())
    prompts = {prompt_ids(o.prompt, *tokenizer, bos)};
  else
    prompts = {bos ? Ids{*bos} : Ids{}};
  GenerateOptions options = o.generate;
  options.stop = o.stop_ids;
  if (!o.ignore_eos && c.eos_token >= 0) options.stop.push_back(std::int32_t(c.eos_token));

  const LoadedModel loaded(source, float_dtype_named(o.dtype), choose_device(o.device));
  const bool streams = tokenizer && !o.json && prompts.size() == 1;
  std::vector<Reader> readers;
  if (tokenizer) readers.assign(prompts.size(), Reader(*tokenizer, o.stop_texts));
  if (streams) print(readers[0].begin(prompts[0]));
  GenerateTimes times;
  const std::vector<GeneratedText> texts = generate_texts(
      loaded.model(), prompts, options,
      [&](std::size_t p, std::int32_t id) {
        if (readers.empty()) return true;
        const std::string more = readers[p].push(id);
        if (streams) print(more);
        return !readers[p].stopped();
      },
      &times);
  for (std::size_t p = 0; p < texts.size(); ++p) {
    const std::string rest = tokenizer ? readers[p].finish() : "";
    if (o.json) {
      print_json(prompts[p], texts[p], tokenizer ? &readers[p].text() : nullptr, options.routing);
      continue;
    }
    if (prompts.size() > 1) print(fmt::format("[{}] ", p + 1));
    if (streams)
      print(rest + "\n");
    else
      print((tokenizer ? readers[p].text() : join(texts[p].ids, ",")) + "\n");
    if (options.routing) print(routing_table_of(prompts[p], texts[p], tokenizer));
  }
  log_info("prompt: {} tokens, {:.1f}/s; then {} tokens one by one, {:.1f}/s", times.prompt_tokens,
           double(times.prompt_tokens) / times.prompt_seconds, times.new_tokens,
           times.new_tokens > 0 ? double(times.new_tokens) / times.new_seconds : 0.0);
  return kExitOk;
}

void define_prompts(CLI::App& app, Options& o) {
  auto* prompt = app.add_option("--prompt", o.prompt, "Text to continue (after BOS)");
  auto* ids = app.add_option("--prompt-ids", o.prompt_ids, "Token ids to continue, as given")
                  ->delimiter(',')
                  ->excludes(prompt);
  app.add_option("--prompts", o.prompts,
                 "File of prompts: a text a line or, .jsonl, objects with \"prompt\" or "
                 "\"prompt_ids\"")
      ->excludes(prompt)
      ->excludes(ids);
  app.add_option("--batch", o.generate.batch, "Prompts computed at once")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--tokenizer", o.tokenizer,
                 "tokenizer.model, tokenizer.json or their folder (default: the model's)");
  app.add_option("--max-tokens", o.generate.max_tokens, "New tokens at most, of each prompt")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--stop", o.stop_texts, "End before this text (repeatable)");
  app.add_option("--stop-ids", o.stop_ids, "End after one of these tokens")->delimiter(',');
  app.add_flag("--ignore-eos", o.ignore_eos, "Go on after the end-of-text token");
}

void define_sampling(CLI::App& app, GenerateOptions& g) {
  app.add_option("--temperature", g.temperature,
                 "0: the likeliest token; above: sample from softmax(logits / temperature)")
      ->capture_default_str();
  app.add_option("--top-k-sampling", g.top_k, "Sample from the k likeliest tokens; 0: off")
      ->capture_default_str();
  app.add_option("--top-p", g.top_p,
                 "Sample from the fewest likeliest tokens with this much probability; 1: off")
      ->capture_default_str();
  app.add_option("--min-p", g.min_p,
                 "Sample from tokens at least this share as likely as the likeliest; 0: off")
      ->capture_default_str();
  app.add_option("--repetition-penalty", g.repetition_penalty,
                 "Above 1: tokens that stand in the text already become less likely")
      ->capture_default_str();
  app.add_option("--seed", g.seed, "Of sampling")->capture_default_str();
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  const moe::ProgramText text = {
      "moe-generate", "Text from a model folder or a training checkpoint.",
      "  moe-generate --model demo/moe --prompt 'The compiler' --max-tokens 60\n"
      "  moe-generate --model runs/x/checkpoints/step-00000100 --prompt-ids 1,35 --json\n"
      "  moe-generate --model demo/moe --prompt Once --temperature 0.8 --top-p 0.95 --seed 7\n"
      "  moe-generate --model demo/moe --prompts prompts.txt --batch 8 --stop . --json\n"
      "  moe-generate --model demo/moe --prompt Once --max-tokens 8 --show-routing\n"};
  return moe::run_program(argc, argv, text, [](CLI::App& app) -> moe::Action {
    auto o = std::make_shared<moe::Options>();
    app.add_option("--model", o->model, "Hugging Face folder, training checkpoint or run folder")
        ->required();
    moe::define_prompts(app, *o);
    moe::define_sampling(app, o->generate);
    app.add_option("--dtype", o->dtype, "f32, bf16 or f64")->capture_default_str();
    moe::add_device_option(app, o->device);
    app.add_flag("--show-routing", o->generate.routing,
                 "Tell which experts each token chose in each layer, the weightiest first");
    app.add_flag("--json", o->json,
                 "One JSON object a prompt: prompt_ids, ids, text, stopped, routing");
    return [o] { return moe::run(*o); };
  });
}
