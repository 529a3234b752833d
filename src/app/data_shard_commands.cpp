// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/data_commands.h"
#include "core/error.h"
#include "data/shard_edit.h"
#include "data/token_file.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

struct Arguments {
  ShardEdit edit;
  std::vector<std::string> input;
  std::string output, scores;
  LossBounds bounds;
  std::uint64_t seed = 42;
  bool json = false;

  ShardEdit shards() const {
    ShardEdit result = edit;
    result.inputs.assign(input.begin(), input.end());
    result.output = output;
    return result;
  }
};

ordered_json to_json(const ShardEditReport& report) {
  ordered_json object;
  std::int64_t documents = 0, tokens = 0;
  for (const auto& s : report.shards) documents += s.documents, tokens += s.tokens;
  object = {{"documents", documents}, {"tokens", tokens}};
  for (const auto& s : report.shards)
    object["shards"].push_back(
        {{"file", s.path.string()}, {"documents", s.documents}, {"tokens", s.tokens}});
  return object;
}

void print(const ShardEditReport& report, bool json) {
  if (json) {
    std::printf("%s\n", to_json(report).dump().c_str());
    return;
  }
  for (const auto& s : report.shards)
    fmt::print("{}: {} documents, {} tokens\n", s.path.string(), s.documents, s.tokens);
}

/// Runs `edit` with a bar that counts documents.
template <class Edit>
auto with_progress(const char* what, const ShardEdit& shards, Edit&& edit) {
  std::int64_t total = 0;
  for (const auto& input : shards.inputs) total += TokenFile(input).documents();
  Progress progress(what, total, "tokens");
  return edit(
      [&](std::int64_t documents, std::int64_t tokens) { progress.update(documents, tokens); });
}

std::shared_ptr<Arguments> define_common(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  app.add_option("--input", a.input, "Token shards; read in this order")->required();
  app.add_option("--output", a.output,
                 "The shard to write; its manifest goes to OUTPUT.json. With one of the next two "
                 "NAME-00000.h5 and so on")
      ->required();
  app.add_option("--shard-tokens", a.edit.shard_tokens,
                 "A shard ends with the document by which it has N tokens")
      ->check(CLI::PositiveNumber);
  app.add_option("--shard-documents", a.edit.shard_documents, "A shard has N documents")
      ->check(CLI::PositiveNumber);
  app.add_option("--domain", a.edit.domain, "The domain of the result (default: the inputs')");
  app.add_flag("--force", a.edit.force, "Replace existing shards");
  app.add_flag("--json", a.json, "Print the result as one JSON object");
  return arguments;
}

int select(const Arguments& a) {
  const ShardEdit shards = a.shards();
  const SelectReport report = with_progress("selecting", shards, [&](const auto& progress) {
    return select_documents(shards, a.scores, a.bounds, progress);
  });
  if (a.json) {
    ordered_json object = to_json(report.written);
    object["removed"] = {
        {"above", report.above}, {"below", report.below}, {"unscored", report.unscored}};
    std::printf("%s\n", object.dump().c_str());
    return kExitOk;
  }
  print(report.written, false);
  fmt::print("{} documents left out for a high loss, {} for a low one, {} without a loss\n",
             report.above, report.below, report.unscored);
  return kExitOk;
}

}  // namespace

Action define_data_merge(CLI::App& app) {
  auto arguments = define_common(app);
  return [arguments] {
    const ShardEdit shards = arguments->shards();
    print(with_progress("merging", shards,
                        [&](const auto& progress) { return merge_shards(shards, progress); }),
          arguments->json);
    return kExitOk;
  };
}

Action define_data_cut(CLI::App& app) {
  auto arguments = define_common(app);
  return [arguments] {
    const ShardEdit shards = arguments->shards();
    MOE_REQUIRE(shards.shard_tokens > 0 || shards.shard_documents > 0,
                "say how large the pieces are: --shard-tokens or --shard-documents");
    print(with_progress("cutting", shards,
                        [&](const auto& progress) { return merge_shards(shards, progress); }),
          arguments->json);
    return kExitOk;
  };
}

Action define_data_shuffle(CLI::App& app) {
  auto arguments = define_common(app);
  app.add_option("--seed", arguments->seed, "Chooses the order")->capture_default_str();
  return [arguments] {
    const ShardEdit shards = arguments->shards();
    print(with_progress("shuffling", shards,
                        [&](const auto& progress) {
                          return shuffle_shards(shards, arguments->seed, progress);
                        }),
          arguments->json);
    return kExitOk;
  };
}

Action define_data_select(CLI::App& app) {
  auto arguments = define_common(app);
  Arguments& a = *arguments;
  app.add_option("--scores", a.scores,
                 "What moe-eval loss --per-document --scores wrote for these shards")
      ->required();
  app.add_option("--max-loss", a.bounds.max, "Leave out documents of a higher loss");
  app.add_option("--min-loss", a.bounds.min, "Leave out documents of a lower loss");
  app.add_option("--keep-fraction", a.bounds.keep_fraction,
                 "Take this share of the documents, those of least loss");
  return [arguments] { return select(*arguments); };
}

}  // namespace moe
