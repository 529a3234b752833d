// SPDX-License-Identifier: Apache-2.0
#include "data/tokenizer.h"

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/held_out.h"
#include "data/tokenizer_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

/// Ids of `name`.out for the texts of `name`.inp, both ways.
void expect_vectors(const Tokenizer& tokenizer, const std::string& name) {
  const std::string inputs = read_bytes(real_data(name + ".inp"));
  std::ifstream outputs(real_data(name + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
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

struct Real {
  const char* file;
  const char* vectors;
  std::int64_t size;
  std::int32_t bos, eos;
};

class RealTokenizer : public ::testing::TestWithParam<Real> {
 protected:
  void SetUp() override { MOE_SKIP_WITHOUT_REALDATA(GetParam().file); }
  static Tokenizer open() { return Tokenizer::open(real_data(GetParam().file)); }
};

constexpr const char* kLlama2Vectors = "tokenizers/llama2/ggml-vocab-llama-spm.gguf";
INSTANTIATE_TEST_SUITE_P(
    , RealTokenizer,
    ::testing::Values(Real{"tokenizers/llama2/tokenizer.model", kLlama2Vectors, 32000, 1, 2},
                      Real{"tokenizers/llama2/tokenizer.json", kLlama2Vectors, 32003, 1, 2},
                      Real{"tokenizers/llama3/tokenizer.model",
                           "tokenizers/llama3/ggml-vocab-llama-bpe.gguf", 128256, 128000, 128001}));

TEST_P(RealTokenizer, GivesTheIdsOfTheReference) {
  MOE_SKIP_WITHOUT_REALDATA(std::string(GetParam().vectors) + ".inp");
  expect_vectors(open(), GetParam().vectors);
}

TEST_P(RealTokenizer, KnowsItself) {
  const Tokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.vocabulary_size(), GetParam().size);
  EXPECT_EQ(tokenizer.bos_id(), GetParam().bos);
  EXPECT_EQ(tokenizer.eos_id(), GetParam().eos);
  EXPECT_EQ(tokenizer.hash().size(), 16u);
  EXPECT_TRUE(tokenizer.encode("").empty());
  std::vector<std::int32_t> ids = tokenizer.encode("Hello world");
  ids.insert(ids.begin(), tokenizer.bos_id());
  ids.push_back(tokenizer.eos_id());
  EXPECT_EQ(tokenizer.decode(ids), "Hello world");
  const std::int32_t beyond = std::int32_t(tokenizer.vocabulary_size());
  EXPECT_THROW(tokenizer.decode(std::vector<std::int32_t>{beyond}), InputError);
  EXPECT_THROW(tokenizer.decode(std::vector<std::int32_t>{-1}), InputError);
}

TEST_P(RealTokenizer, DecodesWhatItEncoded) {
  MOE_SKIP_WITHOUT_REALDATA("corpus/redpajama_sample");
  const Tokenizer tokenizer = open();
  for (const std::string& text : redpajama_sample())
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST_P(RealTokenizer, GivesTheSameFromManyThreads) {
  MOE_SKIP_WITHOUT_REALDATA("corpus/redpajama_sample/github");
  const Tokenizer tokenizer = open();
  std::vector<std::string> texts = redpajama_sample();
  texts.resize(200);
  std::vector<std::vector<std::int32_t>> expected;
  for (const std::string& text : texts) expected.push_back(tokenizer.encode(text));
  std::atomic<int> different = 0;
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::size_t at = (i + t * texts.size() / 8) % texts.size();
        if (tokenizer.encode(texts[at]) != expected[at]) ++different;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(different, 0);
}

TEST_P(RealTokenizer, StreamsWhatDecodeGivesForAnyIds) {
  const Tokenizer tokenizer = open();
  for (std::uint64_t round = 0; round < 200; ++round) {
    std::vector<std::int32_t> ids;
    const std::uint64_t length = 1 + Philox(3, RandomPurpose::test).below(round, 12);
    for (std::uint64_t i = 0; i < length; ++i) {
      const Philox draw(3, RandomPurpose::test, {round, i});
      // Half of them among the ids of bytes.
      ids.push_back(std::int32_t(draw.below(1, draw.below(0, 2) ? 260 : 32000)));
    }
    EXPECT_EQ(streamed(tokenizer, ids), tokenizer.decode(ids)) << ::testing::PrintToString(ids);
  }
}

TEST(Llama2Tokenizer, StreamsACharacterOnlyWhenItIsComplete) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama2"));
  StreamDecoder decoder(tokenizer);
  const std::vector<std::int32_t> llama = {243, 162, 169, 156};  // 🦙 as four bytes
  EXPECT_EQ(decoder.push(15043), "Hello");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(decoder.push(llama[std::size_t(i)]), "");
  EXPECT_EQ(decoder.push(llama[3]), "\xf0\x9f\xa6\x99");
  EXPECT_EQ(decoder.push(3186), " world");
}

TEST(Llama3Tokenizer, FindsSpecialIdsByNameOnly) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama3/tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama3"));
  EXPECT_EQ(tokenizer.special_id("<|begin_of_text|>"), 128000);
  EXPECT_EQ(tokenizer.special_id("<|start_header_id|>"), 128006);
  EXPECT_EQ(tokenizer.special_id("<|end_header_id|>"), 128007);
  EXPECT_EQ(tokenizer.special_id("<|eot_id|>"), 128009);
  EXPECT_EQ(tokenizer.special_id("<|reserved_special_token_247|>"), 128255);
  EXPECT_EQ(tokenizer.special_id("<|reserved_special_token_248|>"), std::nullopt);
  EXPECT_EQ(tokenizer.special_id("Hello"), std::nullopt);
  for (const std::int32_t id : tokenizer.encode("<|begin_of_text|>a<|eot_id|>"))
    EXPECT_LT(id, 128000);
}

// Five conversations as one stream, cut in rows of 32 inputs, each labelled with the id behind it.
TEST(Llama3Tokenizer, PacksTheReferencesConversations) {
  MOE_SKIP_WITHOUT_REALDATA("sft/cs336/tokenized_sft_sample.json");
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama3/tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama3"));
  std::string form = read_bytes(real_data("sft/cs336/alpaca_sft.prompt"));
  if (form.ends_with('\n')) form.pop_back();  // the file's, not the template's
  const TestFolder folder;
  {
    TokenWriter writer({.domain = "sft", .vocabulary_size = tokenizer.vocabulary_size()},
                       folder.path());
    std::ifstream in(real_data("sft/cs336/sft_sample.jsonl"));
    for (std::string line; std::getline(in, line);) {
      std::string text = form;
      for (const std::string field : {"prompt", "response"}) {
        const std::string place = field == "prompt" ? "{instruction}" : "{response}";
        text.replace(text.find(place), place.size(), parse_text(line, field, "conversation"));
      }
      std::vector<std::int32_t> ids = tokenizer.encode(text);
      ids.insert(ids.begin(), tokenizer.bos_id());
      ids.push_back(tokenizer.eos_id());
      writer.append(ids);
    }
    writer.write(folder / "sft.h5");
  }
  const auto golden =
      nlohmann::json::parse(read_bytes(real_data("sft/cs336/tokenized_sft_sample.json")));
  ASSERT_EQ(golden.size(), 75u);
  const HeldOut rows = HeldOut::windows({folder / "sft.h5"}, 32, tokenizer.vocabulary_size());
  ASSERT_GE(rows.sequences(), 75);
  const Batch batch = rows.load(0, 75);
  const auto row = [](const Tensor& ids, std::int64_t i) {
    const auto* first = ids.data<std::int32_t>() + i * 32;
    return std::vector<std::int32_t>(first, first + 32);
  };
  for (std::int64_t i = 0; i < 75; ++i) {
    EXPECT_EQ(row(batch.tokens, i), golden[std::size_t(i)]["input_ids"]) << i;
    EXPECT_EQ(row(batch.labels, i), golden[std::size_t(i)]["labels"]) << i;
  }
}

TEST(Tokenizer, PrefersTheModelsOwnFileInAFolder) {
  const std::filesystem::path source =
      std::filesystem::path(MOE_SOURCE_DIR) / "tests/data/tokenizers";
  const TestFolder folder;
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }),
              HasSubstr("neither a tokenizer.model nor a tokenizer.json"));
  write_bytes(folder / "tokenizer.json", read_bytes(source / "byte_fallback.json"));
  const Tokenizer pieces = Tokenizer::open(folder.path());
  EXPECT_EQ(pieces.special_id("<s>"), 1);
  write_bytes(folder / "tokenizer.model", read_bytes(source / "ranks.tiktoken"));
  const Tokenizer ranks = Tokenizer::open(folder.path());
  EXPECT_EQ(ranks.vocabulary_size(), 500 + 256);
  EXPECT_EQ(ranks.special_id("<|eot_id|>"), 500 + 9);
  EXPECT_EQ(ranks.special_id("<|reserved_special_token_247|>"), 500 + 255);
  EXPECT_NE(ranks.hash(), pieces.hash());
  EXPECT_EQ(ranks.hash(), Tokenizer::open(source / "ranks.tiktoken").hash());
}

TEST(Tokenizer, RefusesWhatIsNoTokenizer) {
  const TestFolder folder;
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder / "absent"); }),
              HasSubstr("cannot open"));
  for (const std::string& bytes : {std::string("no model"), std::string(5000, '\0')}) {
    write_bytes(folder / "tokenizer.model", bytes);
    EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }),
                HasSubstr("tokenizer.model: neither a sentencepiece model nor a tiktoken file"));
  }
  write_bytes(folder / "tokenizer.model", "");
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }), HasSubstr("empty"));
}

}  // namespace
}  // namespace moe
