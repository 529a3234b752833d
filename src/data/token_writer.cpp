// SPDX-License-Identifier: Apache-2.0
#include "data/token_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <vector>

#include "core/error.h"
#include "data/checksum.h"
#include "data/growing_file.h"
#include "data/hdf5_support.h"
#include "data/hdf5_write_driver.h"
#include "data/mapped_file.h"
#include "data/token_format.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

void sync(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  if (fd >= 0) ::close(fd);
  MOE_CHECK(synced, path.string(), ": cannot be written to disk: ", std::strerror(errno));
}

/// A file under a temporary name, which is removed unless commit() gives it its own.
class PartialFile {
 public:
  explicit PartialFile(fs::path target)
      : target_(std::move(target)), partial_(target_.string() + ".partial") {}
  ~PartialFile() {
    std::error_code ignored;
    fs::remove(partial_, ignored);
  }
  const fs::path& path() const { return partial_; }
  void commit() {
    sync(partial_);
    fs::rename(partial_, target_);
    sync(target_.has_parent_path() ? target_.parent_path() : fs::path("."));
  }

 private:
  fs::path target_, partial_;
};

void write_attribute(hid_t file, const char* name, hid_t type, const void* value) {
  const Hdf5Handle space(HDF5_CHECK(H5Screate(H5S_SCALAR)), H5Sclose);
  const Hdf5Handle attribute(
      HDF5_CHECK(H5Acreate2(file, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT), name),
      H5Aclose);
  HDF5_CHECK(H5Awrite(attribute.get(), type, value), name);
}

void write_attribute(hid_t file, const char* name, std::int64_t value) {
  write_attribute(file, name, H5T_STD_I64LE, &value);
}

void write_attribute(hid_t file, const char* name, const std::string& value) {
  const Hdf5Handle type(HDF5_CHECK(H5Tcopy(H5T_C_S1)), H5Tclose);
  HDF5_CHECK(H5Tset_size(type.get(), value.size() + 1));
  HDF5_CHECK(H5Tset_cset(type.get(), H5T_CSET_UTF8));
  write_attribute(file, name, type.get(), value.c_str());
}

/// A contiguous 1-D dataset filled front to back.
class DatasetWriter {
 public:
  DatasetWriter(hid_t file, const char* name, hid_t type, std::int64_t count) : type_(type) {
    const hsize_t size = hsize_t(count);
    space_ = {HDF5_CHECK(H5Screate_simple(1, &size, nullptr)), H5Sclose};
    const Hdf5Handle plist(HDF5_CHECK(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
    HDF5_CHECK(H5Pset_layout(plist.get(), H5D_CONTIGUOUS));
    HDF5_CHECK(H5Pset_obj_track_times(plist.get(), false));  // the same build, the same bytes
    HDF5_CHECK(H5Pset_fill_time(plist.get(), H5D_FILL_TIME_NEVER));
    set_ = {HDF5_CHECK(
                H5Dcreate2(file, name, type, space_.get(), H5P_DEFAULT, plist.get(), H5P_DEFAULT),
                name),
            H5Dclose};
  }

  void append(const void* values, std::int64_t count) {
    const hsize_t start = hsize_t(next_), size = hsize_t(count);
    const Hdf5Handle memory(HDF5_CHECK(H5Screate_simple(1, &size, nullptr)), H5Sclose);
    HDF5_CHECK(H5Sselect_hyperslab(space_.get(), H5S_SELECT_SET, &start, nullptr, &size, nullptr));
    HDF5_CHECK(H5Dwrite(set_.get(), type_, memory.get(), space_.get(), H5P_DEFAULT, values));
    next_ += count;
  }

  std::int64_t offset() const { return std::int64_t(H5Dget_offset(set_.get())); }

 private:
  hid_t type_;
  Hdf5Handle space_, set_;
  std::int64_t next_ = 0;
};

/// Takes bytes front to back into a dataset, and the checksum of each block into another.
class BlockWriter {
 public:
  /// `tokens` tokens of `bytes` bytes each.
  BlockWriter(Hdf5WriteFile& file, const char* name, const char* checksums, hid_t type, int bytes,
              std::int64_t tokens)
      : file_(file),
        bytes_(bytes),
        sums_(file.get(), checksums, H5T_STD_U64LE, (tokens + kTokenBlock - 1) / kTokenBlock),
        values_(file.get(), name, type, tokens),
        block_(std::size_t(std::min(kTokenBlock, tokens) * bytes)) {}

  /// Copies tokens [first, end) of the spool.
  void copy(const GrowingFile& spool, std::int64_t first, std::int64_t end) {
    for (std::int64_t at = first * bytes_, last = end * bytes_; at < last;) {
      const std::size_t n = std::min(block_.size() - filled_, std::size_t(last - at));
      spool.read(at, block_.data() + filled_, n);
      filled_ += n;
      at += std::int64_t(n);
      if (filled_ == block_.size()) flush();
    }
  }

  void flush() {
    if (filled_ == 0) return;
    const std::uint64_t sum = checksum(block_.data(), filled_);
    values_.append(block_.data(), std::int64_t(filled_) / bytes_);
    sums_.append(&sum, 1);
    file_.check();
    filled_ = 0;
  }

  std::int64_t offset() const { return values_.offset(); }

 private:
  Hdf5WriteFile& file_;
  int bytes_;
  DatasetWriter sums_, values_;
  std::vector<std::byte> block_;
  std::size_t filled_ = 0;
};

void check(const TokenFileInfo& info) {
  MOE_REQUIRE(!info.domain.empty() && info.domain.size() <= 255 &&
                  info.domain.find('\0') == std::string::npos,
              "a domain needs a name of 1 to 255 bytes");
  MOE_REQUIRE(info.vocabulary_size > 0 && info.vocabulary_size <= INT32_MAX, "a vocabulary of ",
              info.vocabulary_size, ": give the number of token ids");
}

}  // namespace

struct TokenWriter::Impl {
  TokenFileInfo info;
  int token_bytes;
  mutable GrowingFile token_spool, end_spool;        // tokens; u64 end of every document
  mutable std::optional<GrowingFile> learned_spool;  // of a masked shard: u8 of every token
  std::int64_t documents, tokens;

  Impl(TokenFileInfo about, GrowingFile token_file, GrowingFile end_file,
       std::optional<GrowingFile> learned_file, const Waiting& waiting)
      : info(std::move(about)),
        token_bytes(token_bytes_for(info.vocabulary_size)),
        token_spool(std::move(token_file)),
        end_spool(std::move(end_file)),
        learned_spool(std::move(learned_file)),
        documents(waiting.documents),
        tokens(waiting.tokens) {}

  /// Calls visit(i, first, end) for every document of the range in order.
  template <class Visit>
  void for_each_document(const Range& range, Visit&& visit) const {
    constexpr std::int64_t kAtOnce = 1 << 16;
    std::vector<std::uint64_t> ends(1);
    std::int64_t first = 0;
    if (range.first > 0) {
      end_spool.read((range.first - 1) * 8, ends.data(), 8);
      first = std::int64_t(ends[0]);
    }
    for (std::int64_t i = range.first; i < range.end; ++i) {
      const std::int64_t at = (i - range.first) % kAtOnce;
      if (at == 0) {
        ends.resize(std::size_t(std::min(kAtOnce, range.end - i)));
        end_spool.read(i * 8, ends.data(), ends.size() * 8);
      }
      const auto end = std::int64_t(ends[std::size_t(at)]);
      visit(i, first, end);
      first = end;
    }
  }

  void flush() const {
    token_spool.flush();
    end_spool.flush();
    if (learned_spool) learned_spool->flush();
  }

  std::int64_t count_learned(std::int64_t first, std::int64_t end) const {
    std::vector<std::uint8_t> flags(std::size_t(end - first));
    learned_spool->read(first, flags.data(), flags.size());
    return std::count(flags.begin(), flags.end(), 1);
  }

  TokenManifest write_hdf5(const fs::path& path, const Keep& keep, const Range& range,
                           const Written& total) const;
};

TokenManifest TokenWriter::Impl::write_hdf5(const fs::path& path, const Keep& keep,
                                            const Range& range, const Written& total) const {
  const auto lock = lock_hdf5();
  const hid_t token_type = token_bytes == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
  Hdf5WriteFile file(path);
  write_attribute(file.get(), "format", std::string(kTokenFormatName));
  write_attribute(file.get(), "format_version",
                  info.masked ? kMaskedFormatVersion : kTokenFormatVersion);
  write_attribute(file.get(), "domain", info.domain);
  write_attribute(file.get(), "tokenizer_hash", info.tokenizer_hash);
  write_attribute(file.get(), "vocabulary_size", info.vocabulary_size);
  write_attribute(file.get(), "bos_id", std::int64_t(info.bos_id));
  write_attribute(file.get(), "eos_id", std::int64_t(info.eos_id));
  write_attribute(file.get(), "block_tokens", kTokenBlock);

  if (info.masked) write_attribute(file.get(), "learned_tokens", total.learned);

  std::int64_t token_offset = 0, learned_offset = 0;
  {
    DatasetWriter ends(file.get(), "documents", H5T_STD_U64LE, total.documents + 1);
    BlockWriter values(file, "tokens", "checksums", token_type, token_bytes, total.tokens);
    std::optional<BlockWriter> learned;
    if (info.masked)
      learned.emplace(file, "learned", "learned_checksums", H5T_STD_U8LE, 1, total.tokens);
    const auto copy = [&](std::int64_t first, std::int64_t end) {
      values.copy(token_spool, first, end);
      if (learned) learned->copy(*learned_spool, first, end);
    };

    std::vector<std::uint64_t> boundaries = {0};
    std::uint64_t kept_tokens = 0;
    std::int64_t run_first = 0, run_end = 0;  // neighbours that are kept are copied together
    for_each_document(range, [&](std::int64_t i, std::int64_t first, std::int64_t end) {
      if (keep && !keep(i)) return;
      kept_tokens += std::uint64_t(end - first);
      boundaries.push_back(kept_tokens);
      if (boundaries.size() == 1 << 16) {
        ends.append(boundaries.data(), std::int64_t(boundaries.size()));
        boundaries.clear();
      }
      if (first != run_end) {
        copy(run_first, run_end);
        run_first = first;
      }
      run_end = end;
    });
    copy(run_first, run_end);
    values.flush();
    if (learned) learned->flush();
    if (!boundaries.empty()) ends.append(boundaries.data(), std::int64_t(boundaries.size()));
    token_offset = values.offset();
    if (learned) learned_offset = learned->offset();
  }
  file.finish();

  TokenManifest manifest{
      .file_size = std::int64_t(fs::file_size(path)),
      .token_offset = token_offset,
      .tokens = total.tokens,
      .token_bytes = token_bytes,
      .documents = total.documents,
      .vocabulary_size = info.vocabulary_size,
      .domain = info.domain,
      .tokenizer = TokenManifest::Tokenizer{info.tokenizer_hash, info.bos_id, info.eos_id}};
  if (info.masked) manifest.learned = {learned_offset, total.learned};
  const MappedFile written(path);
  manifest.metadata_checksum = metadata_checksum(written.bytes(), manifest);
  return manifest;
}

TokenWriter::TokenWriter(TokenFileInfo info, const fs::path& folder) {
  check(info);
  const fs::path there = folder.empty() ? fs::path(".") : folder;
  std::optional<GrowingFile> learned;
  if (info.masked) learned = GrowingFile::unnamed(there);
  impl_ = std::make_unique<Impl>(std::move(info), GrowingFile::unnamed(there),
                                 GrowingFile::unnamed(there), std::move(learned), Waiting{});
}

TokenWriter::TokenWriter(TokenFileInfo info, const fs::path& stem, const Waiting& waiting) {
  check(info);
  const std::int64_t bytes = waiting.tokens * token_bytes_for(info.vocabulary_size);
  std::optional<GrowingFile> learned;
  if (info.masked) learned = GrowingFile(stem.string() + ".learned", waiting.tokens);
  impl_ = std::make_unique<Impl>(std::move(info), GrowingFile(stem.string() + ".tokens", bytes),
                                 GrowingFile(stem.string() + ".ends", waiting.documents * 8),
                                 std::move(learned), waiting);
}

TokenWriter::TokenWriter(TokenWriter&&) noexcept = default;
TokenWriter::~TokenWriter() = default;

std::int64_t TokenWriter::documents() const { return impl_->documents; }
std::int64_t TokenWriter::tokens() const { return impl_->tokens; }

void TokenWriter::append(std::span<const std::int32_t> document,
                         std::span<const std::uint8_t> learned) {
  MOE_REQUIRE(!document.empty(), "a document without tokens cannot be stored");
  for (const std::int32_t id : document)
    MOE_REQUIRE(id >= 0 && id < impl_->info.vocabulary_size, "token id ", id,
                " is beyond the vocabulary of ", impl_->info.vocabulary_size);
  MOE_CHECK(learned.empty() || (impl_->info.masked && learned.size() == document.size()),
            learned.size(), " flags of ", document.size(), " tokens");
  if (impl_->learned_spool) {
    std::vector<std::uint8_t> flags(document.size(), 1);
    std::transform(learned.begin(), learned.end(), flags.begin(),
                   [](std::uint8_t flag) { return std::uint8_t(flag != 0); });
    flags.front() = 0;
    impl_->learned_spool->append(flags.data(), flags.size());
  }
  if (impl_->token_bytes == 2) {
    const std::vector<std::uint16_t> narrow(document.begin(), document.end());
    impl_->token_spool.append(narrow.data(), narrow.size() * 2);
  } else {
    impl_->token_spool.append(document.data(), document.size_bytes());
  }
  impl_->tokens += std::int64_t(document.size());
  const auto end = std::uint64_t(impl_->tokens);
  impl_->end_spool.append(&end, 8);
  ++impl_->documents;
}

TokenWriter::Waiting TokenWriter::sync() {
  impl_->token_spool.sync();
  impl_->end_spool.sync();
  if (impl_->learned_spool) impl_->learned_spool->sync();
  return {impl_->documents, impl_->tokens};
}

std::vector<TokenWriter::Range> TokenWriter::cut(std::int64_t tokens, const Keep& keep) const {
  impl_->end_spool.flush();
  std::vector<Range> ranges;
  std::int64_t begin = 0, held = 0;
  impl_->for_each_document(all(), [&](std::int64_t i, std::int64_t first, std::int64_t end) {
    if (keep && !keep(i)) return;
    held += end - first;
    if (held < tokens) return;
    ranges.push_back({begin, i + 1});
    begin = i + 1;
    held = 0;
  });
  if (held > 0) ranges.push_back({begin, documents()});
  return ranges;
}

TokenWriter::Written TokenWriter::write(const fs::path& path, const Range& range,
                                        const Keep& keep) const {
  impl_->flush();
  Written total;
  impl_->for_each_document(range, [&](std::int64_t i, std::int64_t first, std::int64_t end) {
    if (keep && !keep(i)) return;
    ++total.documents;
    total.tokens += end - first;
    if (impl_->learned_spool) total.learned += impl_->count_learned(first, end);
  });
  MOE_REQUIRE(total.documents > 0, path.string(), ": there is no document to store");

  PartialFile shard(path), manifest(manifest_path(path));
  const std::string text = to_json(impl_->write_hdf5(shard.path(), keep, range, total));
  {
    std::ofstream out(manifest.path(), std::ios::binary | std::ios::trunc);
    out << text << std::flush;
    MOE_CHECK(out.good(), manifest.path().string(), ": cannot be written");
  }
  fs::remove(manifest_path(path));  // of an older shard: it must not describe the new one
  shard.commit();
  manifest.commit();
  return total;
}

}  // namespace moe
