// SPDX-License-Identifier: Apache-2.0
#include "app/generate_requests.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/text_reader.h"
#include "generate/prompts.h"

namespace moe {
namespace {

/// A line of --prompts: a conversation, or {"prompt": ...} for its one question.
Conversation asked_in(const std::string& line, const std::string& where) {
  const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (object.is_object() && object.contains("prompt") && !object.contains("messages") &&
      !object.contains("conversations"))
    return {{{"user", parse_text(line, "prompt", where)}}};
  return parse_conversation(line, where);
}

std::vector<std::int32_t> ask(const ChatEncoder& encoder, Conversation conversation,
                              const std::string& system, const std::string& where) {
  auto& messages = conversation.messages;
  if (!system.empty() && (messages.empty() || messages[0].role != "system"))
    messages.insert(messages.begin(), {"system", system});
  return encoder.prompt(conversation, where);
}

}  // namespace

Requests make_requests(const RequestArguments& a, const Tokenizer* tokenizer,
                       const ModelConfig& model) {
  const auto bos =
      model.bos_token >= 0 ? std::optional(std::int32_t(model.bos_token)) : std::nullopt;
  MOE_REQUIRE(a.system.empty() || !a.chat.empty(), "--system goes with --chat");
  MOE_REQUIRE(a.task.empty() || !a.prompts.empty(),
              "--task needs the file of its records (--prompts)");
  Requests r;
  std::optional<ChatEncoder> encoder;
  if (!a.chat.empty()) {
    MOE_REQUIRE(tokenizer != nullptr, "--chat needs a tokenizer (--tokenizer)");
    encoder.emplace(find_chat_template(a.chat), *tokenizer);
    MOE_REQUIRE(tokenizer->vocabulary_size() <= model.vocab_size, "a tokenizer of ",
                tokenizer->vocabulary_size(), " ids for a model of ", model.vocab_size);
    r.stop_ids = encoder->stop_ids();
    r.stop_texts = encoder->stop_texts();
    r.answer_prefix = encoder->chat().assistant.prefix;
    r.answer_suffix = encoder->chat().assistant.suffix;
  }
  const auto ids_of = [&](const std::string& text, const std::string& where) {
    return encoder ? ask(*encoder, {{{"user", text}}}, a.system, where)
                   : prompt_ids(text, *tokenizer, bos);
  };

  if (!a.task.empty()) {
    MOE_REQUIRE(tokenizer != nullptr, "--task needs a tokenizer (--tokenizer)");
    r.task = find_generation_task(a.task);
    r.records = read_records(a.prompts, {});
    MOE_REQUIRE(!r.records.empty(), a.prompts, ": no records");
    const auto texts =
        generation_prompts(*r.task, r.records, std::filesystem::path(a.prompts).parent_path());
    for (std::size_t i = 0; i < texts.size(); ++i)
      r.prompts.insert(r.prompts.end(), std::size_t(a.samples),
                       ids_of(texts[i], r.records[i].where()));
    r.stop_texts.insert(r.stop_texts.end(), r.task->stop.begin(), r.task->stop.end());
    return r;
  }
  std::vector<std::vector<std::int32_t>> prompts;
  if (!a.prompts.empty() && encoder) {
    DocumentReader reader(a.prompts, std::nullopt);
    MOE_REQUIRE(!reader.plain_text(), a.prompts, ": with --chat prompts are a .jsonl");
    for (RawDocument document; reader.next(document);) {
      const std::string where = str(a.prompts, ":", document.line);
      prompts.push_back(ask(*encoder, asked_in(document.content, where), a.system, where));
    }
    MOE_REQUIRE(!prompts.empty(), a.prompts, ": no prompts");
  } else if (!a.prompts.empty()) {
    prompts = read_prompts(a.prompts, tokenizer, bos, model.vocab_size);
  } else if (!a.prompt_ids.empty()) {
    prompts = {a.prompt_ids};
  } else if (!a.prompt.empty() || encoder) {
    prompts = {ids_of(a.prompt, "--prompt")};
  } else {
    prompts = {bos ? std::vector{*bos} : std::vector<std::int32_t>{}};
  }
  for (auto& prompt : prompts) r.prompts.insert(r.prompts.end(), std::size_t(a.samples), prompt);
  return r;
}

}  // namespace moe
