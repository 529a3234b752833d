// SPDX-License-Identifier: Apache-2.0
#include "data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <optional>

#include "core/error.h"
#include "data/checksum.h"
#include "data/hdf5_support.h"
#include "data/mapped_file.h"
#include "data/token_format.h"

namespace moe {
namespace {

static_assert(std::endian::native == std::endian::little, "token data is mapped as it is stored");

constexpr const char* kRebuild = "; copy the file again or build it again";

/// The bytes of one contiguous, uncompressed 1-D dataset within its file.
struct Extent {
  std::int64_t offset = 0, count = 0;
};

/// Reads what libhdf5 knows of a shard: attributes, and where the datasets lie. Everything it
/// touches has passed the checksum of the manifest.
class MetadataReader {
 public:
  explicit MetadataReader(const std::string& path)
      : path_(path), file_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose) {
    MOE_REQUIRE(file_.get() >= 0, path, ": not an HDF5 file", kRebuild);
  }

  std::int64_t number(const char* name) const {
    const Hdf5Handle attribute = open_attribute(name, H5T_INTEGER);
    std::int64_t value = 0;
    MOE_REQUIRE(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) >= 0, path_, ": attribute '",
                name, "' cannot be read", kRebuild);
    return value;
  }

  std::string text(const char* name) const {
    const Hdf5Handle attribute = open_attribute(name, H5T_STRING);
    const Hdf5Handle type(H5Aget_type(attribute.get()), H5Tclose);
    MOE_REQUIRE(H5Tis_variable_str(type.get()) == 0, path_, ": attribute '", name,
                "' has the wrong type", kRebuild);
    std::string value(H5Tget_size(type.get()), '\0');
    MOE_REQUIRE(H5Aread(attribute.get(), type.get(), value.data()) >= 0, path_, ": attribute '",
                name, "' cannot be read", kRebuild);
    return value.c_str();
  }

  Extent dataset(const char* name, hid_t stored_type) const {
    const Hdf5Handle set(H5Dopen2(file_.get(), name, H5P_DEFAULT), H5Dclose);
    MOE_REQUIRE(set.get() >= 0, path_, ": dataset '", name, "' is missing", kRebuild);
    const Hdf5Handle type(H5Dget_type(set.get()), H5Tclose);
    const Hdf5Handle space(H5Dget_space(set.get()), H5Sclose);
    const Hdf5Handle plist(H5Dget_create_plist(set.get()), H5Pclose);
    MOE_REQUIRE(
        H5Tequal(type.get(), stored_type) > 0 && H5Sget_simple_extent_ndims(space.get()) == 1 &&
            H5Pget_layout(plist.get()) == H5D_CONTIGUOUS && H5Pget_external_count(plist.get()) == 0,
        path_, ": dataset '", name, "' is not the contiguous array that a shard holds", kRebuild);
    hsize_t count = 0;
    H5Sget_simple_extent_dims(space.get(), &count, nullptr);
    const haddr_t offset = H5Dget_offset(set.get());
    MOE_REQUIRE(offset != HADDR_UNDEF, path_, ": dataset '", name, "' holds nothing", kRebuild);
    return {std::int64_t(offset), std::int64_t(count)};
  }

 private:
  Hdf5Handle open_attribute(const char* name, H5T_class_t expected) const {
    Hdf5Handle attribute(H5Aopen(file_.get(), name, H5P_DEFAULT), H5Aclose);
    MOE_REQUIRE(attribute.get() >= 0, path_, ": attribute '", name, "' is missing", kRebuild);
    const Hdf5Handle type(H5Aget_type(attribute.get()), H5Tclose);
    const Hdf5Handle space(H5Aget_space(attribute.get()), H5Sclose);
    MOE_REQUIRE(
        H5Tget_class(type.get()) == expected && H5Sget_simple_extent_npoints(space.get()) == 1,
        path_, ": attribute '", name, "' has the wrong type", kRebuild);
    return attribute;
  }

  std::string path_;
  Hdf5Handle file_;
};

}  // namespace

struct TokenFile::Impl {
  std::filesystem::path path;
  TokenManifest manifest;
  TokenFileInfo info;
  std::once_flag once;
  std::optional<MappedFile> file;
  const std::byte* token_data = nullptr;
  const std::byte* document_data = nullptr;          // u64 [documents + 1]
  const std::byte* checksum_data = nullptr;          // u64 [blocks]
  const std::byte* learned_data = nullptr;           // u8 [tokens]; null: all are learned
  const std::byte* learned_checksum_data = nullptr;  // u64 [blocks]

  explicit Impl(const std::filesystem::path& shard) : path(shard), manifest(read_manifest(shard)) {
    std::error_code error;
    const auto size = std::int64_t(std::filesystem::file_size(shard, error));
    MOE_REQUIRE(!error, shard.string(), ": cannot open: ", error.message());
    MOE_REQUIRE(size == manifest.file_size, shard.string(), ": ", size,
                " bytes, its manifest says ", manifest.file_size,
                size < manifest.file_size ? ": truncated" : "", kRebuild);
    if (manifest.tokenizer)
      info = {.domain = manifest.domain,
              .tokenizer_hash = manifest.tokenizer->hash,
              .vocabulary_size = manifest.vocabulary_size,
              .bos_id = manifest.tokenizer->bos_id,
              .eos_id = manifest.tokenizer->eos_id,
              .masked = manifest.learned.has_value()};
    else
      open();
  }

  /// Maps the file and checks all but its tokens, the first time.
  void open() {
    std::call_once(once, [this] {
      const std::string name = path.string();
      MappedFile mapped(path);
      MOE_REQUIRE(mapped.size() == manifest.file_size &&
                      metadata_checksum(mapped.bytes(), manifest) == manifest.metadata_checksum,
                  name,
                  ": wrong checksum outside the token data: the file is damaged or not the one its "
                  "manifest describes",
                  kRebuild);
      file.emplace(std::move(mapped));
      read_metadata(name);
      check_documents(name);
    });
  }

  void read_metadata(const std::string& name) {
    const auto lock = lock_hdf5();
    const MetadataReader reader(name);
    const TokenFileInfo held = {.domain = reader.text("domain"),
                                .tokenizer_hash = reader.text("tokenizer_hash"),
                                .vocabulary_size = reader.number("vocabulary_size"),
                                .bos_id = std::int32_t(reader.number("bos_id")),
                                .eos_id = std::int32_t(reader.number("eos_id")),
                                .masked = manifest.learned.has_value()};
    if (!manifest.tokenizer) info = held;
    const Extent tokens =
        reader.dataset("tokens", manifest.token_bytes == 2 ? H5T_STD_U16LE : H5T_STD_U32LE);
    const Extent documents = reader.dataset("documents", H5T_STD_U64LE);
    const Extent checksums = reader.dataset("checksums", H5T_STD_U64LE);
    const std::int64_t blocks = (manifest.tokens + kTokenBlock - 1) / kTokenBlock;
    std::vector<Extent> words = {documents, checksums};
    bool mask_fits = true;
    if (manifest.learned) {
      const Extent learned = reader.dataset("learned", H5T_STD_U8LE);
      words.push_back(reader.dataset("learned_checksums", H5T_STD_U64LE));
      mask_fits = reader.number("learned_tokens") == manifest.learned->tokens &&
                  learned.offset == manifest.learned->offset && learned.count == manifest.tokens &&
                  words.back().count == blocks;
      learned_data = file->bytes() + learned.offset;
      learned_checksum_data = file->bytes() + words.back().offset;
    }
    MOE_REQUIRE(mask_fits &&
                    reader.number("format_version") ==
                        (manifest.learned ? kMaskedFormatVersion : kTokenFormatVersion) &&
                    reader.number("block_tokens") == kTokenBlock && held == info &&
                    held.vocabulary_size == manifest.vocabulary_size &&
                    held.domain == manifest.domain && tokens.offset == manifest.token_offset &&
                    tokens.count == manifest.tokens && documents.count == manifest.documents + 1 &&
                    checksums.count == blocks,
                name, ": the file and its manifest contradict each other", kRebuild);
    for (const Extent& e : words)
      MOE_REQUIRE(e.offset <= file->size() - e.count * 8, name, ": a dataset ends beyond the file",
                  kRebuild);
    token_data = file->bytes() + tokens.offset;
    document_data = file->bytes() + documents.offset;
    checksum_data = file->bytes() + checksums.offset;
  }

  void check_documents(const std::string& name) const {
    std::uint64_t previous = word(document_data, 0);
    bool ascending = previous == 0;
    for (std::int64_t i = 1; i <= manifest.documents; ++i) {
      const std::uint64_t next = word(document_data, i);
      ascending = ascending && next > previous;
      previous = next;
    }
    MOE_REQUIRE(ascending && previous == std::uint64_t(manifest.tokens), name,
                ": the offsets of its documents do not add up", kRebuild);
  }

  void check_range(std::int64_t first, std::int64_t count) const {
    MOE_CHECK(first >= 0 && count >= 0 && first <= manifest.tokens - count, path.string(),
              ": tokens [", first, ", ", first + count, ") of ", manifest.tokens);
  }

  static std::uint64_t word(const std::byte* data, std::int64_t i) {
    std::uint64_t value;
    std::memcpy(&value, data + i * 8, 8);
    return value;
  }

  /// Checks a block of the mask; how many of its tokens are learned.
  std::int64_t verify_learned(std::int64_t first, std::int64_t count, std::int64_t block) const {
    const std::byte* flags = learned_data + first;
    MOE_REQUIRE(
        checksum(flags, std::size_t(count)) == word(learned_checksum_data, block) &&
            std::all_of(flags, flags + count, [](std::byte b) { return b <= std::byte{1}; }),
        path.string(), ": wrong checksum of what is learned of tokens [", first, ", ",
        first + count, "): the file is damaged", kRebuild);
    return std::count(flags, flags + count, std::byte{1});
  }

  /// Copies `out.size()` ids; the first one beyond the vocabulary ends the program's trust.
  template <class Stored>
  void read(std::int64_t first, std::span<std::int32_t> out) const {
    const std::byte* from = token_data + first * std::int64_t(sizeof(Stored));
    std::uint32_t largest = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      Stored id;
      std::memcpy(&id, from + i * sizeof(Stored), sizeof(Stored));
      largest = std::max(largest, std::uint32_t(id));
      out[i] = std::int32_t(id);
    }
    if (std::int64_t(largest) < info.vocabulary_size) return;
    const auto bad = std::find_if(out.begin(), out.end(), [&](std::int32_t id) {
      return std::int64_t(std::uint32_t(id)) >= info.vocabulary_size;
    });
    throw InputError(str(path.string(), ": token ", first + (bad - out.begin()), " has id ",
                         std::uint32_t(*bad), ", beyond its vocabulary of ", info.vocabulary_size,
                         ": the file is damaged", kRebuild));
  }
};

TokenFile::TokenFile(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {
  impl_->open();
}
TokenFile::TokenFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenFile TokenFile::opened_when_used(const std::filesystem::path& path) {
  return TokenFile(std::make_unique<Impl>(path));
}
TokenFile::~TokenFile() = default;
TokenFile::TokenFile(TokenFile&&) noexcept = default;
TokenFile& TokenFile::operator=(TokenFile&&) noexcept = default;

const std::filesystem::path& TokenFile::path() const { return impl_->path; }
const TokenFileInfo& TokenFile::info() const { return impl_->info; }
std::int64_t TokenFile::tokens() const { return impl_->manifest.tokens; }
std::int64_t TokenFile::documents() const { return impl_->manifest.documents; }
int TokenFile::token_bytes() const { return int(impl_->manifest.token_bytes); }

TokenFile::Range TokenFile::document(std::int64_t i) const {
  MOE_CHECK(i >= 0 && i < documents(), path().string(), ": document ", i, " of ", documents());
  impl_->open();
  const auto first = std::int64_t(Impl::word(impl_->document_data, i));
  return {first, std::int64_t(Impl::word(impl_->document_data, i + 1)) - first};
}

std::int64_t TokenFile::document_at(std::int64_t token) const {
  MOE_CHECK(token >= 0 && token < tokens(), path().string(), ": token ", token, " of ", tokens());
  impl_->open();
  std::int64_t low = 0, high = documents();  // begins at or before it; begins behind it
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (std::int64_t(Impl::word(impl_->document_data, middle)) <= token ? low : high) = middle;
  }
  return low;
}

void TokenFile::read(std::int64_t first, std::span<std::int32_t> out) const {
  const auto count = std::int64_t(out.size());
  impl_->check_range(first, count);
  impl_->open();
  if (token_bytes() == 2)
    impl_->read<std::uint16_t>(first, out);
  else
    impl_->read<std::uint32_t>(first, out);
}

void TokenFile::read_learned(std::int64_t first, std::span<std::uint8_t> out) const {
  const auto count = std::int64_t(out.size());
  impl_->check_range(first, count);
  if (!info().masked) return std::fill(out.begin(), out.end(), std::uint8_t{1});
  impl_->open();
  std::memcpy(out.data(), impl_->learned_data + first, out.size());
  const auto bad = std::find_if(out.begin(), out.end(), [](std::uint8_t flag) { return flag > 1; });
  MOE_REQUIRE(bad == out.end(), path().string(), ": whether token ", first + (bad - out.begin()),
              " is learned is ", int(*bad), ", neither 0 nor 1: the file is damaged", kRebuild);
}

std::int64_t TokenFile::count_learned(std::int64_t first, std::int64_t count) const {
  impl_->check_range(first, count);
  if (!info().masked) return count;
  impl_->open();
  const std::byte* from = impl_->learned_data + first;
  return std::count(from, from + count, std::byte{1});
}

std::int64_t TokenFile::learned_tokens() const {
  return info().masked ? impl_->manifest.learned->tokens : tokens();
}

void TokenFile::verify(const std::function<void(std::int64_t)>& progress) const {
  impl_->open();
  std::vector<std::int32_t> ids(std::size_t(std::min(kTokenBlock, tokens())));
  std::int64_t learned = 0;
  for (std::int64_t first = 0, block = 0; first < tokens(); first += kTokenBlock, ++block) {
    const std::int64_t count = std::min(kTokenBlock, tokens() - first);
    const std::byte* bytes = impl_->token_data + first * token_bytes();
    MOE_REQUIRE(checksum(bytes, std::size_t(count * token_bytes())) ==
                    Impl::word(impl_->checksum_data, block),
                path().string(), ": wrong checksum of tokens [", first, ", ", first + count,
                "): the file is damaged", kRebuild);
    read(first, {ids.data(), std::size_t(count)});
    if (info().masked) learned += impl_->verify_learned(first, count, block);
    if (progress) progress(first + count);
  }
  MOE_REQUIRE(!info().masked || learned == learned_tokens(), path().string(), ": ", learned,
              " tokens are learned, its manifest says ", learned_tokens(), kRebuild);
  for (std::int64_t d = 0; info().masked && d < documents(); ++d)
    MOE_REQUIRE(count_learned(document(d).first, 1) == 0, path().string(), ": the first token of ",
                "document ", d, " is learned, and no token goes before it", kRebuild);
}

}  // namespace moe
