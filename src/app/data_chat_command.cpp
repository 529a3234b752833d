// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "app/data_commands.h"
#include "core/error.h"

namespace moe {
namespace {

struct ChatArguments {
  BuildOptions options;
  ShardArguments shards;
  std::vector<std::string> input;
  std::string chat, tokenizer, over_long, learn = "assistant";
};

int chat(const ChatArguments& a) {
  BuildOptions options = a.options;
  options.inputs.assign(a.input.begin(), a.input.end());
  a.shards.fill(options);
  MOE_REQUIRE(a.over_long.empty() || options.max_tokens > 0, "--over-long goes with --max-tokens");
  options.truncate = a.over_long == "truncate";
  const Tokenizer tokenizer = Tokenizer::open(a.tokenizer);
  const ChatEncoder encoder(find_chat_template(a.chat), tokenizer, a.learn == "all");
  options.tokenizer = &tokenizer;
  options.chat = &encoder;
  return build_and_report(options, a.shards);
}

}  // namespace

Action define_data_chat(CLI::App& app) {
  auto arguments = std::make_shared<ChatArguments>();
  ChatArguments& a = *arguments;
  BuildOptions& o = a.options;
  o.domain = "chat";
  app.add_option(
         "--input", a.input,
         "Conversations: .jsonl files or .json files of one list, also .gz and .zst. Objects "
         "with messages, conversations (ShareGPT), instruction and output (Alpaca), or "
         "prompt and response")
      ->required();
  app.add_option("--template", a.chat, "A template of configs/chat, or a file like those")
      ->required();
  app.add_option("--tokenizer", a.tokenizer, "The model's tokenizer file, or its folder")
      ->required();
  app.add_option("--vocab-size", o.vocabulary_size,
                 "Size of the vocabulary (default: the tokenizer's)")
      ->check(CLI::PositiveNumber);
  app.add_option("--domain", o.domain, "Name of the domain")->capture_default_str();
  app.add_option("--max-tokens", o.max_tokens, "Conversations of more than N tokens are over-long")
      ->check(CLI::PositiveNumber);
  app.add_option("--over-long", a.over_long,
                 "drop them (default), or truncate them where an answer begins before that")
      ->check(CLI::IsMember({"drop", "truncate"}));
  app.add_option("--learn", a.learn,
                 "assistant: its answers and the ends of its turns; all: every token")
      ->check(CLI::IsMember({"assistant", "all"}))
      ->capture_default_str();
  a.shards.define(app, o);
  return [arguments] { return chat(*arguments); };
}

}  // namespace moe
