// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "data/checksum.h"
#include "data/tokenizer_model.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

/// A JSON object begins with a brace and a quote; sentencepiece's files never do.
bool is_json(std::string_view content) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t brace = content.find_first_not_of(kSpace);
  if (brace == content.npos || content[brace] != '{') return false;
  const std::size_t next = content.find_first_not_of(kSpace, brace + 1);
  return next != content.npos && (content[next] == '"' || content[next] == '}');
}

/// A first line of base64, a space and a number.
bool is_tiktoken(std::string_view content) {
  const std::string_view line = content.substr(0, std::min(content.find('\n'), content.size()));
  const std::size_t space = line.find(' ');
  const auto all = [](std::string_view text, auto&& good) {
    return !text.empty() && std::all_of(text.begin(), text.end(), good);
  };
  return space != line.npos &&
         all(line.substr(0, space),
             [](unsigned char c) { return std::isalnum(c) || c == '+' || c == '/' || c == '='; }) &&
         all(line.substr(space + 1), [](unsigned char c) { return std::isdigit(c) || c == '\r'; });
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerModel model;
  std::string hash;

  const Token& token(std::int32_t id) const {
    MOE_REQUIRE(id >= 0 && std::size_t(id) < model.tokens.size(), "token id ", id,
                " is beyond the tokenizer's vocabulary of ", model.tokens.size());
    return model.tokens[std::size_t(id)];
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::optional<fs::path> Tokenizer::find(const fs::path& folder) {
  for (const char* name : {"tokenizer.model", "tokenizer.json"})
    if (fs::exists(folder / name)) return folder / name;
  return std::nullopt;
}

Tokenizer Tokenizer::open(const fs::path& path) {
  fs::path file = path;
  if (fs::is_directory(path)) {
    const std::optional<fs::path> found = find(path);
    MOE_REQUIRE(found, path.string(),
                ": the folder has neither a tokenizer.model nor a tokenizer.json");
    file = *found;
  }
  std::ifstream in(file, std::ios::binary);
  MOE_REQUIRE(in.is_open(), file.string(),
              ": cannot open: give a tokenizer.model, a tokenizer.json, or a folder with one");
  std::ostringstream bytes;
  bytes << in.rdbuf();
  const std::string content = bytes.str();
  MOE_REQUIRE(!content.empty(), file.string(), ": empty: not a tokenizer");
  auto impl = std::make_unique<Impl>();
  impl->model = is_json(content)       ? read_tokenizer_json(file, content)
                : is_tiktoken(content) ? read_tiktoken(file, content)
                                       : read_sentencepiece(file, content);
  impl->hash = hex(checksum(content));
  return Tokenizer(std::move(impl));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  if (!text.empty()) impl_->model.encoder->encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

std::int64_t Tokenizer::vocabulary_size() const { return std::int64_t(impl_->model.tokens.size()); }
std::int32_t Tokenizer::bos_id() const { return impl_->model.bos_id; }
std::int32_t Tokenizer::eos_id() const { return impl_->model.eos_id; }
const std::string& Tokenizer::hash() const { return impl_->hash; }

std::optional<std::int32_t> Tokenizer::special_id(std::string_view text) const {
  const auto found = impl_->model.special_ids.find(std::string(text));
  if (found == impl_->model.special_ids.end()) return std::nullopt;
  return found->second;
}

std::string StreamDecoder::push(std::int32_t id) {
  const TokenizerModel& model = tokenizer_->impl_->model;
  const Token& token = tokenizer_->impl_->token(id);
  if (token.kind == Token::Kind::special) return finish();
  std::string_view piece = token.text;
  if (at_start_ && model.drops_first_space && token.kind == Token::Kind::text &&
      piece.starts_with(' '))
    piece.remove_prefix(1);
  at_start_ = false;
  bytes_ += piece;
  std::string text;
  bytes_.erase(0, append_utf8(bytes_, model.replace, true, text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_utf8(bytes_, tokenizer_->impl_->model.replace, false, text);
  bytes_.clear();
  return text;
}

}  // namespace moe
