// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <fstream>
#include <sstream>

#include "core/error.h"
#include "data/checksum.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// How sentencepiece writes a space.
constexpr std::string_view kSpace = "\xe2\x96\x81";

/// Bytes of the UTF-8 character that begins with `lead`; 1 for what cannot begin one.
std::size_t character_length(unsigned char lead) {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 1;
}

}  // namespace

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  std::string hash;

  void check_id(std::int32_t id) const {
    MOE_REQUIRE(id >= 0 && id < processor.GetPieceSize(), "token id ", id,
                " is beyond the tokenizer's vocabulary of ", processor.GetPieceSize());
  }

  std::string decode(const std::vector<int>& ids) const {
    std::string text;
    const auto status = processor.Decode(ids, &text);
    MOE_CHECK(status.ok(), "sentencepiece: ", status.ToString());
    return text;
  }

  /// The byte that a piece like <0xE2> stands for.
  unsigned char byte_of(int id) const {
    return static_cast<unsigned char>(std::stoi(processor.IdToPiece(id).substr(3, 2), nullptr, 16));
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::open(const fs::path& path) {
  const bool folder = fs::is_directory(path);
  const fs::path file = folder ? path / "tokenizer.model" : path;
  std::ifstream in(file, std::ios::binary);
  MOE_REQUIRE(in.is_open(), file.string(), ": cannot open",
              folder && fs::exists(path / "tokenizer.json")
                  ? ": the folder has only a tokenizer.json, which is not read here; take the "
                    "model's tokenizer.model, or tokenize elsewhere and use --tokenized"
                  : ": give a sentencepiece tokenizer.model or the folder that holds it");
  std::ostringstream bytes;
  bytes << in.rdbuf();
  const std::string model = bytes.str();
  auto impl = std::make_unique<Impl>();
  MOE_REQUIRE(!model.empty() && impl->processor.LoadFromSerializedProto(model).ok() &&
                  impl->processor.GetPieceSize() > 0,
              file.string(),
              ": not a sentencepiece model (LLaMA-3's is a tiktoken file); tokenize with the "
              "model's own tokenizer and use --tokenized");
  impl->hash = hex(checksum(model));
  return Tokenizer(std::move(impl));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int> ids;
  const auto status = impl_->processor.Encode({text.data(), text.size()}, &ids);
  MOE_CHECK(status.ok(), "sentencepiece: ", status.ToString());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids) impl_->check_id(id);
  return impl_->decode({ids.begin(), ids.end()});
}

std::int64_t Tokenizer::vocabulary_size() const { return impl_->processor.GetPieceSize(); }
std::int32_t Tokenizer::bos_id() const { return impl_->processor.bos_id(); }
std::int32_t Tokenizer::eos_id() const { return impl_->processor.eos_id(); }
const std::string& Tokenizer::hash() const { return impl_->hash; }

std::string StreamDecoder::push(std::int32_t id) {
  const Tokenizer::Impl& model = *tokenizer_->impl_;
  model.check_id(id);
  if (model.processor.IsByte(id)) {
    const unsigned char byte = model.byte_of(id);
    std::string text;
    if (!byte_ids_.empty() && (byte & 0xc0) != 0x80) text = flush_bytes();
    if (byte_ids_.empty()) expected_ = character_length(byte);
    byte_ids_.push_back(id);
    if (byte_ids_.size() >= expected_) text += flush_bytes();
    return text;
  }
  std::string text = flush_bytes();
  if (model.processor.IsControl(id)) return text;
  if (model.processor.IsUnknown(id)) {
    at_start_ = false;
    return text + model.decode({id});
  }
  std::string_view piece = model.processor.IdToPiece(id);
  if (at_start_ && piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
  at_start_ = false;
  while (!piece.empty()) {
    const std::size_t space = piece.find(kSpace);
    text += piece.substr(0, space);
    if (space == piece.npos) break;
    text += ' ';
    piece.remove_prefix(space + kSpace.size());
  }
  return text;
}

std::string StreamDecoder::finish() { return flush_bytes(); }

std::string StreamDecoder::flush_bytes() {
  if (byte_ids_.empty()) return {};
  const std::string text = tokenizer_->impl_->decode(byte_ids_);
  byte_ids_.clear();
  at_start_ = false;
  return text;
}

}  // namespace moe
