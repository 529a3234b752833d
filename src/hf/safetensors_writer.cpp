// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "hf/safetensors.h"

namespace moe {
namespace {

// Writes from a buffer in the second-level cache to whole multiples of its size: a large write from
// memory at another offset within a page is up to five times slower (rep movsb on Zen 4).
constexpr std::size_t kBufferBytes = 256 << 10;

const char* safetensors_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::f64:
      return "F64";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    default:
      throw Error(str("a ", name(dtype), " tensor cannot be written to safetensors"));
  }
}

void write_all(int file, const std::byte* bytes, std::size_t count, const std::string& path) {
  while (count > 0) {
    const ssize_t n = ::write(file, bytes, count);
    if (n < 0 && errno == EINTR) continue;
    MOE_CHECK(n > 0, "cannot write ", path, ": ", std::strerror(errno));
    bytes += n;
    count -= std::size_t(n);
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<Declaration>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), partial_(path.string() + ".partial") {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::int64_t end = 0;
  for (const Declaration& t : tensors) {
    MOE_CHECK(!header.contains(t.name), "tensor '", t.name, "' is declared twice");
    std::int64_t bytes = std::int64_t(size_of(t.dtype));
    for (const std::int64_t n : t.shape) bytes *= n;
    header[t.name] = {{"dtype", safetensors_name(t.dtype)},
                      {"shape", t.shape},
                      {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the data section aligned
  const std::uint64_t length = text.size();
  expected_ = std::int64_t(sizeof length + length) + end;

  file_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  MOE_CHECK(file_ >= 0, "cannot create ", partial_.string(), ": ", std::strerror(errno));
  buffer_.reserve(kBufferBytes);
  for (const auto part : {std::span<const std::byte>(std::as_bytes(std::span(&length, 1))),
                          std::span<const std::byte>(std::as_bytes(std::span(text)))})
    buffer_.insert(buffer_.end(), part.begin(), part.end());
  written_ = std::int64_t(buffer_.size());
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ < 0) return;
  ::close(file_);
  std::error_code ignored;
  std::filesystem::remove(partial_, ignored);
}

void SafetensorsWriter::flush() {
  write_all(file_, buffer_.data(), buffer_.size(), path_.string());
  buffer_.clear();
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  MOE_CHECK(file_ >= 0, path_.string(), " is finished");
  MOE_CHECK(std::int64_t(bytes.size()) <= expected_ - written_, "more bytes for ", path_.string(),
            " than its tensors were declared to have");
  written_ += std::int64_t(bytes.size());
  while (!bytes.empty()) {
    const std::size_t n = std::min(bytes.size(), kBufferBytes - buffer_.size() % kBufferBytes);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + std::ptrdiff_t(n));
    bytes = bytes.subspan(n);
    if (buffer_.size() % kBufferBytes == 0) flush();
  }
}

void SafetensorsWriter::write(const Tensor& tensor) {
  MOE_CHECK(tensor.device() == Device::cpu, "a tensor to be written must be on the CPU");
  write({tensor.bytes(), tensor.nbytes()});
}

std::int64_t SafetensorsWriter::finish() {
  MOE_CHECK(written_ == expected_, path_.string(), ": ", written_, " of ", expected_,
            " bytes were written");
  flush();
  MOE_CHECK(::fsync(file_) == 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
  const int closed = ::close(std::exchange(file_, -1));
  MOE_CHECK(closed == 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
  std::filesystem::rename(partial_, path_);
  return written_;
}

}  // namespace moe
