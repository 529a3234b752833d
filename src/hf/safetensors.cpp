// SPDX-License-Identifier: Apache-2.0
#include "hf/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hf/json_check.h"

namespace moe {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();

struct KnownType {
  const char* name;
  std::int64_t bytes;
};
constexpr std::array kKnownTypes = {
    KnownType{"F64", 8}, KnownType{"F32", 4},     KnownType{"F16", 2},     KnownType{"BF16", 2},
    KnownType{"I64", 8}, KnownType{"I32", 4},     KnownType{"I16", 2},     KnownType{"I8", 1},
    KnownType{"U64", 8}, KnownType{"U32", 4},     KnownType{"U16", 2},     KnownType{"U8", 1},
    KnownType{"C64", 8}, KnownType{"F8_E4M3", 1}, KnownType{"F8_E5M2", 1}, KnownType{"BOOL", 1},
};

/// A non-negative integer that fits in 63 bits.
bool is_count(const nlohmann::json& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() <= std::uint64_t(kMaxBytes);
}

SafetensorsEntry parse_entry(const std::string& name, const nlohmann::json& value,
                             const std::string& where) {
  const std::string at = str(where, ": tensor '", name, "': ");
  MOE_REQUIRE(value.is_object(), at, "its description is no JSON object");
  for (const char* key : {"dtype", "shape", "data_offsets"})
    MOE_REQUIRE(value.contains(key), at, "has no ", key);
  MOE_REQUIRE(value.size() == 3, at, "has keys besides dtype, shape and data_offsets");
  const nlohmann::json &dtype = value["dtype"], &shape = value["shape"],
                       &offsets = value["data_offsets"];

  MOE_REQUIRE(dtype.is_string(), at, "dtype is no string");
  SafetensorsEntry entry{name, dtype.get<std::string>(), {}, 0, 0};
  const auto type = std::find_if(kKnownTypes.begin(), kKnownTypes.end(),
                                 [&](const KnownType& t) { return entry.dtype == t.name; });
  MOE_REQUIRE(type != kKnownTypes.end(), at, "unknown dtype '", entry.dtype, "'");

  MOE_REQUIRE(shape.is_array() && std::all_of(shape.begin(), shape.end(), is_count), at,
              "shape is no list of sizes");
  std::int64_t bytes = type->bytes;
  for (const nlohmann::json& n : shape) {
    entry.shape.push_back(n.get<std::int64_t>());
    MOE_REQUIRE(!__builtin_mul_overflow(bytes, entry.shape.back(), &bytes), at, "shape ",
                shape.dump(), " is too large");
  }
  MOE_REQUIRE(offsets.is_array() && offsets.size() == 2 &&
                  std::all_of(offsets.begin(), offsets.end(), is_count),
              at, "data_offsets are not two positions");
  entry.offset = offsets[0].get<std::int64_t>();
  const auto end = offsets[1].get<std::int64_t>();
  MOE_REQUIRE(entry.offset <= end, at, "data_offsets ", offsets.dump(), " run backwards");
  entry.bytes = end - entry.offset;
  MOE_REQUIRE(entry.bytes == bytes, at, "has ", entry.bytes, " bytes, but ", entry.dtype,
              " of shape ", shape.dump(), " takes ", bytes);
  return entry;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::int64_t data_bytes,
                                           const std::string& where) {
  MOE_REQUIRE(!json.empty() && json.front() == '{', where,
              ": is no safetensors file (its header does not start with '{')");
  require_strict_json(json, where + ": header");
  const nlohmann::json root = nlohmann::json::parse(json);

  SafetensorsHeader header;
  for (const auto& [name, value] : root.items()) {
    if (name != "__metadata__") {
      header.entries.push_back(parse_entry(name, value, where));
      continue;
    }
    MOE_REQUIRE(value.is_object(), where, ": __metadata__ is no JSON object");
    for (const auto& [key, text] : value.items()) {
      MOE_REQUIRE(text.is_string(), where, ": __metadata__ '", key, "' is no string");
      header.metadata[key] = text.get<std::string>();
    }
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  std::int64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    MOE_REQUIRE(entry.offset == end, where, ": tensor '", entry.name, "' starts at byte ",
                entry.offset, " of the data, ",
                entry.offset < end ? "inside the tensor before it" : "after a gap", " (expected ",
                end, ")");
    MOE_REQUIRE(entry.bytes <= data_bytes - end, where, ": tensor '", entry.name, "' ends at byte ",
                end + entry.bytes, " of the data, but the file has ", data_bytes,
                ": is it truncated?");
    end += entry.bytes;
  }
  MOE_REQUIRE(end == data_bytes, where, ": ", data_bytes - end,
              " bytes after the last tensor belong to none");
  return header;
}

DType float_dtype_of(const SafetensorsEntry& entry, const std::string& where) {
  if (entry.dtype == "F32") return DType::f32;
  if (entry.dtype == "F16") return DType::f16;
  if (entry.dtype == "BF16") return DType::bf16;
  if (entry.dtype == "F64") return DType::f64;
  throw InputError(str(where, ": tensor '", entry.name, "' is ", entry.dtype,
                       ": only F32, F16, BF16 and F64 can be read (a quantised model has to be "
                       "converted first)"));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path) {
  const std::string where = path.string();
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  MOE_REQUIRE(file >= 0, where, ": cannot be opened (", std::strerror(errno), ")");
  struct stat status = {};
  const bool regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const std::int64_t size = regular ? std::int64_t(status.st_size) : 0;
  void* map =
      size >= 8 ? ::mmap(nullptr, std::size_t(size), PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  const int reason = errno;
  ::close(file);
  MOE_REQUIRE(regular, where, ": is no regular file");
  MOE_REQUIRE(size >= 8, where, ": is no safetensors file (", size, " bytes)");
  MOE_CHECK(map != MAP_FAILED, where, ": cannot be mapped (", std::strerror(reason), ")");
  map_ = std::shared_ptr<const std::byte>(
      static_cast<const std::byte*>(map), [size](const std::byte* start) {
        ::munmap(const_cast<std::byte*>(start), std::size_t(size));
      });

  std::uint64_t length = 0;
  std::memcpy(&length, map_.get(), sizeof length);
  MOE_REQUIRE(length <= std::uint64_t(kMaxHeaderBytes), where,
              ": is no safetensors file (a header of ", length, " bytes)");
  MOE_REQUIRE(std::int64_t(length) <= size - 8, where, ": is truncated: its header has ", length,
              " bytes, the file ", size);
  data_ = map_.get() + 8 + length;
  header_ =
      parse_safetensors_header({reinterpret_cast<const char*>(map_.get()) + 8, std::size_t(length)},
                               size - 8 - std::int64_t(length), where);
  for (std::size_t i = 0; i < header_.entries.size(); ++i)
    index_.emplace(header_.entries[i].name, i);
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = index_.find(name);
  MOE_REQUIRE(found != index_.end(), path_.string(), ": has no tensor '", name, "'");
  return header_.entries[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  return {data_ + e.offset, std::size_t(e.bytes)};
}

Tensor SafetensorsFile::read(const std::string& name) const {
  const SafetensorsEntry& e = entry(name);
  Tensor t = Tensor::empty(e.shape, float_dtype_of(e, path_.string()));
  std::memcpy(t.bytes(), data_ + e.offset, std::size_t(e.bytes));
  return t;
}

Tensor SafetensorsFile::read(const std::string& name, std::int64_t first,
                             std::int64_t count) const {
  const SafetensorsEntry& e = entry(name);
  const DType dtype = float_dtype_of(e, path_.string());
  MOE_CHECK(!e.shape.empty() && first >= 0 && count >= 0 && first <= e.shape[0] - count, "rows ",
            first, " to ", first + count, " of ", name, " [", join(e.shape), "]");
  Shape shape = e.shape;
  shape[0] = count;
  Tensor t = Tensor::empty(std::move(shape), dtype);
  const std::int64_t row_bytes = e.shape[0] == 0 ? 0 : e.bytes / e.shape[0];
  std::memcpy(t.bytes(), data_ + e.offset + first * row_bytes, t.nbytes());
  return t;
}

}  // namespace moe
