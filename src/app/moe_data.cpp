// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/app.h"
#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"
#include "data/build_shards.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace moe {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

const ProgramText kText{
    .name = "moe-data",
    .description = "Turns text into HDF5 token shards for training, and checks them.",
    .examples = R"(Examples:
  moe-data build --input wiki/*.jsonl.gz --tokenizer models/llama-2-7b --domain wiki
           --output data/wiki.h5 --bos
  moe-data build --input stories.txt --separator '<|endoftext|>' --tokenizer tokenizer.model
           --domain stories --output stories.h5 --bos --eos
           --held-out 0.01 --held-out-output stories-held-out.h5
  moe-data build --tokenized ids.jsonl --vocab-size 32000 --domain code --output code.h5
  moe-data inspect data/wiki.h5 --json
  moe-data inspect data/wiki.h5 --show 2 --tokenizer models/llama-2-7b
  moe-data verify data/*.h5)"};

void print(const ordered_json& object) { std::printf("%s\n", object.dump().c_str()); }

struct BuildArguments {
  BuildOptions options;
  std::vector<std::string> input, tokenized;
  std::string tokenizer, output, held_out, held_out_output, separator;
  bool json = false;
};

int build(BuildArguments& arguments, bool has_separator) {
  BuildOptions& options = arguments.options;
  MOE_REQUIRE(arguments.input.empty() != arguments.tokenized.empty(),
              "give either --input (text) or --tokenized (token ids)");
  options.tokenized = arguments.input.empty();
  const auto& inputs = options.tokenized ? arguments.tokenized : arguments.input;
  options.inputs.assign(inputs.begin(), inputs.end());
  options.output = arguments.output;
  options.held_out_output = arguments.held_out_output;
  if (has_separator) options.separator = arguments.separator;
  if (!arguments.held_out.empty()) options.held_out = parse_held_out(arguments.held_out);
  std::optional<Tokenizer> tokenizer;
  if (!arguments.tokenizer.empty()) tokenizer = Tokenizer::open(arguments.tokenizer);
  options.tokenizer = tokenizer ? &*tokenizer : nullptr;

  std::int64_t input_bytes = 0;
  for (const fs::path& input : options.inputs) {
    std::error_code unreadable;  // said by whoever opens it
    const auto size = fs::file_size(input, unreadable);
    if (!unreadable) input_bytes += std::int64_t(size);
  }
  Progress progress("tokenizing", input_bytes, "tokens");
  const BuildReport report = build_shards(
      options, [&](std::int64_t bytes, std::int64_t tokens) { progress.update(bytes, tokens); });
  progress.finish();

  const std::int64_t tokens = report.written.tokens + report.held_out.tokens;
  const double rate = double(tokens) / std::max(report.seconds, 1e-9);
  if (arguments.json) {
    ordered_json object = {{"output", arguments.output},
                           {"domain", options.domain},
                           {"documents", report.written.documents},
                           {"tokens", report.written.tokens},
                           {"empty_documents", report.empty},
                           {"skipped_documents", report.skipped},
                           {"seconds", report.seconds},
                           {"tokens_per_second", rate}};
    if (options.held_out)
      object["held_out"] = {{"output", arguments.held_out_output},
                            {"documents", report.held_out.documents},
                            {"tokens", report.held_out.tokens}};
    print(object);
    return kExitOk;
  }
  const auto line = [](const std::string& file, const TokenWriter::Written& written) {
    fmt::print("{}: {} documents, {} tokens\n", file, written.documents, written.tokens);
  };
  line(arguments.output, report.written);
  if (options.held_out) line(arguments.held_out_output, report.held_out);
  if (report.empty > 0) fmt::print("{} empty documents left out\n", report.empty);
  if (report.skipped > 0) fmt::print("{} unusable lines left out\n", report.skipped);
  fmt::print("{} tokens/s, {}\n", readable_count(rate), readable_seconds(report.seconds));
  return kExitOk;
}

Action define_build(CLI::App& app) {
  auto arguments = std::make_shared<BuildArguments>();
  BuildArguments& a = *arguments;
  BuildOptions& o = a.options;
  app.add_option("--input", a.input,
                 "Text: .jsonl or .txt files, also .gz and .zst; read in this order");
  app.add_option("--tokenized", a.tokenized,
                 "Token ids: jsonl files of {\"input_ids\": [...]} lines, also .gz and .zst");
  app.add_option("--tokenizer", a.tokenizer, "sentencepiece tokenizer.model, or its folder");
  app.add_option("--vocab-size", o.vocabulary_size,
                 "Size of the vocabulary (default: the tokenizer's)")
      ->check(CLI::PositiveNumber);
  app.add_option("--domain", o.domain, "Name of the domain")->required();
  app.add_option("--output", a.output, "The shard to write; its manifest goes to OUTPUT.json")
      ->required();
  app.add_option("--field", o.field, "Field of a jsonl line (default: text, or input_ids)");
  const CLI::Option* separator = app.add_option(
      "--separator", a.separator,
      "Line that parts a .txt file into documents ('' for blank lines; default: one a file)");
  app.add_flag("--bos", o.bos, "Put the tokenizer's BOS id before every document");
  app.add_flag("--eos", o.eos, "Put the tokenizer's EOS id after every document");
  app.add_option("--held-out", a.held_out,
                 "Set apart N documents, or a fraction of them (0.01), chosen by the seed");
  app.add_option("--held-out-output", a.held_out_output, "The shard for the held-out documents");
  app.add_option("--seed", o.seed, "Chooses the held-out documents")->capture_default_str();
  app.add_flag("--skip-bad", o.skip_bad, "Leave out and count lines that cannot be used");
  app.add_option("--threads", o.threads, "Threads that tokenize (default: all cores)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--force", o.force, "Replace existing shards");
  app.add_flag("--json", a.json, "Print the result as one JSON object");
  return [arguments, separator] { return build(*arguments, separator->count() > 0); };
}

struct InspectArguments {
  std::string shard, tokenizer;
  std::int64_t show = 0;
  bool json = false;
};

int inspect(const InspectArguments& arguments) {
  const TokenFile file(arguments.shard);
  const TokenFileInfo& info = file.info();
  std::optional<Tokenizer> tokenizer;
  if (!arguments.tokenizer.empty()) tokenizer = Tokenizer::open(arguments.tokenizer);
  MOE_REQUIRE(!tokenizer || info.tokenizer_hash.empty() || tokenizer->hash() == info.tokenizer_hash,
              arguments.shard, ": made by another tokenizer (", info.tokenizer_hash, ") than ",
              arguments.tokenizer);
  std::int64_t shortest = file.tokens(), longest = 0;
  for (std::int64_t i = 0; i < file.documents(); ++i) {
    const std::int64_t count = file.document(i).count;
    shortest = std::min(shortest, count);
    longest = std::max(longest, count);
  }
  ordered_json object = {{"file", arguments.shard},
                         {"domain", info.domain},
                         {"documents", file.documents()},
                         {"tokens", file.tokens()},
                         {"vocabulary_size", info.vocabulary_size},
                         {"token_bytes", file.token_bytes()},
                         {"bos_id", info.bos_id},
                         {"eos_id", info.eos_id},
                         {"tokenizer_hash", info.tokenizer_hash},
                         {"shortest_document", shortest},
                         {"longest_document", longest}};
  ordered_json shown = ordered_json::array();
  for (std::int64_t i = 0; i < std::min(arguments.show, file.documents()); ++i) {
    const TokenFile::Range range = file.document(i);
    std::vector<std::int32_t> ids(std::size_t(range.count));
    file.read(range.first, ids);
    shown.push_back({{"input_ids", ids}});
    if (tokenizer) shown.back()["text"] = tokenizer->decode(ids);
  }
  if (arguments.json) {
    if (arguments.show > 0) object["shown"] = shown;
    print(object);
    return kExitOk;
  }
  for (const auto& [key, value] : object.items())
    fmt::print("{:18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  for (const auto& document : shown) print(document);
  return kExitOk;
}

Action define_inspect(CLI::App& app) {
  auto arguments = std::make_shared<InspectArguments>();
  app.add_option("shard", arguments->shard, "Token shard")->required();
  app.add_option("--show", arguments->show, "Print the first N documents")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--tokenizer", arguments->tokenizer, "Print their text too");
  app.add_flag("--json", arguments->json, "Print one JSON object");
  return [arguments] { return inspect(*arguments); };
}

struct VerifyArguments {
  std::vector<std::string> shards;
  bool json = false;
};

int verify(const VerifyArguments& arguments) {
  ordered_json all = ordered_json::array();
  for (const std::string& shard : arguments.shards) {
    const TokenFile file(shard);
    Progress progress("checking " + shard, file.tokens(), "tokens");
    file.verify([&](std::int64_t done) { progress.update(done, done); });
    progress.finish();
    if (!arguments.json)
      fmt::print("{}: good ({} documents, {} tokens)\n", shard, file.documents(), file.tokens());
    all.push_back({{"file", shard}, {"documents", file.documents()}, {"tokens", file.tokens()}});
  }
  if (arguments.json) print({{"good", true}, {"shards", all}});
  return kExitOk;
}

Action define_verify(CLI::App& app) {
  auto arguments = std::make_shared<VerifyArguments>();
  app.add_option("shards", arguments->shards, "Token shards")->required();
  app.add_flag("--json", arguments->json, "Print one JSON object");
  return [arguments] { return verify(*arguments); };
}

Action define(CLI::App& app) {
  app.require_subcommand(1);
  Subcommands commands(app);
  commands.add("build", "Write a token shard from text or token ids", define_build);
  commands.add("inspect", "Say what a token shard holds", define_inspect);
  commands.add("verify", "Check every byte of token shards", define_verify);
  return [commands] { return commands.parsed()(); };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run_program(argc, argv, moe::kText, moe::define); }
