// SPDX-License-Identifier: Apache-2.0
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "data/byte_pair_tokenizer.h"

namespace moe {
namespace {

using sentencepiece::SentencePieceProcessor;

/// How sentencepiece writes a space.
constexpr const char* kSpace = "\xe2\x96\x81";

/// What decides whether a model is one that BytePairTokenizer computes; the defaults are those of
/// sentencepiece_model.proto.
struct Settings {
  std::uint64_t model_type = 1;
  bool suffix_spaces = false;
  bool byte_fallback = false;
  bool plain_normalizer = true;  // changes no characters
  bool plain_denormalizer = true;
  bool prefix_space = true;
  bool removes_extra_spaces = true;
  bool escapes_spaces = true;
  bool user_pieces = false;
};

/// The fields of a serialized protocol buffer, which the library has parsed before.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}

  struct Field {
    std::uint64_t number;
    std::uint64_t value = 0;  // of a varint
    std::string_view bytes;   // of text and messages
  };

  std::optional<Field> next() {
    if (bytes_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    Field field{.number = tag >> 3, .bytes = {}};
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        MOE_CHECK(false, "sentencepiece model: wire type ", tag & 7);
    }
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw Error("sentencepiece model: a number that does not end");
  }

  std::string_view take(std::uint64_t count) {
    MOE_CHECK(count <= bytes_.size(), "sentencepiece model: cut short");
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }

  std::string_view bytes_;
};

Settings settings_of(std::string_view model) {
  Settings s;
  Fields fields(model);
  while (const auto field = fields.next()) {
    Fields inner(field->bytes);
    while (const auto f = field->number == 1 ? inner.next() : std::nullopt)  // SentencePiece
      if (f->number == 3) s.user_pieces |= f->value == 4;
    while (const auto f = field->number == 2 ? inner.next() : std::nullopt) {  // TrainerSpec
      if (f->number == 3) s.model_type = f->value;
      if (f->number == 24) s.suffix_spaces = f->value != 0;
      if (f->number == 35) s.byte_fallback = f->value != 0;
    }
    while (const auto f = field->number == 3 ? inner.next() : std::nullopt) {  // NormalizerSpec
      if (f->number == 2) s.plain_normalizer = f->bytes.empty();
      if (f->number == 3) s.prefix_space = f->value != 0;
      if (f->number == 4) s.removes_extra_spaces = f->value != 0;
      if (f->number == 5) s.escapes_spaces = f->value != 0;
    }
    while (const auto f = field->number == 5 ? inner.next() : std::nullopt)  // the denormalizer's
      if (f->number == 2) s.plain_denormalizer = f->bytes.empty();
  }
  return s;
}

/// The library itself, for models that are not computed here.
class LibraryEncoder : public TextEncoder {
 public:
  explicit LibraryEncoder(std::unique_ptr<SentencePieceProcessor> processor)
      : processor_(std::move(processor)) {}

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    std::vector<int> found;
    const auto status = processor_->Encode({text.data(), text.size()}, &found);
    MOE_CHECK(status.ok(), "sentencepiece: ", status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
  }

 private:
  std::unique_ptr<SentencePieceProcessor> processor_;
};

/// The byte that a piece like <0xE2> stands for.
unsigned char byte_of(const std::string& piece) {
  return static_cast<unsigned char>(std::stoi(piece.substr(3, 2), nullptr, 16));
}

std::size_t characters_in(const std::string& text) {
  return std::size_t(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_utf8_continuation(c); }));
}

/// The merges of a BPE model, or nothing where it has what only the library computes: other
/// settings, pieces that users defined, characters that only longer pieces have.
std::optional<BytePairVocabulary> vocabulary_of(const SentencePieceProcessor& processor,
                                                const Settings& s) {
  constexpr std::uint64_t kBpe = 2;
  if (s.model_type != kBpe || s.suffix_spaces || !s.byte_fallback || !s.plain_normalizer ||
      s.removes_extra_spaces || !s.escapes_spaces || s.user_pieces)
    return std::nullopt;
  BytePairVocabulary v;
  v.alphabet = BytePairVocabulary::Alphabet::characters;
  v.bytes.fill(-1);
  std::unordered_map<std::string, std::int32_t> pieces;
  std::vector<std::int32_t> by_score;
  for (std::int32_t id = 0; id < processor.GetPieceSize(); ++id) {
    const std::string& piece = v.texts.emplace_back(processor.IdToPiece(id));
    if (processor.IsByte(id)) {
      v.bytes[byte_of(piece)] = id;
    } else if (!processor.IsControl(id) && !processor.IsUnknown(id)) {
      if (processor.IsUnused(id) || piece.empty() || !std::isfinite(processor.GetScore(id)) ||
          valid_utf8_prefix(piece) != piece.size())
        return std::nullopt;
      pieces.emplace(piece, id);
      if (characters_in(piece) == 1)
        v.characters.emplace(utf8_character(piece.data()), id);
      else
        by_score.push_back(id);
    }
  }
  std::stable_sort(by_score.begin(), by_score.end(), [&](std::int32_t a, std::int32_t b) {
    return processor.GetScore(a) > processor.GetScore(b);
  });
  std::int32_t rank = 0;
  for (std::size_t i = 0; i < by_score.size(); ++i) {
    const std::int32_t id = by_score[i];
    if (i > 0 && processor.GetScore(id) != processor.GetScore(by_score[i - 1])) ++rank;
    const std::string& piece = v.texts[std::size_t(id)];
    for (std::size_t cut = 0; cut < piece.size(); cut += utf8_length(piece[cut])) {
      if (!v.characters.contains(utf8_character(piece.data() + cut))) return std::nullopt;
      if (cut == 0) continue;
      const auto left = pieces.find(piece.substr(0, cut));
      const auto right = pieces.find(piece.substr(cut));
      if (left != pieces.end() && right != pieces.end())
        v.merges.push_back({left->second, right->second, rank, id});
    }
  }
  return v;
}

}  // namespace

TokenizerModel read_sentencepiece(const std::filesystem::path& file, const std::string& content) {
  auto processor = std::make_unique<SentencePieceProcessor>();
  MOE_REQUIRE(processor->LoadFromSerializedProto(content).ok() && processor->GetPieceSize() > 0,
              file.string(),
              ": neither a sentencepiece model nor a tiktoken file of LLaMA-3's form "
              "(lines of base64 and rank)");
  const Settings settings = settings_of(content);
  MOE_REQUIRE(!settings.suffix_spaces && settings.plain_denormalizer, file.string(),
              ": a sentencepiece model with a denormalizer, or with spaces behind words, is not "
              "supported");
  TokenizerModel model;
  std::vector<TextNormalizer::Step> steps(1, TextNormalizer::Replace{kSpace, " "});
  const TextNormalizer to_space(steps);
  TextNormalizer::Scratch scratch;
  for (std::int32_t id = 0; id < processor->GetPieceSize(); ++id) {
    const std::string& piece = processor->IdToPiece(id);
    Token& token = model.tokens.emplace_back();
    if (processor->IsControl(id)) {
      model.special_ids.emplace(piece, id);
    } else if (processor->IsUnknown(id)) {
      model.special_ids.emplace(piece, id);
      token.kind = Token::Kind::verbatim;
      MOE_CHECK(processor->Decode(std::vector<int>{id}, &token.text).ok(),
                "sentencepiece: unknown");
    } else if (processor->IsByte(id)) {
      token = {Token::Kind::verbatim, std::string(1, char(byte_of(piece)))};
    } else {
      token = {Token::Kind::text, std::string(to_space.apply(piece, true, scratch))};
    }
  }
  model.bos_id = processor->bos_id();
  model.eos_id = processor->eos_id();
  model.drops_first_space = settings.prefix_space || settings.removes_extra_spaces;
  model.replace = Replace::each_byte;
  if (auto vocabulary = vocabulary_of(*processor, settings)) {
    steps.clear();
    if (settings.prefix_space) steps.push_back(TextNormalizer::Prepend{kSpace});
    steps.push_back(TextNormalizer::Replace{" ", kSpace});
    model.encoder = std::make_unique<BytePairTokenizer>(
        BytePairParts{.added = {},
                      .normalizer = TextNormalizer(std::move(steps)),
                      .added_normalized = {},
                      .preparation = TextNormalizer({}),
                      .pretokenizer = Pretokenizer({}),
                      .vocabulary = std::move(*vocabulary)});
  } else {
    model.encoder = std::make_unique<LibraryEncoder>(std::move(processor));
  }
  return model;
}

}  // namespace moe
