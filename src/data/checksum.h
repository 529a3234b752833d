// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace moe {

/// XXH3, 64 bits: against accidents, not against attackers.
std::uint64_t checksum(const void* bytes, std::size_t count);
inline std::uint64_t checksum(std::string_view bytes) {
  return checksum(bytes.data(), bytes.size());
}

/// The same over bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(const void* bytes, std::size_t count);
  std::uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// 16 lower-case hexadecimal digits.
std::string hex(std::uint64_t value);

}  // namespace moe
