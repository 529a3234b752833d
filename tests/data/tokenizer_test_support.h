// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>

#include "data/data_test_support.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

namespace moe {

/// The ids decoded one by one. No piece may end, nor begin, inside a character.
inline std::string streamed(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_EQ(valid_utf8_prefix(piece), piece.size());
    text += piece;
  }
  return text + decoder.finish();
}

/// The texts of all documents of redpajama_sample.
inline std::vector<std::string> redpajama_sample() {
  std::vector<std::string> texts;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(real_data("corpus/redpajama_sample"))) {
    if (entry.path().extension() != ".jsonl") continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);)
      texts.push_back(parse_text(line, "text", entry.path().string()));
  }
  return texts;
}

}  // namespace moe
