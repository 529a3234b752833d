// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "hf/hf_config.h"
#include "hf/safetensors.h"

namespace {

using namespace moe;

/// Every accepted header covers its data exactly, whatever the input was.
void read_header(std::string_view text) {
  if (text.size() < 4) return;
  std::int64_t data_bytes = 0;
  for (const char digit : text.substr(0, 4)) data_bytes = 10 * data_bytes + (digit & 15) % 10;
  const SafetensorsHeader header = parse_safetensors_header(text.substr(4), data_bytes, "file");
  std::int64_t end = 0;
  for (const SafetensorsEntry& e : header.entries) {
    MOE_CHECK(e.offset == end && e.bytes >= 0, "entries overlap");
    end += e.bytes;
  }
  MOE_CHECK(end == data_bytes, "the data are not covered");
  for (const SafetensorsEntry& e : header.entries) float_dtype_of(e, "file");
}

/// Every accepted config.json is a valid model, and writing it and reading it again changes
/// nothing.
void read_config(std::string_view text) {
  const HfConfig read = parse_hf_config(text, "config.json");
  read.config.validate();
  if (read.config.layers > 16) return;
  require_representable(read.config, read.format);
  const std::string written = hf_config_json(read.config, read.format, DType::bf16);
  const HfConfig again = parse_hf_config(written, "written");
  MOE_CHECK(hf_config_json(again.config, again.format, DType::bf16) == written, "not the same");
}

}  // namespace

/// Input: 'h', four digits (bytes of the data section) and a safetensors header, or 'c' and a
/// config.json. Anything thrown but InputError is a fault.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.empty()) return 0;
  try {
    text[0] == 'h' ? read_header(text.substr(1)) : read_config(text.substr(1));
  } catch (const InputError&) {
  }
  return 0;
}
