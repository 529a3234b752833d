// SPDX-License-Identifier: Apache-2.0
#include "generate/prompts.h"

#include "core/error.h"
#include "data/text_reader.h"

namespace moe {
namespace {

bool is_jsonl(std::filesystem::path file) {
  if (file.extension() == ".gz" || file.extension() == ".zst") file = file.stem();
  return file.extension() == ".jsonl";
}

}  // namespace

std::vector<std::int32_t> prompt_ids(const std::string& text, const Tokenizer& tokenizer,
                                     std::optional<std::int32_t> bos) {
  std::vector<std::int32_t> ids;
  if (bos) ids.push_back(*bos);
  for (const std::int32_t id : tokenizer.encode(text)) ids.push_back(id);
  return ids;
}

std::vector<std::vector<std::int32_t>> read_prompts(const std::filesystem::path& file,
                                                    const Tokenizer* tokenizer,
                                                    std::optional<std::int32_t> bos,
                                                    std::int64_t vocabulary_size) {
  const bool jsonl = is_jsonl(file);
  LineReader lines(file);
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::string line; lines.next(line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    const std::string where = str(file.string(), ":", lines.line_number());
    if (jsonl && line.find("\"prompt_ids\"") != line.npos) {
      prompts.push_back(parse_ids(line, "prompt_ids", vocabulary_size, where));
      continue;
    }
    MOE_REQUIRE(
        tokenizer != nullptr, where,
        ": a prompt of text needs a tokenizer: give --tokenizer, or prompt_ids in a .jsonl");
    prompts.push_back(
        prompt_ids(jsonl ? parse_text(line, "prompt", where) : line, *tokenizer, bos));
  }
  MOE_REQUIRE(!prompts.empty(), file.string(), ": no prompts");
  return prompts;
}

}  // namespace moe
