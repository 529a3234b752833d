// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/tokenizer_model.h"

using namespace moe;

namespace {

/// What is read may refuse a text, but not crash, nor give an id that it does not have.
void encode(const TokenizerModel& model, std::string_view text) {
  if (text.empty()) return;
  std::vector<std::int32_t> ids;
  model.encoder->encode(text, ids);
  for (const std::int32_t id : ids)
    MOE_CHECK(id >= 0 && std::size_t(id) < model.tokens.size(), "id ", id);
}

/// A tiktoken file of the 256 bytes, and of the pairs that `merges` has.
TokenizerModel bytes_and(std::string_view merges) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string file;
  int rank = 0;
  for (unsigned byte = 0; byte < 256; ++byte)
    file += str(kDigits[byte >> 2], kDigits[(byte & 3) << 4], "== ", rank++, '\n');
  std::vector<bool> seen(65536);
  for (std::size_t i = 0; i + 1 < merges.size(); i += 2) {
    const unsigned a = static_cast<unsigned char>(merges[i]);
    const unsigned b = static_cast<unsigned char>(merges[i + 1]);
    if (seen[a << 8 | b]) continue;
    seen[a << 8 | b] = true;
    file += str(kDigits[a >> 2], kDigits[(a & 3) << 4 | b >> 4], kDigits[(b & 15) << 2], "= ",
                rank++, '\n');
  }
  return read_tiktoken("fuzz", file);
}

}  // namespace

/// Input: 'j' and a tokenizer.json, 't' and a tiktoken file, each with a text to encode behind the
/// first zero byte; or anything else and a text, whose first bytes say what is merged. Anything
/// thrown but InputError is a fault, and so is a text that does not come back.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  const std::string_view rest = input.substr(1);
  const std::size_t zero = std::min(rest.find('\0'), rest.size());
  const std::string_view text = rest.substr(std::min(zero + 1, rest.size()));
  try {
    if (input[0] == 'j') {
      encode(read_tokenizer_json("/absent/fuzz", std::string(rest.substr(0, zero))), text);
    } else if (input[0] == 't') {
      encode(read_tiktoken("fuzz", rest.substr(0, zero)), text);
    } else {
      const TokenizerModel model = bytes_and(rest.substr(0, 20));
      std::vector<std::int32_t> ids;
      std::string expected, decoded;
      append_utf8(rest, Replace::each_byte, false, expected);
      if (!rest.empty()) model.encoder->encode(rest, ids);
      for (const std::int32_t id : ids) decoded += model.tokens.at(std::size_t(id)).text;
      MOE_CHECK(decoded == expected, "the text does not come back");
    }
  } catch (const InputError&) {
  }
  return 0;
}
