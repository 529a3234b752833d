// SPDX-License-Identifier: Apache-2.0
// Sentencepiece's own library is what our encoder and decoder are held against.
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <nlohmann/json.hpp>

#include "data/tokenizer_test_support.h"

namespace moe {
namespace {

std::vector<std::string> text_lines(const std::filesystem::path& path) {
  std::vector<std::string> lines;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

class Sentences : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  std::size_t at_ = 0;
};

/// A model trained on the project's licence and on the texts of the fixtures.
std::string trained(const std::string& options) {
  const std::filesystem::path root = MOE_SOURCE_DIR;
  std::vector<std::string> lines = text_lines(root / "LICENSE");
  const auto cases = nlohmann::json::parse(read_bytes(root / "tests/data/tokenizers/cases.json"));
  for (const auto& input : cases["inputs"])
    if (const std::string text = input.value("text", ""); text.find('\n') == text.npos)
      lines.insert(lines.end(), 3, text);
  Sentences sentences(lines);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--vocab_size=700 --hard_vocab_limit=false --character_coverage=0.98 --minloglevel=3 "
      "--num_threads=1 " +
          options,
      &sentences, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

std::vector<std::string> hard_texts() {
  const auto cases = nlohmann::json::parse(
      read_bytes(std::filesystem::path(MOE_SOURCE_DIR) / "tests/data/tokenizers/cases.json"));
  std::vector<std::string> texts = {"a\xff\xe2\x96 b\xc3",
                                    "\xe2\x96\x81\xe2\x96\x81 x \xe2\x96\x81", "<0x41>",
                                    "<s></s><unk>", "own words and my own own"};
  for (const auto& input : cases["inputs"])
    if (input.contains("text")) texts.push_back(input["text"]);
  for (std::uint64_t i = 0; i < 300; ++i) {
    const Philox random(i, RandomPurpose::test, {7});
    std::string& text = texts.emplace_back();
    for (std::uint64_t k = 0; k < 1 + i % 50; ++k)  // half of them letters and spaces
      text += random.below(2 * k, 2) ? " etaoin\xe2\x96\x81"[random.below(2 * k + 1, 10)]
                                     : char(random.below(2 * k + 1, 256));
  }
  return texts;
}

void expect_the_same(const Tokenizer& tokenizer,
                     const sentencepiece::SentencePieceProcessor& library,
                     const std::vector<std::string>& texts) {
  for (const std::string& text : texts)
    ASSERT_EQ(tokenizer.encode(text), library.EncodeAsIds(text)) << text;
  for (std::uint64_t round = 0; round < 300; ++round) {
    const Philox random(round, RandomPurpose::test, {8});
    std::vector<int> ids;
    // Half of them among the ids of bytes, and control ids.
    for (std::uint64_t k = 0; k < 1 + round % 12; ++k)
      ids.push_back(int(random.below(
          2 * k, random.below(2 * k + 1, 2) ? 260 : std::uint64_t(library.GetPieceSize()))));
    const std::string expected = library.DecodeIds(ids);
    EXPECT_EQ(tokenizer.decode(ids), expected) << ::testing::PrintToString(ids);
    EXPECT_EQ(streamed(tokenizer, ids), expected) << ::testing::PrintToString(ids);
  }
}

class TrainedSentencepiece : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(
    , TrainedSentencepiece,
    ::testing::Values(
        // LLaMA-2's settings, computed here; then such as are given to the library.
        "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity "
        "--remove_extra_whitespaces=false --split_digits=true",
        "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity "
        "--remove_extra_whitespaces=false --add_dummy_prefix=false --split_by_whitespace=false",
        "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity "
        "--remove_extra_whitespaces=false --user_defined_symbols=own,words",
        "--model_type=bpe --byte_fallback=true --normalization_rule_name=nmt_nfkc "
        "--remove_extra_whitespaces=false",
        "--model_type=bpe --byte_fallback=false --normalization_rule_name=identity "
        "--remove_extra_whitespaces=false",
        "--model_type=unigram --byte_fallback=true --normalization_rule_name=identity "
        "--remove_extra_whitespaces=false",
        "--model_type=unigram", "--model_type=bpe"));

TEST_P(TrainedSentencepiece, EncodesAndDecodesAsTheLibrary) {
  const std::string model = trained(GetParam());
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
  const TestFolder folder;
  write_bytes(folder / "tokenizer.model", model);
  expect_the_same(Tokenizer::open(folder.path()), library, hard_texts());
}

class Llama2Sentencepiece : public ::testing::Test {
 protected:
  void SetUp() override {
    MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
    MOE_SKIP_WITHOUT_REALDATA("corpus/redpajama_sample");
  }
  /// Compares on the first `bytes` of every document.
  static void compare(std::size_t bytes) {
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(real_data("tokenizers/llama2/tokenizer.model").string()).ok());
    std::vector<std::string> texts = redpajama_sample();
    EXPECT_EQ(texts.size(), 2131u);
    for (std::string& text : texts) text.resize(std::min(text.size(), bytes));
    for (std::string& text : hard_texts()) texts.push_back(std::move(text));
    expect_the_same(Tokenizer::open(real_data("tokenizers/llama2")), library, texts);
  }
};

TEST_F(Llama2Sentencepiece, AgreesOnTheBeginningOfEveryDocument) { compare(300); }

using Llama2SentencepieceSlow = Llama2Sentencepiece;
TEST_F(Llama2SentencepieceSlow, AgreesOnEveryDocument) { compare(std::string::npos); }

}  // namespace
}  // namespace moe
