// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

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

/// The file and the thread that writes it.
class SafetensorsWriter::Behind {
 public:
  Behind(const std::filesystem::path& partial, std::string name)
      : name_(std::move(name)),
        file_(::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    MOE_CHECK(file_ >= 0, "cannot create ", partial.string(), ": ", std::strerror(errno));
    buffer_.reserve(kBufferBytes);
    thread_ = std::thread([this] { run(); });
  }
  ~Behind() {
    end();
    if (file_ >= 0) ::close(file_);
  }
  Behind(const Behind&) = delete;
  Behind& operator=(const Behind&) = delete;

  void push(Tensor piece) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return queue_.size() < kPieces || failure_; });
    if (failure_) std::rethrow_exception(failure_);
    queue_.push_back(std::move(piece));
    changed_.notify_all();
  }

  /// Waits for all pieces, syncs and closes.
  void finish() {
    end();
    if (failure_) std::rethrow_exception(failure_);
    write_all(file_, buffer_.data(), buffer_.size(), name_);
    MOE_CHECK(::fsync(file_) == 0, "cannot write ", name_, ": ", std::strerror(errno));
    MOE_CHECK(::close(std::exchange(file_, -1)) == 0, "cannot write ", name_, ": ",
              std::strerror(errno));
  }

 private:
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

  void run() {
    for (;;) {
      Tensor piece;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !queue_.empty() || ended_; });
        if (queue_.empty() || failure_) return;
        piece = queue_.front();  // stays in the queue while it is written, so that few wait
      }
      try {
        append({piece.bytes(), piece.nbytes()});
      } catch (...) {
        const std::lock_guard lock(mutex_);
        failure_ = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      queue_.pop_front();
      changed_.notify_all();
    }
  }

  void append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t n = std::min(bytes.size(), kBufferBytes - buffer_.size());
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + std::ptrdiff_t(n));
      bytes = bytes.subspan(n);
      if (buffer_.size() < kBufferBytes) continue;
      write_all(file_, buffer_.data(), buffer_.size(), name_);
      offset_ += std::int64_t(buffer_.size());
      buffer_.clear();
      if (offset_ - started_ < kWriteback) continue;
      // The disk begins now and not at fsync; a hint, so failures do not matter.
      ::sync_file_range(file_, started_, offset_ - started_, SYNC_FILE_RANGE_WRITE);
      started_ = offset_;
    }
  }

  static constexpr std::size_t kPieces = 2;
  static constexpr std::int64_t kWriteback = 32 << 20;

  std::string name_;
  int file_;
  std::vector<std::byte> buffer_;
  std::int64_t offset_ = 0, started_ = 0;  // written, and handed to the disk
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Tensor> queue_;
  std::exception_ptr failure_;
  bool ended_ = false;
  std::thread thread_;
};

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
  behind_ = std::make_unique<Behind>(partial_, path_.string());
  Tensor first = Tensor::empty({std::int64_t(sizeof length + length)}, DType::u8);
  std::memcpy(first.bytes(), &length, sizeof length);
  std::memcpy(first.bytes() + sizeof length, text.data(), text.size());
  write(first);
}

SafetensorsWriter::~SafetensorsWriter() {
  if (!behind_) return;
  behind_.reset();
  std::error_code ignored;
  std::filesystem::remove(partial_, ignored);
}

void SafetensorsWriter::write(const Tensor& tensor) {
  MOE_CHECK(tensor.device() == Device::cpu, "a tensor to be written must be on the CPU");
  MOE_CHECK(behind_, path_.string(), " is finished");
  const auto bytes = std::int64_t(tensor.nbytes());
  MOE_CHECK(bytes <= expected_ - written_, "more bytes for ", path_.string(),
            " than its tensors were declared to have");
  written_ += bytes;
  behind_->push(tensor);
}

std::int64_t SafetensorsWriter::finish() {
  MOE_CHECK(written_ == expected_, path_.string(), ": ", written_, " of ", expected_,
            " bytes were written");
  behind_->finish();
  behind_.reset();
  std::filesystem::rename(partial_, path_);
  return written_;
}

}  // namespace moe
