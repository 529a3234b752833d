// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace moe {

/// What a safetensors header says of one tensor.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // the format's own word: "F32", "BF16", "I8", ...
  Shape shape;
  std::int64_t offset = 0;  // of the first byte, from the start of the data section
  std::int64_t bytes = 0;
};

/// A whole header, entries in the order of their bytes.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Parses and checks the JSON of a header (what follows the eight bytes of its length) against the
/// size of the data section: names once each, known dtypes, sizes equal to shape times dtype,
/// ranges that cover the section without gap or overlap. `where` names the file in messages.
/// Throws InputError.
SafetensorsHeader parse_safetensors_header(std::string_view json, std::int64_t data_bytes,
                                           const std::string& where);

/// "F32", "F16", "BF16" or "F64" as a DType; throws InputError for every other word.
DType float_dtype_of(const SafetensorsEntry& entry, const std::string& where);

/// A safetensors file, mapped read-only. The header is checked whole before anything is used; every
/// failure is an InputError that names the file and the tensor. Reading is safe from many threads.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  bool contains(const std::string& name) const { return index_.contains(name); }
  /// Throws InputError when the file has no such tensor.
  const SafetensorsEntry& entry(const std::string& name) const;

  /// The tensor's bytes where they lie in the file: no copy, valid as long as this object, not
  /// aligned to more than a byte. Any dtype.
  std::span<const std::byte> bytes(const std::string& name) const;
  /// A copy of the tensor, or of rows [first, first + count) of its first dimension. F32, F16, BF16
  /// and F64; throws InputError for other dtypes.
  Tensor read(const std::string& name) const;
  Tensor read(const std::string& name, std::int64_t first, std::int64_t count) const;

 private:
  std::filesystem::path path_;
  SafetensorsHeader header_;
  std::unordered_map<std::string, std::size_t> index_;
  std::shared_ptr<const std::byte> map_;
  const std::byte* data_ = nullptr;
};

/// Writes a safetensors file as a stream: all tensors are declared first, then their bytes follow
/// in that order, in pieces of any size. A thread of its own writes behind the caller, a few pieces
/// at most, so that the next ones can be made meanwhile; its failures are thrown by the next call.
/// The file appears under its name in finish(), synced; without finish() nothing stays behind.
/// Throws Error when the system cannot write (a full disk).
class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    DType dtype;  // f32, f16, bf16, f64, i32 or i64
    Shape shape;
  };

  SafetensorsWriter(const std::filesystem::path& path, const std::vector<Declaration>& tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// The next bytes: a CPU tensor, which may be a part of the declared one. Its values must not
  /// change before finish().
  void write(const Tensor& tensor);
  /// Checks that every declared byte was written and gives the file its name; returns its size.
  std::int64_t finish();

 private:
  class Behind;

  std::filesystem::path path_, partial_;
  std::int64_t expected_ = 0, written_ = 0;
  std::unique_ptr<Behind> behind_;
};

}  // namespace moe
