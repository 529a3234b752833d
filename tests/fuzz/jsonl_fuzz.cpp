// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "data/text_reader.h"

using namespace moe;

/// Input: 't' and a line of jsonl with text, or anything else and a line with token ids. Accepted
/// text is valid UTF-8 and accepted ids are within the vocabulary; anything thrown but InputError
/// is a fault.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  const std::string_view line = input.substr(1);
  try {
    if (input[0] == 't') {
      const std::string text = parse_text(line, "text", "line");
      try {
        check_utf8(text, "line");
      } catch (const InputError& e) {
        throw Error(str("accepted text: ", e.what()));
      }
    } else {
      constexpr std::int64_t kVocabulary = 300;
      for (const std::int32_t id : parse_ids(line, "input_ids", kVocabulary, "line"))
        MOE_CHECK(id >= 0 && id < kVocabulary, "accepted id ", id);
    }
  } catch (const InputError&) {
  }
  return 0;
}
