// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "data/token_writer.h"
#include "support/realdata.h"
#include "support/test_folder.h"

namespace moe {

using Document = std::vector<std::int32_t>;

using test::TestFolder;

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline std::string gzip(const std::string& bytes) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, bytes.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = uInt(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = uInt(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

inline std::string zstd(const std::string& bytes) {
  std::string packed(ZSTD_compressBound(bytes.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), 3));
  return packed;
}

/// Documents of 1 to `longest` ids below `vocabulary`.
inline std::vector<Document> random_documents(std::int64_t count, std::int64_t longest,
                                              std::int64_t vocabulary, std::uint64_t seed = 1) {
  const Philox random(seed, RandomPurpose::test);
  std::vector<Document> documents(static_cast<std::size_t>(count));
  std::uint64_t draw = 0;
  for (Document& document : documents) {
    document.resize(1 + random.below(draw++, std::uint64_t(longest)));
    for (std::int32_t& id : document)
      id = std::int32_t(random.below(draw++, std::uint64_t(vocabulary)));
  }
  return documents;
}

inline std::vector<std::int32_t> concatenated(const std::vector<Document>& documents) {
  std::vector<std::int32_t> all;
  for (const Document& d : documents) all.insert(all.end(), d.begin(), d.end());
  return all;
}

inline void write_shard(const std::filesystem::path& path, const std::vector<Document>& documents,
                        std::int64_t vocabulary, const std::string& tokenizer_hash = "",
                        const std::string& domain = "test") {
  TokenWriter writer(
      {.domain = domain, .tokenizer_hash = tokenizer_hash, .vocabulary_size = vocabulary},
      path.parent_path());
  for (const Document& document : documents) writer.append(document);
  writer.write(path);
}

using Mask = std::vector<std::uint8_t>;

/// A shard that says which tokens are learned.
inline void write_masked_shard(const std::filesystem::path& path,
                               const std::vector<Document>& documents,
                               const std::vector<Mask>& masks, std::int64_t vocabulary,
                               const std::string& tokenizer_hash = "",
                               const std::string& domain = "test") {
  TokenWriter writer({.domain = domain,
                      .tokenizer_hash = tokenizer_hash,
                      .vocabulary_size = vocabulary,
                      .masked = true},
                     path.parent_path());
  for (std::size_t i = 0; i < documents.size(); ++i) writer.append(documents[i], masks[i]);
  writer.write(path);
}

/// A mask for each document that learns two tokens of three, never the first.
inline std::vector<Mask> random_masks(const std::vector<Document>& documents,
                                      std::uint64_t seed = 1) {
  const Philox random(seed, RandomPurpose::test, {1});
  std::uint64_t draw = 0;
  std::vector<Mask> masks;
  for (const Document& document : documents) {
    Mask& mask = masks.emplace_back(document.size());
    for (std::size_t i = 1; i < mask.size(); ++i) mask[i] = random.below(draw++, 3) > 0;
  }
  return masks;
}

inline std::vector<Mask> read_masks(const TokenFile& file) {
  std::vector<Mask> masks;
  for (std::int64_t i = 0; i < file.documents(); ++i) {
    const TokenFile::Range range = file.document(i);
    file.read_learned(range.first, masks.emplace_back(std::size_t(range.count)));
  }
  return masks;
}

inline std::vector<Document> read_documents(const TokenFile& file) {
  std::vector<Document> documents;
  for (std::int64_t i = 0; i < file.documents(); ++i) {
    const TokenFile::Range range = file.document(i);
    Document& document = documents.emplace_back(std::size_t(range.count));
    file.read(range.first, document);
  }
  return documents;
}

/// The message of the InputError that `f` must throw.
template <class F>
std::string input_error_of(F&& f) {
  try {
    f();
  } catch (const InputError& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "expected InputError, got: " << e.what();
    return {};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

inline std::filesystem::path real_data(const std::string& name) {
  return testing::realdata() / name;
}

}  // namespace moe
