// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/data_commands.h"
#include "core/error.h"
#include "core/readable.h"
#include "data/build_shards.h"
#include "data/token_file.h"

namespace moe {
namespace {

using nlohmann::ordered_json;

struct RetokenizeArguments {
  BuildOptions options;
  std::vector<std::string> input;
  std::string from, to, output;
  bool no_bos = false, no_eos = false, json = false;
};

int retokenize(const RetokenizeArguments& a) {
  BuildOptions options = a.options;
  options.inputs.assign(a.input.begin(), a.input.end());
  options.output = a.output;
  const Tokenizer from = Tokenizer::open(a.from), to = Tokenizer::open(a.to);
  options.from = &from;
  options.tokenizer = &to;
  std::int64_t bytes = 0;
  for (const auto& input : options.inputs) {
    const TokenFile file(input);
    bytes += file.tokens() * file.token_bytes();
    if (&input != &options.inputs.front()) continue;
    const TokenFileInfo& info = file.info();
    if (options.domain.empty()) options.domain = info.domain;
    MOE_REQUIRE(!a.no_bos || !options.bos, "--bos and --no-bos contradict each other");
    MOE_REQUIRE(!a.no_eos || !options.eos, "--eos and --no-eos contradict each other");
    options.bos = options.bos || (info.bos_id >= 0 && !a.no_bos);
    options.eos = options.eos || (info.eos_id >= 0 && !a.no_eos);
  }
  Progress progress("tokenizing", bytes, "tokens");
  bool begun = false;
  const BuildReport report = build_shards(options, [&](std::int64_t done, std::int64_t tokens) {
    if (!begun) progress.start_from(done, tokens);
    begun = true;
    progress.update(done, tokens);
  });
  progress.finish();
  if (a.json) {
    ordered_json object = {{"output", a.output},
                           {"domain", options.domain},
                           {"documents", report.written.documents},
                           {"tokens", report.written.tokens},
                           {"empty_documents", report.left_out.empty},
                           {"seconds", report.seconds}};
    std::printf("%s\n", object.dump().c_str());
    return kExitOk;
  }
  for (const BuildReport::Shard& shard : report.shards)
    fmt::print("{}: {} documents, {} tokens\n", shard.path.string(), shard.documents, shard.tokens);
  print_left_out(report.left_out);
  fmt::print("{}\n", readable_seconds(report.seconds));
  return kExitOk;
}

}  // namespace

Action define_data_retokenize(CLI::App& app) {
  auto arguments = std::make_shared<RetokenizeArguments>();
  RetokenizeArguments& a = *arguments;
  BuildOptions& o = a.options;
  app.add_option("--input", a.input, "Token shards of one domain; read in this order")->required();
  app.add_option("--from", a.from, "The tokenizer that made them")->required();
  app.add_option("--to", a.to, "The tokenizer to use instead")->required();
  app.add_option("--output", a.output, "The shard to write; its manifest goes to OUTPUT.json")
      ->required();
  app.add_option("--domain", o.domain, "Name of the domain (default: the inputs')");
  app.add_option("--shard-tokens", o.shard_tokens,
                 "Write several shards, NAME-00000.h5 and so on, of about N tokens each")
      ->check(CLI::PositiveNumber);
  app.add_flag("--bos", o.bos, "Put BOS before every document, also where the inputs have none");
  app.add_flag("--eos", o.eos, "Put EOS after every document, also where the inputs have none");
  app.add_flag("--no-bos", a.no_bos, "Leave BOS out, also where the inputs have it");
  app.add_flag("--no-eos", a.no_eos, "Leave EOS out, also where the inputs have it");
  app.add_option("--threads", o.threads, "Threads (default: all cores)")
      ->check(CLI::PositiveNumber);
  app.add_option("--save-every", o.save_every,
                 "Seconds of work that a kill may cost; the same command goes on from there")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--force", o.force, "Replace existing shards, and unfinished work of other options");
  app.add_flag("--json", a.json, "Print the result as one JSON object");
  return [arguments] { return retokenize(*arguments); };
}

}  // namespace moe
