// SPDX-License-Identifier: Apache-2.0
#include "data/text_reader.h"

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::vector<std::string> lines_of(const fs::path& path) {
  LineReader reader(path);
  std::vector<std::string> lines;
  for (std::string line; reader.next(line);) {
    lines.push_back(line);
    EXPECT_EQ(reader.line_number(), std::int64_t(lines.size()));
  }
  EXPECT_EQ(reader.bytes_read(), std::int64_t(fs::file_size(path)));
  return lines;
}

std::vector<RawDocument> documents_of(const fs::path& path,
                                      std::optional<std::string> separator = {}) {
  DocumentReader reader(path, std::move(separator));
  std::vector<RawDocument> documents;
  for (RawDocument document; reader.next(document);) documents.push_back(document);
  return documents;
}

std::vector<std::string> texts_of(const fs::path& path, std::optional<std::string> separator = {}) {
  std::vector<std::string> texts;
  for (const auto& d : documents_of(path, std::move(separator))) texts.push_back(d.content);
  return texts;
}

TEST(LineReader, ReadsTheSameLinesPlainGzippedAndZstandard) {
  const TestFolder folder;
  std::string text = "first\n\nthird\r\n";
  std::vector<std::string> expected = {"first", "", "third\r"};
  for (int i = 0; i < 30000; ++i) {  // more than any buffer
    expected.push_back(str("line ", i, std::string(std::size_t(i % 97), 'x')));
    text += expected.back() + "\n";
  }
  expected.push_back(std::string(700000, 'y'));  // longer than a buffer, and no newline at the end
  text += expected.back();
  write_bytes(folder / "a.jsonl", text);
  write_bytes(folder / "a.jsonl.gz", gzip(text));
  write_bytes(folder / "a.jsonl.zst", zstd(text));
  write_bytes(folder / "two.gz", gzip(text.substr(0, 1000)) + gzip(text.substr(1000)));
  write_bytes(folder / "two.zst", zstd(text.substr(0, 1000)) + zstd(text.substr(1000)));
  write_bytes(folder / "unnamed", gzip(text));
  for (const char* name : {"a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "two.gz", "two.zst", "unnamed"})
    EXPECT_EQ(lines_of(folder / name), expected) << name;
  write_bytes(folder / "empty", "");
  write_bytes(folder / "empty.gz", gzip(""));
  write_bytes(folder / "empty.zst", zstd(""));
  for (const char* name : {"empty", "empty.gz", "empty.zst"})
    EXPECT_TRUE(lines_of(folder / name).empty()) << name;
}

TEST(LineReader, EveryTruncationOfACompressedFileIsReported) {
  const TestFolder folder;
  std::string text;
  for (int i = 0; i < 40; ++i) text += str("line number ", i * i, "\n");
  for (const auto& [name, packed] :
       {std::pair<std::string, std::string>{"a.gz", gzip(text)}, {"a.zst", zstd(text)}})
    for (std::size_t size = 0; size < packed.size(); ++size) {
      write_bytes(folder / name, packed.substr(0, size));
      EXPECT_THAT(input_error_of([&] { lines_of(folder / name); }),
                  AllOf(HasSubstr((folder / name).string()), HasSubstr("truncated")))
          << size << " bytes of " << packed.size();
    }
}

TEST(LineReader, DamagedDataIsReportedWithTheLine) {
  const TestFolder folder;
  std::string packed = gzip("one\ntwo\n");
  packed[packed.size() - 8] ^= 1;  // the CRC
  write_bytes(folder / "a.gz", packed);
  EXPECT_THAT(input_error_of([&] { lines_of(folder / "a.gz"); }),
              AllOf(HasSubstr("a.gz:"), HasSubstr("damaged")));
  packed = zstd(std::string(1000, 'x') + "abcdefgh");
  packed[5] = char(packed[5] ^ 0xff);
  packed[7] = char(packed[7] ^ 0xff);
  write_bytes(folder / "a.zst", packed);
  EXPECT_THAT(input_error_of([&] { lines_of(folder / "a.zst"); }), HasSubstr("a.zst:1: "));
  EXPECT_THAT(input_error_of([&] { LineReader reader(folder / "none"); }),
              HasSubstr("cannot open"));
  EXPECT_THAT(input_error_of([&] { LineReader reader(folder.path()); }), HasSubstr("a folder"));
  EXPECT_THAT(input_error_of([] { LineReader reader("/dev/null"); }), HasSubstr("give a file"));
}

TEST(DocumentReader, TakesOneDocumentALineOfJsonl) {
  const TestFolder folder;
  write_bytes(folder / "a.jsonl", "{\"a\":1}\n  \n\r\n{\"b\":2}\r\n{}");
  const auto documents = documents_of(folder / "a.jsonl");
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[1].content, "{\"b\":2}\r");
  EXPECT_EQ(documents[1].line, 4);
  EXPECT_EQ(documents[2].line, 5);
}

TEST(DocumentReader, TakesATextFileWholeOrInParts) {
  const TestFolder folder;
  const std::string text = "one\n\nstill one\n<|end|>\ntwo\n<|end|>\n\n<|end|>\nfour\n\n";
  write_bytes(folder / "a.txt", text);
  write_bytes(folder / "a.txt.gz", gzip(text));
  for (const char* name : {"a.txt", "a.txt.gz"}) {
    EXPECT_THAT(texts_of(folder / name), ElementsAre(text.substr(0, text.size() - 2)));
    EXPECT_THAT(texts_of(folder / name, "<|end|>"),
                ElementsAre("one\n\nstill one", "two", "", "four"));
    EXPECT_THAT(texts_of(folder / name, ""),
                ElementsAre("one", "still one\n<|end|>\ntwo\n<|end|>", "<|end|>\nfour"));
  }
  EXPECT_EQ(documents_of(folder / "a.txt", "<|end|>")[1].line, 5);
}

TEST(Jsonl, GivesTheFieldOrSaysWhatIsWrongWithTheLine) {
  EXPECT_EQ(parse_text(R"({"meta":{"x":[1]},"text":"a\u00e9\n\"b\""})", "text", "f:1"),
            "a\xc3\xa9\n\"b\"");
  const auto error = [](const std::string& line) {
    return input_error_of([&] { parse_text(line, "text", "corpus/a.jsonl.gz:17"); });
  };
  EXPECT_EQ(error(R"({"content":"x"})"),
            "corpus/a.jsonl.gz:17: field 'text' is missing (choose another with --field)");
  EXPECT_THAT(error(R"({"text":7})"), HasSubstr(":17: field 'text' is a number, not text"));
  EXPECT_THAT(error(R"({"text":null})"), HasSubstr("null"));
  EXPECT_THAT(error("[1]"), HasSubstr("a JSON array where an object is expected"));
  for (const char* bad : {"", "{", R"({"text":"x"} y)", R"({"text":"\ud800"})",
                          "{\"text\":\"\xff\"}", R"({"text":"x)", "nul"})
    EXPECT_THAT(error(bad), HasSubstr(":17: not valid JSON: ")) << bad;
  EXPECT_THAT(error(std::string(1 << 20, '[')), HasSubstr("not valid JSON"));
}

TEST(Jsonl, GivesIdsWithinTheVocabularyOnly) {
  EXPECT_THAT(parse_ids(R"({"input_ids":[1, 0, 299]})", "input_ids", 300, "f:1"),
              ElementsAre(1, 0, 299));
  EXPECT_THAT(parse_ids(R"({"input_ids":[]})", "input_ids", 300, "f:1"), ElementsAre());
  const auto error = [](const std::string& ids) {
    return input_error_of([&] { parse_ids("{\"ids\":" + ids + "}", "ids", 300, "f.jsonl:3"); });
  };
  EXPECT_EQ(error("[1,300]"),
            "f.jsonl:3: token id 300 at position 1 is beyond the vocabulary of 300");
  EXPECT_THAT(error("[-1]"), HasSubstr("token id -1 at position 0"));
  EXPECT_THAT(error("[4294967296]"), HasSubstr("beyond the vocabulary"));
  EXPECT_THAT(error("[18446744073709551617]"), HasSubstr("no token id"));
  EXPECT_THAT(error("[1.5]"), HasSubstr("entry 0 of 'ids' is no token id"));
  EXPECT_THAT(error("[\"1\"]"), HasSubstr("no token id"));
  EXPECT_THAT(error("\"1\""), HasSubstr("not a list of token ids"));
}

TEST(Jsonl, ReportsPlainTextThatIsNotUtf8) {
  EXPECT_NO_THROW(check_utf8("na\xc3\xafve \xf0\x9f\xa6\x99", "a.txt:1"));
  EXPECT_THAT(input_error_of([] { check_utf8("na\xefve", "a.txt:1"); }),
              HasSubstr("a.txt:1: not valid UTF-8"));
}

}  // namespace
}  // namespace moe
