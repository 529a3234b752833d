// SPDX-License-Identifier: Apache-2.0
#include "data/token_format.h"

#include <array>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "data/checksum.h"

namespace moe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const json& field(const json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  MOE_REQUIRE(it != object.end(), where, ": '", key, "' is missing; build the shard again");
  return *it;
}

std::int64_t count_field(const json& object, const char* key, const std::string& where) {
  const json& value = field(object, key, where);
  MOE_REQUIRE(value.is_number_unsigned() && value.get<std::uint64_t>() < (1ull << 60), where, ": '",
              key, "' is no count; build the shard again");
  return value.get<std::int64_t>();
}

/// An id, or -1 for none.
std::int32_t id_field(const json& object, const char* key, const std::string& where) {
  const json& value = field(object, key, where);
  MOE_REQUIRE(value.is_number_integer() && value.get<std::int64_t>() >= -1 &&
                  value.get<std::int64_t>() <= INT32_MAX,
              where, ": '", key, "' is no token id; build the shard again");
  return value.get<std::int32_t>();
}

std::string text_field(const json& object, const char* key, const std::string& where) {
  const json& value = field(object, key, where);
  MOE_REQUIRE(value.is_string(), where, ": '", key, "' is no text; build the shard again");
  return value.get<std::string>();
}

std::int64_t version_of(const TokenManifest& m) {
  return m.learned ? kMaskedFormatVersion : kTokenFormatVersion;
}

/// Bytes [first, end) of a file.
struct Bytes {
  std::int64_t first, end;
};

/// The data that the metadata lies around, in the order of the file.
std::array<Bytes, 2> data_of(const TokenManifest& m) {
  const Bytes tokens{m.token_offset, m.token_offset + m.tokens * m.token_bytes};
  if (!m.learned) return {tokens, {tokens.end, tokens.end}};
  const Bytes mask{m.learned->offset, m.learned->offset + m.tokens};
  return mask.first < tokens.first ? std::array{mask, tokens} : std::array{tokens, mask};
}

}  // namespace

std::string to_json(const TokenManifest& m) {
  nlohmann::ordered_json object = {
      {"format", kTokenFormatName},   {"format_version", version_of(m)},
      {"domain", m.domain},           {"documents", m.documents},
      {"tokens", m.tokens},           {"vocabulary_size", m.vocabulary_size},
      {"token_bytes", m.token_bytes}, {"token_offset", m.token_offset},
      {"file_size", m.file_size},     {"metadata_checksum", hex(m.metadata_checksum)}};
  if (m.tokenizer)
    object["tokenizer"] = {{"hash", m.tokenizer->hash},
                           {"bos_id", m.tokenizer->bos_id},
                           {"eos_id", m.tokenizer->eos_id}};
  if (m.learned) object["learned"] = {{"offset", m.learned->offset}, {"tokens", m.learned->tokens}};
  return object.dump(2) + "\n";
}

TokenManifest read_manifest(const fs::path& shard) {
  const fs::path path = manifest_path(shard);
  const std::string where = path.string();
  std::ifstream in(path, std::ios::binary);
  MOE_REQUIRE(in.is_open(), shard.string(), ": its manifest ", where,
              " is missing: the shard is incomplete or was copied without it; copy both, or build "
              "the shard again");
  std::ostringstream bytes;
  bytes << in.rdbuf();
  const json object = json::parse(bytes.str(), nullptr, /*allow_exceptions=*/false);
  MOE_REQUIRE(object.is_object(), where, ": not a JSON object; build the shard again");
  MOE_REQUIRE(text_field(object, "format", where) == kTokenFormatName, where,
              ": not the manifest of a token shard");
  const std::int64_t version = count_field(object, "format_version", where);
  MOE_REQUIRE(version == kTokenFormatVersion || version == kMaskedFormatVersion, where,
              ": format version ", version, ", this program reads ", kTokenFormatVersion, " and ",
              kMaskedFormatVersion, "; build the shard again");

  TokenManifest m;
  m.file_size = count_field(object, "file_size", where);
  m.token_offset = count_field(object, "token_offset", where);
  m.tokens = count_field(object, "tokens", where);
  m.token_bytes = count_field(object, "token_bytes", where);
  m.documents = count_field(object, "documents", where);
  m.vocabulary_size = count_field(object, "vocabulary_size", where);
  m.domain = text_field(object, "domain", where);
  if (const auto it = object.find("tokenizer"); it != object.end()) {
    MOE_REQUIRE(it->is_object(), where, ": 'tokenizer' is no object; build the shard again");
    m.tokenizer = {text_field(*it, "hash", where), id_field(*it, "bos_id", where),
                   id_field(*it, "eos_id", where)};
  }
  if (const auto it = object.find("learned"); it != object.end()) {
    MOE_REQUIRE(it->is_object(), where, ": 'learned' is no object; build the shard again");
    m.learned = {count_field(*it, "offset", where), count_field(*it, "tokens", where)};
  }
  const std::string digits = text_field(object, "metadata_checksum", where);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), m.metadata_checksum, 16);
  MOE_REQUIRE(error == std::errc{} && end == digits.data() + digits.size(), where,
              ": 'metadata_checksum' is no hexadecimal number; build the shard again");
  MOE_REQUIRE(m.vocabulary_size > 0 && m.token_bytes == token_bytes_for(m.vocabulary_size) &&
                  m.tokens <= m.file_size && m.token_offset <= m.file_size &&
                  m.tokens * m.token_bytes <= m.file_size - m.token_offset &&
                  (!m.learned || (m.learned->tokens <= m.tokens &&
                                  m.learned->offset <= m.file_size - m.tokens)) &&
                  data_of(m)[0].end <= data_of(m)[1].first && version == version_of(m),
              where, ": its numbers contradict each other; build the shard again");
  return m;
}

std::uint64_t metadata_checksum(const std::byte* file, const TokenManifest& m) {
  Checksum sum;
  std::int64_t at = 0;
  for (const Bytes& data : data_of(m)) {
    sum.update(file + at, std::size_t(data.first - at));
    at = data.end;
  }
  sum.update(file + at, std::size_t(m.file_size - at));
  return sum.value();
}

}  // namespace moe
