// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/app.h"
#include "app/data_commands.h"
#include "core/error.h"
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
  moe-data build --raw SlimPajama/*.jsonl.zst --tokenizer models/llama-2-7b --bos
           --held-out 0.001 --shard-tokens 1000000000 --output data/slimpajama
  moe-data build --tokenized ids.jsonl --vocab-size 32000 --domain code --output code.h5
  moe-data chat --input openhermes.jsonl.gz sharegpt.json --template llama3 --tokenizer
           models/llama-3-8b --domain chat --max-tokens 4096 --output data/chat.h5
  moe-data retokenize --input data/wiki.h5 --from models/llama-2-7b --to models/llama-3-8b
           --output data/wiki-llama3.h5
  moe-data shuffle --input data/wiki-*.h5 --output data/wiki-shuffled.h5 --shard-tokens 1000000000
  moe-data stats data/*.h5
  moe-data inspect data/wiki.h5 --json
  moe-data inspect data/wiki.h5 --show 2 --tokenizer models/llama-2-7b
  moe-data verify data/*.h5)"};

void print(const ordered_json& object) { std::printf("%s\n", object.dump().c_str()); }

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
                         {"longest_document", longest},
                         {"learned_tokens", file.learned_tokens()}};
  ordered_json shown = ordered_json::array();
  for (std::int64_t i = 0; i < std::min(arguments.show, file.documents()); ++i) {
    const TokenFile::Range range = file.document(i);
    std::vector<std::int32_t> ids(std::size_t(range.count));
    file.read(range.first, ids);
    shown.push_back({{"input_ids", ids}});
    if (info.masked) {
      std::vector<std::uint8_t> learned(ids.size());
      file.read_learned(range.first, learned);
      shown.back()["learned"] = learned;
    }
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
  commands.add("build", "Write token shards from text or token ids", define_data_build);
  commands.add("chat", "Write token shards from conversations, which learn the answers only",
               define_data_chat);
  commands.add("split-raw", "Part raw jsonl files into a folder for each domain",
               define_data_split_raw);
  commands.add("retokenize", "Turn token shards of one tokenizer into those of another",
               define_data_retokenize);
  commands.add("merge", "Put token shards together", define_data_merge);
  commands.add("cut", "Cut token shards into smaller ones", define_data_cut);
  commands.add("shuffle", "Put the documents of token shards into a random order",
               define_data_shuffle);
  commands.add("select", "Take the documents on which a model's loss is within bounds",
               define_data_select);
  commands.add("stats", "Say how many documents and tokens each domain has, and how long they are",
               define_data_stats);
  commands.add("inspect", "Say what a token shard holds", define_inspect);
  commands.add("verify", "Check every byte of token shards", define_verify);
  return [commands] { return commands.parsed()(); };
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) { return moe::run_program(argc, argv, moe::kText, moe::define); }
