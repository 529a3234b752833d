// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/data_commands.h"
#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"
#include "data/build_shards.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

struct Arguments {
  BuildOptions options;
  SetArguments sets;
  FilterArguments filters;
  std::vector<std::string> input, raw, tokenized;
  std::string tokenizer, output, held_out, held_out_output, separator;
  bool has_separator = false, json = false;
};

/// The inputs, whichever option names them.
const std::vector<std::string>& inputs_of(const Arguments& a) {
  MOE_REQUIRE(int(a.input.empty()) + int(a.raw.empty()) + int(a.tokenized.empty()) == 2,
              "give either --input (text) or --tokenized (token ids) or --raw (text of many sets)");
  return !a.input.empty() ? a.input : !a.raw.empty() ? a.raw : a.tokenized;
}

BuildOptions options_of(const Arguments& a) {
  BuildOptions options = a.options;
  const auto& inputs = inputs_of(a);
  options.inputs.assign(inputs.begin(), inputs.end());
  options.tokenized = !a.tokenized.empty();
  options.output = a.output;
  options.held_out_output = a.held_out_output;
  if (a.has_separator) options.separator = a.separator;
  if (!a.held_out.empty()) options.held_out = parse_held_out(a.held_out);
  MOE_REQUIRE(!a.raw.empty() || !a.sets.given(),
              "--set, --set-field and --unknown-sets go with --raw");
  if (!a.raw.empty()) options.sets = a.sets.names();
  options.filter = a.filters.rules();
  options.deduplicate = a.filters.deduplicate;
  options.removed = a.filters.removed;
  MOE_REQUIRE(options.max_bad < 0 || options.skip_bad, "--max-bad goes with --skip-bad");
  return options;
}

ordered_json to_json(const BuildReport& report, const Arguments& a, double tokens_per_second) {
  ordered_json object = {{"output", a.output}};
  if (!a.options.domain.empty()) object["domain"] = a.options.domain;
  object.update({{"documents", report.written.documents}, {"tokens", report.written.tokens}});
  object.update(ordered_json::parse(left_out_json(report.left_out)));
  object.update({{"seconds", report.seconds}, {"tokens_per_second", tokens_per_second}});
  if (!a.held_out.empty()) {
    object["held_out"] = {{"documents", report.held_out.documents},
                          {"tokens", report.held_out.tokens}};
    if (!a.held_out_output.empty()) object["held_out"]["output"] = a.held_out_output;
  }
  for (const auto& d : report.domains)
    object["domains"].push_back({{"domain", d.name},
                                 {"documents", d.documents},
                                 {"tokens", d.tokens},
                                 {"text_bytes", d.text_bytes}});
  for (const auto& s : report.shards)
    object["shards"].push_back({{"file", s.path.string()},
                                {"domain", s.domain},
                                {"held_out", s.held_out},
                                {"documents", s.documents},
                                {"tokens", s.tokens}});
  return object;
}

int build(const Arguments& a) {
  const BuildOptions options = options_of(a);
  std::optional<Tokenizer> tokenizer;
  if (!a.tokenizer.empty()) tokenizer = Tokenizer::open(a.tokenizer);
  BuildOptions with_tokenizer = options;
  with_tokenizer.tokenizer = tokenizer ? &*tokenizer : nullptr;

  Progress progress("tokenizing", BatchReader::bytes_of(options.inputs), "tokens");
  std::int64_t earlier = -1, tokens = 0;
  const BuildReport report =
      build_shards(with_tokenizer, [&](std::int64_t bytes, std::int64_t count) {
        tokens = count;
        if (earlier < 0) progress.start_from(bytes, earlier = count);
        progress.update(bytes, count);
      });
  progress.finish();

  const double rate =
      double(tokens - std::max<std::int64_t>(earlier, 0)) / std::max(report.seconds, 1e-9);
  if (a.json) {
    std::printf("%s\n", to_json(report, a, rate).dump().c_str());
    return kExitOk;
  }
  for (const BuildReport::Shard& shard : report.shards)
    fmt::print("{}: {} documents, {} tokens\n", shard.path.string(), shard.documents, shard.tokens);
  print_left_out(report.left_out);
  fmt::print("{} tokens/s, {}\n", readable_count(rate), readable_seconds(report.seconds));
  return kExitOk;
}

}  // namespace

Action define_data_build(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  BuildOptions& o = a.options;
  app.add_option("--input", a.input,
                 "Text: .jsonl or .txt files, also .gz and .zst; read in this order");
  app.add_option(
      "--raw", a.raw,
      "Raw SlimPajama: jsonl files, also .gz and .zst; each line's set name is its domain");
  app.add_option("--tokenized", a.tokenized,
                 "Token ids: jsonl files of {\"input_ids\": [...]} lines, also .gz and .zst");
  app.add_option("--tokenizer", a.tokenizer, "The model's tokenizer file, or its folder");
  app.add_option("--vocab-size", o.vocabulary_size,
                 "Size of the vocabulary (default: the tokenizer's)")
      ->check(CLI::PositiveNumber);
  app.add_option("--domain", o.domain, "Name of the domain (with --raw each line says it)");
  app.add_option("--output", a.output,
                 "The shard to write; its manifest goes to OUTPUT.json. With --raw: a folder")
      ->required();
  app.add_option("--shard-tokens", o.shard_tokens,
                 "Write several shards, NAME-00000.h5 and so on, of about N tokens each")
      ->check(CLI::PositiveNumber);
  app.add_option("--field", o.field, "Field of a jsonl line (default: text, or input_ids)");
  a.sets.define(app);
  a.filters.define(app);
  const CLI::Option* separator = app.add_option(
      "--separator", a.separator,
      "Line that parts a .txt file into documents ('' for blank lines; default: one a file)");
  app.add_flag("--bos", o.bos, "Put the tokenizer's BOS id before every document");
  app.add_flag("--eos", o.eos, "Put the tokenizer's EOS id after every document");
  app.add_option("--cut-documents", o.cut_documents,
                 "Part documents of more than N tokens into documents of at most N")
      ->check(CLI::PositiveNumber);
  app.add_option("--held-out", a.held_out,
                 "Set apart N documents, or a fraction of them (0.01), chosen by the seed");
  app.add_option("--held-out-output", a.held_out_output, "The shard for the held-out documents");
  app.add_option("--seed", o.seed, "Chooses the held-out documents")->capture_default_str();
  app.add_flag("--skip-bad", o.skip_bad, "Leave out and count lines that cannot be used");
  app.add_option("--max-bad", o.max_bad, "With --skip-bad: stop when there are more than N")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--threads", o.threads, "Threads that tokenize (default: all cores)")
      ->check(CLI::PositiveNumber);
  app.add_option("--save-every", o.save_every,
                 "Seconds of work that a kill may cost; the same command goes on from there")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--force", o.force, "Replace existing shards, and unfinished work of other options");
  app.add_flag("--json", a.json, "Print the result as one JSON object");
  return [arguments, separator] {
    arguments->has_separator = separator->count() > 0;
    return build(*arguments);
  };
}

}  // namespace moe
