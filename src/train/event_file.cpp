// SPDX-License-Identifier: Apache-2.0
#include "train/event_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <string_view>
#include <system_error>

#include "core/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "protobuf and TFRecord are little-endian");

constexpr std::string_view kNameBegin = "events.out.tfevents.";

template <class Number>
void put_bytes(std::string& out, Number value) {
  const auto bytes = std::bit_cast<std::array<char, sizeof value>>(value);
  out.append(bytes.data(), bytes.size());
}

/// One protobuf message being written; fields by number, as event.proto and summary.proto have
/// them.
class Message {
 public:
  void integer(int field, std::uint64_t value) {
    key(field, 0);
    variable(value);
  }
  void real(int field, double value) {
    key(field, 1);
    put_bytes(bytes_, value);
  }
  void real(int field, float value) {
    key(field, 5);
    put_bytes(bytes_, value);
  }
  void text(int field, std::string_view value) {
    key(field, 2);
    variable(value.size());
    bytes_ += value;
  }
  void message(int field, const Message& value) { text(field, value.bytes_); }
  void reals(int field, std::span<const double> values) {
    std::string packed;
    for (const double value : values) put_bytes(packed, value);
    text(field, packed);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, int wire_type) { variable(std::uint64_t(field << 3 | wire_type)); }
  void variable(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += char(value | 0x80);
    bytes_ += char(value);
  }

  std::string bytes_;
};

Message event(std::int64_t step) {
  const std::chrono::duration<double> time = std::chrono::system_clock::now().time_since_epoch();
  Message m;
  m.real(1, time.count());
  m.integer(2, std::uint64_t(step));
  return m;
}

Message file_version() {
  Message m = event(0);
  m.text(3, "brain.Event:2");
  return m;
}

Message session_start(std::int64_t first_step) {
  constexpr int kStart = 1;
  Message session, m = event(first_step);
  session.integer(1, kStart);
  m.message(7, session);
  return m;
}

/// Bar i reaches from i - 1/2 to i + 1/2.
Message histogram(std::span<const std::int64_t> counts) {
  double number = 0, sum = 0, squares = 0;
  std::vector<double> limits, buckets;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double at = double(i), count = double(counts[i]);
    number += count;
    sum += count * at;
    squares += count * at * at;
    limits.push_back(at + 0.5);
    buckets.push_back(count);
  }
  Message m;
  m.real(1, -0.5);
  m.real(2, double(counts.size()) - 0.5);
  m.real(3, number);
  m.real(4, sum);
  m.real(5, squares);
  m.reals(6, limits);
  m.reals(7, buckets);
  return m;
}

std::uint32_t masked(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

std::string framed(const Message& message) {
  const std::string& data = message.bytes();
  std::string record;
  put_bytes(record, std::uint64_t(data.size()));
  put_bytes(record, masked(record));
  record += data;
  put_bytes(record, masked(data));
  return record;
}

/// Readers take files in the order of their names, which begin with the second of their making.
fs::path next_file(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(str(folder.string(), ": cannot make this folder: ", error.message()));
  std::int64_t time = std::chrono::duration_cast<std::chrono::seconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kNameBegin)) continue;
    std::int64_t other = 0;
    std::from_chars(name.data() + kNameBegin.size(), name.data() + name.size(), other);
    time = std::max(time, other + 1);
  }
  std::array<char, 256> host = {};
  ::gethostname(host.data(), host.size() - 1);
  return folder / fmt::format("{}{:010}.{}.{}", kNameBegin, time, host.data(), ::getpid());
}

}  // namespace

std::uint32_t crc32c(std::span<const char> bytes) {
  static const auto table = [] {
    constexpr std::uint32_t kPolynomial = 0x82f63b78;  // bits reversed
    std::array<std::uint32_t, 256> t = {};
    for (std::uint32_t i = 0; i < t.size(); ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] >> 1 ^ (t[i] & 1 ? kPolynomial : 0);
    }
    return t;
  }();
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ std::uint8_t(c)) & 0xff];
  return ~crc;
}

EventFile::EventFile(const fs::path& folder, std::int64_t first_step) : file_(next_file(folder)) {
  file_.append(framed(file_version()) + framed(session_start(first_step)));
}

void EventFile::write(const EventRecord& record) {
  Message summary;
  for (const auto& [tag, number] : record.scalars) {
    Message value;
    value.text(1, tag);
    value.real(2, number);
    summary.message(1, value);
  }
  for (const EventBars& bars : record.bars) {
    Message value;
    value.text(1, bars.tag);
    value.message(5, histogram(bars.counts));
    summary.message(1, value);
  }
  Message whole = event(record.step);
  whole.message(5, summary);
  file_.append(framed(whole));
}

}  // namespace moe
