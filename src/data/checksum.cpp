// SPDX-License-Identifier: Apache-2.0
#include "data/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace moe {

struct Checksum::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

std::uint64_t checksum(const void* bytes, std::size_t count) { return XXH3_64bits(bytes, count); }

Checksum::Checksum() : state_(std::make_unique<State>()) { XXH3_64bits_reset(state_->xxh); }
Checksum::~Checksum() = default;

void Checksum::update(const void* bytes, std::size_t count) {
  XXH3_64bits_update(state_->xxh, bytes, count);
}

std::uint64_t Checksum::value() const { return XXH3_64bits_digest(state_->xxh); }

std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace moe
