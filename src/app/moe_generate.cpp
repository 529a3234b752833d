// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/app.h"
#include "app/device_choice.h"
#include "app/eval_model.h"
#include "app/generate_requests.h"
#include "core/log.h"
#include "generate/generator.h"
#include "generate/routing_text.h"
#include "generate/stop_text.h"
#include "train/model_source.h"

namespace moe {
namespace {

using Ids = std::vector<std::int32_t>;

struct Options {
  RequestArguments asked;
  std::string model, tokenizer, output, dtype = "f32";
  Ids stop_ids;
  std::vector<std::string> stop_texts;
  GenerateOptions generate;
  DeviceChoice device = DeviceChoice::automatic;
  bool json = false, ignore_eos = false, max_tokens_given = false;
};

/// The tokenizer that was asked for, or the model's own where it can be had.
std::optional<Tokenizer> open_tokenizer(const Options& o, const ModelSource& source) {
  if (!o.tokenizer.empty()) return Tokenizer::open(o.tokenizer);
  const RequestArguments& a = o.asked;
  const bool needed =
      !a.prompt.empty() || !a.chat.empty() || !a.task.empty() || !o.stop_texts.empty();
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
  /// `prefix`, `suffix`: no part of the continuation where it has them.
  Reader(const Tokenizer& tokenizer, const std::vector<std::string>& stops, std::string prefix,
         std::string suffix)
      : decoder_(tokenizer), stop_(stops), prefix_(std::move(prefix)), suffix_(std::move(suffix)) {}

  /// Text before the continuation; it may hold stop texts.
  std::string begin(const Ids& prompt) {
    std::string text;
    for (const std::int32_t id : prompt) text += decoder_.push(id);
    return text;
  }
  std::string push(std::int32_t id) { return keep(stop_.push(decoder_.push(id))); }
  std::string finish() {
    std::string rest = keep(stop_.push(decoder_.finish()) + stop_.finish());
    text_ += held_;
    rest += std::exchange(held_, {});
    if (!suffix_.empty() && text_.ends_with(suffix_)) text_.resize(text_.size() - suffix_.size());
    return rest;
  }
  bool stopped() const { return stop_.stopped(); }
  const std::string& text() const { return text_; }

 private:
  std::string keep(const std::string& more) {
    held_ += more;
    if (held_.size() < prefix_.size() && prefix_.starts_with(held_)) return {};
    if (!prefix_.empty() && held_.starts_with(prefix_)) held_.erase(0, prefix_.size());
    prefix_.clear();
    text_ += held_;
    return std::exchange(held_, {});
  }
  StreamDecoder decoder_;
  StopText stop_;
  std::string prefix_, suffix_;
  std::string held_;  // may be the beginning of the prefix
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

/// A line for each completion, in the order of the records.
std::string completions(const Requests& asked, std::vector<Reader>& readers, std::int64_t samples) {
  std::string lines;
  for (std::size_t p = 0; p < readers.size(); ++p) {
    readers[p].finish();
    lines +=
        completion_line(*asked.task, asked.records[p / std::size_t(samples)], readers[p].text());
  }
  return lines;
}

int run(const Options& o) {
  const ModelSource source = open_model(o.model);
  const ModelConfig& c = source.config;
  const std::optional<Tokenizer> tokenizer = open_tokenizer(o, source);
  MOE_REQUIRE(o.asked.task.empty() == o.output.empty(),
              "--task and --output, the file of its completions, go together");
  require_writable(o.output);
  const Requests asked = make_requests(o.asked, tokenizer ? &*tokenizer : nullptr, c);
  const std::vector<Ids>& prompts = asked.prompts;
  GenerateOptions options = o.generate;
  if (asked.task && !o.max_tokens_given) options.max_tokens = asked.task->max_tokens;
  options.stop = o.stop_ids;
  options.stop.insert(options.stop.end(), asked.stop_ids.begin(), asked.stop_ids.end());
  std::vector<std::string> stop_texts = o.stop_texts;
  stop_texts.insert(stop_texts.end(), asked.stop_texts.begin(), asked.stop_texts.end());
  if (!o.ignore_eos && c.eos_token >= 0) options.stop.push_back(std::int32_t(c.eos_token));

  const LoadedModel loaded(source, float_dtype_named(o.dtype), choose_device(o.device));
  const bool streams = tokenizer && !o.json && !asked.task && prompts.size() == 1;
  const bool answers = !o.asked.chat.empty();
  std::vector<Reader> readers;
  if (tokenizer)
    readers.assign(prompts.size(),
                   Reader(*tokenizer, stop_texts, asked.answer_prefix, asked.answer_suffix));
  for (std::size_t p = 0; p < readers.size() && (streams || answers || asked.task); ++p) {
    const std::string before = readers[p].begin(prompts[p]);
    if (streams && !answers) print(before);
  }
  std::optional<Progress> progress;
  if (asked.task) progress.emplace(asked.task->name, std::int64_t(prompts.size()), "tokens");
  std::int64_t new_tokens = 0;
  GenerateTimes times;
  const std::vector<GeneratedText> texts = generate_texts(
      loaded.model(), prompts, options,
      [&](std::size_t p, std::int32_t id) {
        if (progress) progress->update(std::int64_t(p), ++new_tokens);
        if (readers.empty()) return true;
        const std::string more = readers[p].push(id);
        if (streams) print(more);
        return !readers[p].stopped();
      },
      &times);
  if (progress) progress->finish();
  if (asked.task) write_result(o.output, completions(asked, readers, o.asked.samples));
  for (std::size_t p = 0; p < texts.size() && !asked.task; ++p) {
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
  RequestArguments& a = o.asked;
  auto* prompt = app.add_option("--prompt", a.prompt, "Text to continue (after BOS)");
  auto* ids = app.add_option("--prompt-ids", a.prompt_ids, "Token ids to continue, as given")
                  ->delimiter(',')
                  ->excludes(prompt);
  app.add_option("--prompts", a.prompts,
                 "File of prompts: a text a line or, .jsonl, objects with \"prompt\" or "
                 "\"prompt_ids\"; with --chat also conversations, with --task its records")
      ->excludes(prompt)
      ->excludes(ids);
  app.add_option(
         "--chat", a.chat,
         "Ask in the form of this template of configs/chat, or of a file like those; prints "
         "the answer alone")
      ->excludes(ids);
  app.add_option("--system", a.system, "With --chat: the system's text");
  app.add_option("--task", a.task,
                 "A task of configs/generation, or a file like those: writes what its grader reads")
      ->excludes(prompt)
      ->excludes(ids);
  app.add_option("--output", o.output, "With --task: the completions, a JSON line each");
  app.add_option("--samples", a.samples, "Continuations of each prompt")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--batch", o.generate.batch, "Prompts computed at once")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--tokenizer", o.tokenizer,
                 "tokenizer.model, tokenizer.json or their folder (default: the model's)");
  app.add_option_function<std::int64_t>(
         "--max-tokens",
         [&o](std::int64_t n) {
           o.generate.max_tokens = n;
           o.max_tokens_given = true;
         },
         "New tokens at most, of each prompt (default: 128, or the task's)")
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
      "  moe-generate --model demo/moe --prompt Once --max-tokens 8 --show-routing\n"
      "  moe-generate --model runs/chat --chat llama3 --prompt 'Who are you?' --system 'Be "
      "brief.'\n"
      "  moe-generate --model runs/chat --task humaneval --prompts HumanEval.jsonl.gz --samples "
      "10\n"
      "               --temperature 0.8 --batch 16 --output completions.jsonl\n"};
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
