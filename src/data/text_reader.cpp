// SPDX-License-Identifier: Apache-2.0
#include "data/text_reader.h"

#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBuffer = 1 << 18;
constexpr std::size_t kLongestLine = std::size_t{1} << 30;

struct CloseFile {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
using FilePointer = std::unique_ptr<std::FILE, CloseFile>;

/// Unpacked bytes of a file, front to back.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills up to `size` bytes; 0 only at the end. Throws InputError with the reason alone.
  virtual std::size_t read(char* to, std::size_t size) = 0;
  virtual std::int64_t position() const = 0;
};

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(FilePointer file) : file_(std::move(file)) {}

  std::size_t read(char* to, std::size_t size) override {
    const std::size_t n = std::fread(to, 1, size, file_.get());
    MOE_REQUIRE(std::ferror(file_.get()) == 0, "cannot be read: ", std::strerror(errno));
    position_ += std::int64_t(n);
    return n;
  }
  std::int64_t position() const override { return position_; }

 private:
  FilePointer file_;
  std::int64_t position_ = 0;
};

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(const fs::path& path) : file_(gzopen(path.c_str(), "rb")) {
    MOE_REQUIRE(file_ != nullptr, "cannot open: ", std::strerror(errno));
    gzbuffer(file_, kBuffer);
  }
  ~GzipSource() override { gzclose(file_); }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  std::size_t read(char* to, std::size_t size) override {
    const int n = gzread(file_, to, unsigned(size));
    int status = Z_OK;
    const char* reason = gzerror(file_, &status);
    MOE_REQUIRE(status != Z_BUF_ERROR, "the gzip data ends too early: the file is truncated");
    MOE_REQUIRE(n >= 0 && (status == Z_OK || status == Z_STREAM_END), "the gzip data is damaged (",
                reason, ")");
    return std::size_t(n);
  }
  std::int64_t position() const override { return gzoffset(file_); }

 private:
  gzFile file_;
};

class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(FilePointer file) : packed_(std::move(file)), stream_(ZSTD_createDStream()) {}
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  ZstdSource(const ZstdSource&) = delete;
  ZstdSource& operator=(const ZstdSource&) = delete;

  std::size_t read(char* to, std::size_t size) override {
    ZSTD_outBuffer out{to, size, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        in_ = {buffer_.data(), packed_.read(buffer_.data(), buffer_.size()), 0};
        if (in_.size == 0) {
          MOE_REQUIRE(frame_ended_, "the zstd data ends too early: the file is truncated");
          return 0;
        }
      }
      const std::size_t hint = ZSTD_decompressStream(stream_, &out, &in_);
      MOE_REQUIRE(!ZSTD_isError(hint), "the zstd data is damaged (", ZSTD_getErrorName(hint), ")");
      frame_ended_ = hint == 0;
    }
    return out.pos;
  }
  std::int64_t position() const override { return packed_.position(); }

 private:
  PlainSource packed_;
  ZSTD_DStream* stream_;
  std::vector<char> buffer_ = std::vector<char>(kBuffer);
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool frame_ended_ = false;
};

std::unique_ptr<ByteSource> open_source(const fs::path& path) {
  const std::string name = path.string();
  MOE_REQUIRE(!fs::is_directory(path), name, ": a folder; name the files in it");
  FilePointer file(std::fopen(path.c_str(), "rb"));
  MOE_REQUIRE(file != nullptr, name, ": cannot open: ", std::strerror(errno));
  MOE_REQUIRE(fs::is_regular_file(path), name, ": a pipe or device; give a file");
  std::array<unsigned char, 4> head{};
  const std::size_t n = std::fread(head.data(), 1, head.size(), file.get());
  std::rewind(file.get());
  const bool gzip = n >= 2 && head[0] == 0x1f && head[1] == 0x8b;
  // The second is a skippable frame, with which pzstd begins.
  const bool zstd =
      n == 4 && head[1] == (head[0] == 0x28 ? 0xb5 : 0x2a) &&
      (head[0] == 0x28 ? head[2] == 0x2f && head[3] == 0xfd
                       : (head[0] & 0xf0) == 0x50 && head[2] == 0x4d && head[3] == 0x18);
  MOE_REQUIRE(gzip || path.extension() != ".gz", name,
              ": not gzip data: the file is truncated or misnamed");
  MOE_REQUIRE(zstd || path.extension() != ".zst", name,
              ": not zstd data: the file is truncated or misnamed");
  if (gzip) return std::make_unique<GzipSource>(path);
  if (zstd) return std::make_unique<ZstdSource>(std::move(file));
  return std::make_unique<PlainSource>(std::move(file));
}

}  // namespace

struct LineReader::Impl {
  fs::path path;
  std::unique_ptr<ByteSource> source;
  std::vector<char> buffer = std::vector<char>(kBuffer);
  std::size_t begin = 0, end = 0;
  std::int64_t line_number = 0;

  /// More bytes into the empty buffer; false at the end of the file.
  bool fill() {
    try {
      begin = 0;
      end = source->read(buffer.data(), buffer.size());
    } catch (const InputError& e) {
      throw InputError(str(path.string(), ":", line_number + 1, ": ", e.what()));
    }
    return end > 0;
  }
};

LineReader::LineReader(const fs::path& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->source = open_source(path);
}
LineReader::~LineReader() = default;

std::int64_t LineReader::line_number() const { return impl_->line_number; }
std::int64_t LineReader::bytes_read() const { return impl_->source->position(); }

bool LineReader::next(std::string& line) {
  line.clear();
  bool any = false;
  while (impl_->begin < impl_->end || impl_->fill()) {
    any = true;
    const char* from = impl_->buffer.data() + impl_->begin;
    const std::size_t left = impl_->end - impl_->begin;
    const auto* newline = static_cast<const char*>(std::memchr(from, '\n', left));
    const std::size_t n = newline == nullptr ? left : std::size_t(newline - from);
    MOE_REQUIRE(line.size() + n <= kLongestLine, impl_->path.string(), ":", impl_->line_number + 1,
                ": the line is longer than 1 GiB; one document a line is expected");
    line.append(from, n);
    impl_->begin += newline == nullptr ? n : n + 1;
    if (newline != nullptr) break;
  }
  if (any) ++impl_->line_number;
  return any;
}

DocumentReader::DocumentReader(const fs::path& path, std::optional<std::string> separator)
    : lines_(path), array_(lines_, path.string()), separator_(std::move(separator)) {
  const fs::path ending = path.extension();
  const bool packed = ending == ".gz" || ending == ".zst";
  plain_text_ = (packed ? path.stem().extension() : ending) == ".txt";
}

bool DocumentReader::next(RawDocument& document) {
  if (!plain_text_) {
    if (form_ == elements) return array_.next(document.content, document.line);
    while (lines_.next(document.content)) {
      if (document.content.find_first_not_of(" \t\r") == std::string::npos) continue;
      if (form_ == unknown && array_.begins(document.content)) {
        form_ = elements;
        return array_.next(document.content, document.line);
      }
      form_ = lines;
      document.line = lines_.line_number();
      return true;
    }
    return false;
  }
  document.content.clear();
  document.line = lines_.line_number() + 1;
  std::string line;
  bool any = false;
  while (lines_.next(line)) {
    any = true;
    if (separator_ && (line == *separator_ || line == *separator_ + "\r")) break;
    document.content += line;
    document.content += '\n';
    MOE_REQUIRE(document.content.size() <= kLongestLine,
                "a text of more than 1 GiB; part it into documents (--separator)");
  }
  while (!document.content.empty() && document.content.back() == '\n') document.content.pop_back();
  return any;
}

}  // namespace moe
