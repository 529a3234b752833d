// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>

#include "data/chat_encoder.h"
#include "data/data_test_support.h"

namespace moe {

inline std::filesystem::path chat_template_file(const std::string& name) {
  return std::filesystem::path(MOE_SOURCE_DIR) / "configs/chat" / (name + ".yaml");
}

inline Tokenizer tiny_tokenizer(const std::string& file) {
  return Tokenizer::open(std::filesystem::path(MOE_SOURCE_DIR) / "tests/data/tokenizers" / file);
}

/// The text of the ids, special tokens by their names, what is learned between { and }.
inline std::string marked(const ChatEncoder::Encoded& encoded, const Tokenizer& tokenizer,
                          const ChatTemplate& chat) {
  std::map<std::int32_t, std::string> names;
  if (tokenizer.bos_id() >= 0) names[tokenizer.bos_id()] = "{bos}";
  if (tokenizer.eos_id() >= 0) names[tokenizer.eos_id()] = "{eos}";
  for (const std::string& name : chat.special_tokens)
    if (const auto id = tokenizer.special_id(name)) names[*id] = name;
  EXPECT_EQ(encoded.ids.size(), encoded.learned.size());
  StreamDecoder decoder(tokenizer);
  std::string text;
  bool learned = false;
  for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
    if (learned != (encoded.learned[i] != 0)) text += learned ? "}" : "{";
    learned = encoded.learned[i] != 0;
    const auto name = names.find(encoded.ids[i]);
    text += decoder.push(encoded.ids[i]);
    if (name != names.end()) text += name->second;
  }
  return text + decoder.finish() + (learned ? "}" : "");
}

}  // namespace moe
