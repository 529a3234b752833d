// SPDX-License-Identifier: Apache-2.0
#include "data/token_file.h"

#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "data/data_test_support.h"
#include "data/token_format.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class TokenShard : public ::testing::Test {
 protected:
  TestFolder folder_;
  const fs::path shard_ = folder_ / "a.h5";

  /// The error of opening the shard, which must name it.
  std::string open_error() {
    const std::string message = input_error_of([&] { TokenFile file(shard_); });
    EXPECT_THAT(message, HasSubstr(shard_.string()));
    return message;
  }

  void flip(const fs::path& path, std::size_t at, char bits) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    char byte = 0;
    file.seekg(std::streamoff(at)).get(byte);
    file.seekp(std::streamoff(at)).put(char(byte ^ bits));
    ASSERT_TRUE(file.flush().good());
  }
};

TEST_F(TokenShard, GivesBackTheDocumentsThatWereWritten) {
  const auto documents = random_documents(300, 50, 1000);
  TokenWriter writer({.domain = "wiki",
                      .tokenizer_hash = "0123456789abcdef",
                      .vocabulary_size = 1000,
                      .bos_id = 1,
                      .eos_id = 2},
                     folder_.path());
  for (const Document& d : documents) writer.append(d);
  const auto written = writer.write(shard_);
  const TokenFile file(shard_);
  EXPECT_EQ(written.documents, 300);
  EXPECT_EQ(file.documents(), 300);
  EXPECT_EQ(file.tokens(), std::int64_t(concatenated(documents).size()));
  EXPECT_EQ(file.info(), (TokenFileInfo{"wiki", "0123456789abcdef", 1000, 1, 2}));
  EXPECT_EQ(read_documents(file), documents);
  EXPECT_NO_THROW(file.verify());
}

TEST_F(TokenShard, StoresTwoBytesUpToAVocabularyOf65536AndFourBeyond) {
  for (const auto& [vocabulary, bytes] : {std::pair{65536, 2}, {65537, 4}, {2000000000, 4}}) {
    const std::vector<Document> documents = {{vocabulary - 1, 0}, {vocabulary / 2}};
    write_shard(shard_, documents, vocabulary);
    const TokenFile file(shard_);
    EXPECT_EQ(file.token_bytes(), bytes);
    EXPECT_EQ(read_documents(file), documents);
    EXPECT_NO_THROW(file.verify());
  }
}

TEST_F(TokenShard, HoldsDocumentsLargerThanEveryBuffer) {
  // More tokens than a block, a document beyond the spool's buffer, and odd sizes around them.
  std::vector<Document> documents = {{7}, Document(std::size_t(kTokenBlock) + 12345), {8, 9}};
  for (std::size_t i = 0; i < documents[1].size(); ++i)
    documents[1][i] = std::int32_t(i * 2654435761u % 70000u);
  for (const auto& more : random_documents(70000, 3, 70000)) documents.push_back(more);
  write_shard(shard_, documents, 70000);
  const TokenFile file(shard_);
  EXPECT_EQ(read_documents(file), documents);
  std::int64_t checked = 0;
  file.verify([&](std::int64_t done) { checked = done; });
  EXPECT_EQ(checked, file.tokens());
}

TEST_F(TokenShard, TheSameDocumentsGiveTheSameBytes) {
  const auto documents = random_documents(50, 20, 300);
  write_shard(shard_, documents, 300);
  write_shard(folder_ / "b.h5", documents, 300);
  EXPECT_EQ(read_bytes(shard_), read_bytes(folder_ / "b.h5"));
  EXPECT_EQ(read_bytes(manifest_path(shard_)), read_bytes(manifest_path(folder_ / "b.h5")));
}

TEST_F(TokenShard, IsReadByManyThreadsAtOnce) {
  const auto documents = random_documents(200, 100, 500);
  write_shard(shard_, documents, 500);
  const auto all = concatenated(documents);
  const TokenFile file(shard_);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      const TokenFile own(shard_);  // opening is under the lock, reading is not
      std::vector<std::int32_t> ids(37);
      for (std::size_t first = std::size_t(t); first + 37 < all.size(); first += 41) {
        (t % 2 == 0 ? own : file).read(std::int64_t(first), ids);
        if (!std::equal(ids.begin(), ids.end(), all.begin() + std::ptrdiff_t(first))) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(TokenShard, SelectionsOfOneWriterTakeEveryDocumentOnce) {
  const auto documents = random_documents(1000, 9, 100);
  TokenWriter writer({.domain = "d", .vocabulary_size = 100}, folder_.path());
  for (const Document& d : documents) writer.append(d);
  const auto third = [](std::int64_t i) { return i % 3 == 0 || i > 900; };
  writer.write(shard_, third);
  writer.write(folder_ / "rest.h5", [&](std::int64_t i) { return !third(i); });
  const auto kept = read_documents(TokenFile(shard_));
  const auto rest = read_documents(TokenFile(folder_ / "rest.h5"));
  std::size_t from_kept = 0, from_rest = 0;
  for (std::size_t i = 0; i < documents.size(); ++i)
    EXPECT_EQ(third(std::int64_t(i)) ? kept.at(from_kept++) : rest.at(from_rest++), documents[i]);
  EXPECT_EQ(from_kept, kept.size());
  EXPECT_EQ(from_rest, rest.size());
}

TEST_F(TokenShard, RefusesWhatItCannotStore) {
  TokenWriter writer({.domain = "d", .vocabulary_size = 100}, folder_.path());
  EXPECT_THAT(input_error_of([&] {
                writer.append(Document{1, 100});
              }),
              HasSubstr("token id 100 is beyond the vocabulary of 100"));
  EXPECT_THROW(writer.append(Document{-1}), InputError);
  EXPECT_THROW(writer.append({}), InputError);
  EXPECT_THROW(writer.write(shard_), InputError);  // nothing to store
  EXPECT_TRUE(fs::is_empty(folder_.path())) << "a failed write leaves nothing behind";
  EXPECT_THROW(TokenWriter({.domain = "", .vocabulary_size = 1}, folder_.path()), InputError);
  EXPECT_THROW(TokenWriter({.domain = "d", .vocabulary_size = 0}, folder_.path()), InputError);
}

TEST_F(TokenShard, AFullDiskIsReportedAndLeavesTheOldShard) {
  const auto old = random_documents(5, 20, 300, 1);
  write_shard(shard_, old, 300);
  TokenWriter writer({.domain = "d", .vocabulary_size = 300}, folder_.path());
  for (const Document& d : random_documents(3000, 20, 300, 2)) writer.append(d);
  const auto full_at = [&](rlim_t bytes) {
    rlimit limit{};
    getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit before = limit;
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
    std::string message;
    try {
      writer.write(shard_);
    } catch (const Error& e) {
      message = e.what();
    }
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    return message;
  };
  // Brings the waiting documents to disk, so that the limit meets nothing but the shard.
  writer.write(folder_ / "whole.h5");
  const auto size = std::int64_t(fs::file_size(folder_ / "whole.h5"));
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{100}, size / 2, size - 1}) {
    EXPECT_THAT(full_at(rlim_t(bytes)), HasSubstr("cannot be written")) << bytes;
    EXPECT_EQ(read_documents(TokenFile(shard_)), old);
  }
  EXPECT_EQ(full_at(rlim_t(size)), "");
  EXPECT_EQ(TokenFile(shard_).documents(), 3000);
}

TEST_F(TokenShard, AFlippedByteOutsideTheTokensIsRefusedWhenOpened) {
  write_shard(shard_, random_documents(40, 20, 300), 300);
  const TokenManifest manifest = read_manifest(shard_);
  const auto token_begin = std::size_t(manifest.token_offset);
  const std::size_t token_end = token_begin + std::size_t(manifest.tokens * manifest.token_bytes);
  const auto size = std::size_t(manifest.file_size);
  ASSERT_LE(token_end, size);
  for (std::size_t at = 0; at < size; ++at) {
    if (at == token_begin) at = token_end;
    if (at == size) break;
    flip(shard_, at, 1);
    ASSERT_THAT(open_error(), HasSubstr("wrong checksum outside the token data")) << at;
    flip(shard_, at, 1);
  }
  EXPECT_NO_THROW(TokenFile(shard_).verify());
}

TEST_F(TokenShard, AFlippedByteAmongTheTokensIsFoundByVerify) {
  write_shard(shard_, random_documents(40, 20, 65536), 65536);
  flip(shard_, std::size_t(read_manifest(shard_).token_offset) + 11, 1);
  const TokenFile file(shard_);
  EXPECT_THAT(input_error_of([&] { file.verify(); }),
              AllOf(HasSubstr(shard_.string()), HasSubstr("wrong checksum of tokens [0, ")));
}

TEST_F(TokenShard, AnIdBeyondTheVocabularyIsNeverGivenOut) {
  write_shard(shard_, {{1, 2, 3, 4}}, 300);
  flip(shard_, std::size_t(read_manifest(shard_).token_offset) + 5, 0x40);
  const TokenFile file(shard_);
  std::vector<std::int32_t> ids(4);
  EXPECT_THAT(input_error_of([&] { file.read(0, ids); }),
              AllOf(HasSubstr(shard_.string()), HasSubstr("token 2 has id 16387")));
  EXPECT_NO_THROW(file.read(0, std::span(ids).first(2)));
  EXPECT_THROW(file.read(3, std::span(ids).first(2)), Error) << "beyond the end";
}

TEST_F(TokenShard, AWideIdThatLooksNegativeIsNeverGivenOut) {
  write_shard(shard_, {{1, 2, 3, 4}}, 70000);
  flip(shard_, std::size_t(read_manifest(shard_).token_offset) + 4 * 2 + 3, char(0x80));
  const TokenFile file(shard_);
  std::vector<std::int32_t> ids(4);
  EXPECT_THAT(input_error_of([&] { file.read(0, ids); }), HasSubstr("token 2 has id 2147483651"));
}

TEST_F(TokenShard, ATruncatedFileIsRefused) {
  write_shard(shard_, random_documents(40, 20, 300), 300);
  const std::string good = read_bytes(shard_);
  for (const std::size_t size : {good.size() - 1, good.size() / 2, std::size_t{10}}) {
    write_bytes(shard_, good.substr(0, size));
    EXPECT_THAT(open_error(), HasSubstr("truncated"));
  }
  write_bytes(shard_, "");
  EXPECT_THAT(open_error(), HasSubstr("0 bytes, its manifest says"));
  write_bytes(shard_, good + "x");
  EXPECT_THAT(open_error(), HasSubstr("its manifest says"));
  fs::remove(shard_);
  EXPECT_THAT(open_error(), HasSubstr("cannot open"));
}

TEST_F(TokenShard, AMissingOrForeignManifestIsRefused) {
  write_shard(shard_, random_documents(40, 20, 300), 300);
  write_shard(folder_ / "b.h5", random_documents(40, 20, 300, 2), 300);
  const std::string own = read_bytes(manifest_path(shard_));
  fs::remove(manifest_path(shard_));
  EXPECT_THAT(open_error(), HasSubstr("a.h5.json is missing"));
  fs::copy(manifest_path(folder_ / "b.h5"), manifest_path(shard_));
  open_error();
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, own.size() / 2}) {
    write_bytes(manifest_path(shard_), own.substr(0, size));
    EXPECT_THAT(open_error(), HasSubstr("not a JSON object"));
  }
}

TEST_F(TokenShard, NoFlippedBitOfTheManifestIsBelieved) {
  const auto documents = random_documents(40, 20, 300);
  write_shard(shard_, documents, 300);
  const fs::path manifest = manifest_path(shard_);
  const std::size_t size = fs::file_size(manifest);
  const TokenFileInfo info = TokenFile(shard_).info();
  for (std::size_t at = 0; at < size; ++at)
    for (int bit = 0; bit < 8; ++bit) {
      flip(manifest, at, char(1 << bit));
      try {
        // Only what means the same may pass: white space, the case of a digit.
        const TokenFile file(shard_);
        EXPECT_EQ(read_documents(file), documents) << at << " " << bit;
        // A manifest that lost its entry for the tokenizer is an older one: the file says the same.
        EXPECT_EQ(file.info(), info) << at << " " << bit;
      } catch (const InputError&) {
      }
      flip(manifest, at, char(1 << bit));
    }
}

TEST_F(TokenShard, AManifestOfAnotherVersionIsRefused) {
  write_shard(shard_, {{1, 2}}, 300);
  std::string text = read_bytes(manifest_path(shard_));
  text.replace(text.find("\"format_version\": 1"), 19, "\"format_version\": 9");
  write_bytes(manifest_path(shard_), text);
  EXPECT_THAT(open_error(), HasSubstr("format version 9, this program reads 1"));
}

}  // namespace
}  // namespace moe
