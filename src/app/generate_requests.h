// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "data/chat_encoder.h"
#include "data/tokenizer.h"
#include "eval/generation_task.h"

namespace moe {

/// What moe-generate is to continue, as its options say it.
struct RequestArguments {
  std::string prompt, prompts, chat, system, task;
  std::vector<std::int32_t> prompt_ids;
  std::int64_t samples = 1;
};

/// The prompts, and what follows from a chat template or a task of generation.
struct Requests {
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<std::int32_t> stop_ids;
  std::vector<std::string> stop_texts;
  std::string answer_prefix, answer_suffix;  // of the template's, no part of an answer
  std::optional<GenerationTask> task;
  std::vector<Record> records;  // of the task; prompt p is of record p / samples
};

/// Reads prompts from the options and the files that they name. `tokenizer` may be null where all
/// are ids. Throws InputError, naming file and line.
Requests make_requests(const RequestArguments& arguments, const Tokenizer* tokenizer,
                       const ModelConfig& model);

}  // namespace moe
