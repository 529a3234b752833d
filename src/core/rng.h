// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

namespace moe {

/// What random numbers are for. Two purposes never share a stream; the values are part of the
/// checkpoint format (docs/file_formats.md), so they are only ever added to.
enum class RandomPurpose : std::uint32_t {
  initial_weights = 1,
  gate_noise = 2,
  document_order = 3,
  domain_choice = 4,
  sampling = 5,
  split = 6,
  test = 7,
  few_shot = 8,
  attention_gate_noise = 9,
};

/// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011). Element i of the stream
/// named by (seed, purpose, keys) is a pure function of them, so results depend on no rank, no
/// thread and no order of calls. Keys are whatever identifies the use: step, sequence id, layer.
class Philox {
 public:
  Philox(std::uint64_t seed, RandomPurpose purpose, std::initializer_list<std::uint64_t> keys = {})
      : key_(mix(seed)), stream_(mix(seed ^ 0x9e3779b97f4a7c15ull)) {
    absorb(static_cast<std::uint64_t>(purpose));
    for (const std::uint64_t k : keys) absorb(k);
  }

  /// 128 random bits. constexpr: nvcc compiles it for the device too.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t i) const {
    std::array<std::uint32_t, 4> c = {std::uint32_t(i), std::uint32_t(i >> 32),
                                      std::uint32_t(stream_), std::uint32_t(stream_ >> 32)};
    std::uint32_t k0 = std::uint32_t(key_), k1 = std::uint32_t(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
      c = {std::uint32_t(p1 >> 32) ^ c[1] ^ k0, std::uint32_t(p1),
           std::uint32_t(p0 >> 32) ^ c[3] ^ k1, std::uint32_t(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  std::uint64_t bits(std::uint64_t i) const {
    const auto b = block(i);
    return std::uint64_t(b[1]) << 32 | b[0];
  }

  /// In [0, 1), 53 bits.
  double uniform(std::uint64_t i) const { return double(bits(i) >> 11) * 0x1p-53; }

  /// Standard normal (Box-Muller).
  double normal(std::uint64_t i) const {
    const auto b = block(i);
    const double u = (double(b[0]) + 0.5) * 0x1p-32, v = (double(b[1]) + 0.5) * 0x1p-32;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }

  /// Uniform in [0, n). The bias is below n / 2^64.
  std::uint64_t below(std::uint64_t i, std::uint64_t n) const {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits(i)) * n) >> 64);
  }

 private:
  static std::uint64_t mix(std::uint64_t x) {  // splitmix64's finalizer
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  void absorb(std::uint64_t word) {
    key_ = mix(key_ + word + 0x9e3779b97f4a7c15ull);
    stream_ = mix((stream_ ^ word) + 0xd1b54a32d192ed03ull);
  }

  std::uint64_t key_, stream_;
};

/// A random permutation of 0..n-1 (Fisher-Yates over the given stream).
inline std::vector<std::int64_t> permutation(std::int64_t n, const Philox& random) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  for (std::int64_t i = n - 1; i > 0; --i)
    std::swap(order[std::size_t(i)], order[random.below(std::uint64_t(i), std::uint64_t(i) + 1)]);
  return order;
}

}  // namespace moe
