// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <optional>

#include "app/data_commands.h"
#include "core/error.h"
#include "data/build_shards.h"

namespace moe {
namespace {

struct BuildArguments {
  BuildOptions options;
  SetArguments sets;
  FilterArguments filters;
  std::vector<std::string> input, raw, tokenized;
  ShardArguments shards;
  std::string tokenizer, separator;
  bool has_separator = false;
};

/// The inputs, whichever option names them.
const std::vector<std::string>& inputs_of(const BuildArguments& a) {
  MOE_REQUIRE(int(a.input.empty()) + int(a.raw.empty()) + int(a.tokenized.empty()) == 2,
              "give either --input (text) or --tokenized (token ids) or --raw (text of many sets)");
  return !a.input.empty() ? a.input : !a.raw.empty() ? a.raw : a.tokenized;
}

BuildOptions options_of(const BuildArguments& a) {
  BuildOptions options = a.options;
  const auto& inputs = inputs_of(a);
  options.inputs.assign(inputs.begin(), inputs.end());
  options.tokenized = !a.tokenized.empty();
  a.shards.fill(options);
  if (a.has_separator) options.separator = a.separator;
  MOE_REQUIRE(!a.raw.empty() || !a.sets.given(),
              "--set, --set-field and --unknown-sets go with --raw");
  if (!a.raw.empty()) options.sets = a.sets.names();
  options.filter = a.filters.rules();
  options.deduplicate = a.filters.deduplicate;
  options.removed = a.filters.removed;
  return options;
}

int build(const BuildArguments& a) {
  const BuildOptions options = options_of(a);
  std::optional<Tokenizer> tokenizer;
  if (!a.tokenizer.empty()) tokenizer = Tokenizer::open(a.tokenizer);
  BuildOptions with_tokenizer = options;
  with_tokenizer.tokenizer = tokenizer ? &*tokenizer : nullptr;

  return build_and_report(with_tokenizer, a.shards);
}

}  // namespace

Action define_data_build(CLI::App& app) {
  auto arguments = std::make_shared<BuildArguments>();
  BuildArguments& a = *arguments;
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
  a.shards.define(app, o);
  return [arguments, separator] {
    arguments->has_separator = separator->count() > 0;
    return build(*arguments);
  };
}

}  // namespace moe
