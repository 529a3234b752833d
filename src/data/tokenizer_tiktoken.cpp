// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "data/byte_pair_tokenizer.h"

namespace moe {
namespace {

// The file has the ranks only: how text is cut into words and what the special ids are called is
// LLaMA-3's own (meta-llama/llama-models, models/llama3/tokenizer.py).
constexpr const char* kWords =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::int32_t kSpecials = 256;
constexpr std::size_t kLongest = 4096;  // bytes of a token; LLaMA-3's longest has 128
constexpr std::array kNamed = {"<|begin_of_text|>",
                               "<|end_of_text|>",
                               "<|reserved_special_token_0|>",
                               "<|reserved_special_token_1|>",
                               "<|finetune_right_pad_id|>",
                               "<|reserved_special_token_2|>",
                               "<|start_header_id|>",
                               "<|end_header_id|>",
                               "<|eom_id|>",
                               "<|eot_id|>",
                               "<|python_tag|>"};
constexpr int kReservedAmongNamed = 3;

/// Models that come as such files and cut text otherwise.
struct Other {
  std::size_t ranks;
  const char* name;
};
constexpr std::array kOthers = {Other{50256, "GPT-2"}, Other{50280, "p50k_base"},
                                Other{100256, "cl100k_base"}, Other{151643, "Qwen"},
                                Other{199998, "o200k_base"}};

std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool pad = i >= text.size() - padding;
    const int value = pad                    ? 0
                      : c >= 'A' && c <= 'Z' ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | std::uint32_t(value);
    if (i % 4 == 3)
      for (const int shift : {16, 8, 0}) bytes += char(bits >> shift & 0xff);
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

/// The texts by rank.
std::vector<std::string> read_ranks(const std::string& file, std::string_view content) {
  std::vector<std::string> texts;
  std::size_t line_number = 0;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t end = std::min(content.find('\n', at), content.size());
    std::string_view line = content.substr(at, end - at);
    at = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    const std::optional<std::string> text = from_base64(line.substr(0, space));
    MOE_REQUIRE(text, file, " line ", line_number, ": no base64 before a space");
    const std::string_view number = space == line.npos ? "" : line.substr(space + 1);
    std::size_t rank = 0;
    const auto [rest, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
    MOE_REQUIRE(error == std::errc() && rest == number.data() + number.size(), file, " line ",
                line_number, ": no rank behind the base64");
    MOE_REQUIRE(rank == texts.size(), file, " line ", line_number, ": rank ", rank, ", not ",
                texts.size(), ": ranks count from 0, one a line");
    MOE_REQUIRE(text->size() <= kLongest, file, " line ", line_number, ": a token of ",
                text->size(), " bytes: ", kLongest, " at most");
    texts.push_back(*text);
  }
  return texts;
}

std::string special_name(std::int32_t index) {
  if (index < std::int32_t(kNamed.size())) return kNamed[std::size_t(index)];
  return str("<|reserved_special_token_", index - std::int32_t(kNamed.size()) + kReservedAmongNamed,
             "|>");
}

}  // namespace

TokenizerModel read_tiktoken(const std::filesystem::path& file, std::string_view content) {
  const std::string name = file.string();
  const std::vector<std::string> texts = read_ranks(name, content);
  for (const Other& other : kOthers)
    MOE_REQUIRE(texts.size() != other.ranks, name, ": a tiktoken file of ", other.ranks,
                " ranks is ", other.name,
                "'s, and only LLaMA-3's are read: take the model's "
                "tokenizer.json");
  BytePairVocabulary vocabulary;
  for (std::size_t rank = 0; rank < texts.size(); ++rank)
    MOE_REQUIRE(vocabulary.words.emplace(texts[rank], std::int32_t(rank)).second, name, ": ranks ",
                vocabulary.words.at(texts[rank]), " and ", rank, " have the same bytes");
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary.words.find(std::string(1, char(byte)));
    MOE_REQUIRE(found != vocabulary.words.end(), name, ": byte ", byte, " has no rank");
    vocabulary.bytes[std::size_t(byte)] = found->second;
  }
  // Whatever two texts make a third one is a merge, of that one's rank.
  for (std::size_t rank = 0; rank < texts.size(); ++rank)
    for (std::size_t cut = 1; cut < texts[rank].size(); ++cut) {
      const auto left = vocabulary.words.find(texts[rank].substr(0, cut));
      if (left == vocabulary.words.end()) continue;
      const auto right = vocabulary.words.find(texts[rank].substr(cut));
      if (right == vocabulary.words.end()) continue;
      vocabulary.merges.push_back(
          {left->second, right->second, std::int32_t(rank), std::int32_t(rank)});
    }

  TokenizerModel model;
  for (const std::string& text : texts) model.tokens.push_back({Token::Kind::text, text});
  for (std::int32_t i = 0; i < kSpecials; ++i) {
    model.special_ids.emplace(special_name(i), std::int32_t(model.tokens.size()));
    model.tokens.emplace_back();
  }
  model.bos_id = model.special_ids.at(kNamed[0]);
  model.eos_id = model.special_ids.at(kNamed[1]);
  std::vector<Split> splits;
  splits.push_back({.pattern = Regex(kWords, name)});
  model.encoder = std::make_unique<BytePairTokenizer>(
      BytePairParts{.added = {},
                    .normalizer = TextNormalizer({}),
                    .added_normalized = {},
                    .preparation = TextNormalizer({}),
                    .pretokenizer = Pretokenizer(std::move(splits)),
                    .vocabulary = std::move(vocabulary)});
  return model;
}

}  // namespace moe
