// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/append_file.h"

namespace moe {

/// How much each of some numbered things got: what TensorBoard draws as a histogram with one bar
/// per number.
struct EventBars {
  std::string tag;
  std::vector<std::int64_t> counts;
};

/// What TensorBoard is told of one step.
struct EventRecord {
  std::int64_t step = 0;
  std::vector<std::pair<std::string, float>> scalars;  // by tag
  std::vector<EventBars> bars;
};

/// An event file as TensorBoard reads it: records in TFRecord's framing, each a protobuf of
/// TensorFlow's event.proto.
class EventFile {
 public:
  /// A new file in `folder`, which is made. Its name comes after those of all event files there, so
  /// that it is read last; it begins by saying that what earlier files hold of `first_step` and
  /// later steps no longer counts. Throws Error.
  EventFile(const std::filesystem::path& folder, std::int64_t first_step);

  /// Throws Error when the record cannot be written; the file then ends with the one before.
  void write(const EventRecord& record);

 private:
  AppendFile file_;
};

/// The checksum of TFRecord's framing, CRC-32C (Castagnoli).
std::uint32_t crc32c(std::span<const char> bytes);

}  // namespace moe
