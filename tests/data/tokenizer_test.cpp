// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.h"

#include <sstream>

#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

class Llama2Tokenizer : public ::testing::Test {
 protected:
  void SetUp() override { MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model"); }
  static Tokenizer open() { return Tokenizer::open(real_data("tokenizers/llama2")); }
};

std::string streamed(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string piece = decoder.push(id);
    // A piece never ends, nor begins, inside a character.
    EXPECT_TRUE(piece.empty() || (static_cast<unsigned char>(piece[0]) & 0xc0) != 0x80);
    text += piece;
  }
  return text + decoder.finish();
}

TEST_F(Llama2Tokenizer, GivesTheIdsOfTheReference) {
  const std::string name = "tokenizers/llama2/ggml-vocab-llama-spm.gguf";
  MOE_SKIP_WITHOUT_REALDATA(name + ".inp");
  const std::string inputs = read_bytes(real_data(name + ".inp"));
  std::ifstream outputs(real_data(name + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  const Tokenizer tokenizer = open();
  int cases = 0;
  for (std::size_t at = 0; at <= inputs.size(); ++cases) {
    const std::size_t end = std::min(inputs.find(separator, at), inputs.size());
    const std::string text = inputs.substr(at, end - at);
    at = end + separator.size();
    std::string line;
    if (!std::getline(outputs, line)) break;
    std::istringstream numbers(line);
    const std::vector<std::int32_t> expected{std::istream_iterator<std::int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer.encode(text), expected) << "case " << cases << ": " << text;
    EXPECT_EQ(tokenizer.decode(expected), text) << "case " << cases;
    EXPECT_EQ(streamed(tokenizer, expected), text) << "case " << cases;
  }
  EXPECT_EQ(cases, 46);  // the 45 cases, and the empty text behind the last separator
}

TEST_F(Llama2Tokenizer, KnowsItself) {
  const Tokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.vocabulary_size(), 32000);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.hash().size(), 16u);
  EXPECT_EQ(tokenizer.hash(),
            Tokenizer::open(real_data("tokenizers/llama2/tokenizer.model")).hash());
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{1, 15043, 3186, 2}), "Hello world");
  EXPECT_THROW(tokenizer.decode(std::vector<std::int32_t>{32000}), InputError);
  EXPECT_THROW(tokenizer.decode(std::vector<std::int32_t>{-1}), InputError);
}

TEST_F(Llama2Tokenizer, StreamsWhatDecodeGivesForAnyIds) {
  const Tokenizer tokenizer = open();
  const Philox random(3, RandomPurpose::test);
  for (std::uint64_t round = 0; round < 400; ++round) {
    std::vector<std::int32_t> ids;
    const std::uint64_t length = 1 + random.below(round, 12);
    for (std::uint64_t i = 0; i < length; ++i) {
      const Philox draw(3, RandomPurpose::test, {round, i});
      // Half of them bytes (ids 3 to 258), half of those parts of longer characters; and the
      // control ids.
      const bool byte = draw.below(0, 2) == 0;
      ids.push_back(std::int32_t(byte ? (draw.below(1, 2) ? 3 : 131) + draw.below(2, 128)
                                      : draw.below(3, draw.below(4, 4) ? 32000 : 3)));
    }
    EXPECT_EQ(streamed(tokenizer, ids), tokenizer.decode(ids)) << ::testing::PrintToString(ids);
  }
}

TEST_F(Llama2Tokenizer, StreamsACharacterOnlyWhenItIsComplete) {
  const Tokenizer tokenizer = open();
  StreamDecoder decoder(tokenizer);
  const std::vector<std::int32_t> llama = {243, 162, 169, 156};  // 🦙 as four bytes
  EXPECT_EQ(decoder.push(15043), "Hello");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(decoder.push(llama[std::size_t(i)]), "");
  EXPECT_EQ(decoder.push(llama[3]), "\xf0\x9f\xa6\x99");
  EXPECT_EQ(decoder.push(3186), " world");
}

TEST(Tokenizer, RefusesWhatIsNoModelAndSaysWhatToDo) {
  const TestFolder folder;
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }),
              HasSubstr("give a sentencepiece tokenizer.model"));
  write_bytes(folder / "tokenizer.json", "{}");
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }),
              HasSubstr("only a tokenizer.json"));
  for (const std::string& bytes :
       {std::string(), std::string("no model"), std::string(5000, '\0')}) {
    write_bytes(folder / "tokenizer.model", bytes);
    EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }),
                HasSubstr("not a sentencepiece model"));
  }
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama3/tokenizer.model");
  EXPECT_THAT(input_error_of([] { Tokenizer::open(real_data("tokenizers/llama3")); }),
              HasSubstr("tiktoken"));
}

}  // namespace
}  // namespace moe
