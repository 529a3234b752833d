// SPDX-License-Identifier: Apache-2.0
// From files of conversations to batches.
#include <nlohmann/json.hpp>

#include "data/build_shards.h"
#include "data/chat_test_support.h"
#include "data/sequences.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class ChatShards : public ::testing::Test {
 protected:
  TestFolder folder_;
  Tokenizer tokenizer_ = tiny_tokenizer("byte_level.json");
  ChatEncoder encoder_{read_chat_template(chat_template_file("plain")), tokenizer_};
  const fs::path shard_ = folder_ / "chat.h5";

  BuildOptions options() const {
    BuildOptions o;
    o.inputs = {folder_ / "in.jsonl"};
    o.domain = "chat";
    o.tokenizer = &tokenizer_;
    o.chat = &encoder_;
    o.output = shard_;
    return o;
  }
  static std::string line(const std::string& question, const std::string& answer) {
    return json{{"prompt", question}, {"response", answer}}.dump() + "\n";
  }
  std::string text_of(const TokenFile& file, std::int64_t document) const {
    const TokenFile::Range range = file.document(document);
    std::vector<std::int32_t> ids(std::size_t(range.count));
    file.read(range.first, ids);
    return tokenizer_.decode(ids);
  }
};

TEST_F(ChatShards, LabelsStayWithTheirInputsBehindAnOverLongConversation) {
  // Six samples, the third over-long: the case in which labels of the sample before were kept.
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += line("q" + std::to_string(i),
                  "answer " + std::to_string(i) + (i == 2 ? std::string(500, 'x') : ""));
  write_bytes(folder_ / "in.jsonl", lines);
  BuildOptions o = options();
  o.max_tokens = 100;
  const BuildReport report = build_shards(o);
  EXPECT_EQ(report.left_out.removed.at("chat").at("over-long").documents, 1);
  EXPECT_EQ(report.left_out.truncated, 0);
  const Sequences sequences({shard_}, 100, tokenizer_.vocabulary_size(), {Packing::best_fit, true});
  const TokenFile file(shard_);
  ASSERT_EQ(file.documents(), 5);
  std::int64_t rows = 0;
  for (const int kept : {0, 1, 3, 4, 5}) {
    const auto wanted = encoder_.encode(
        {{{"user", "q" + std::to_string(kept)}, {"assistant", "answer " + std::to_string(kept)}}},
        "");
    bool found = false;
    for (std::int64_t s = 0; s < sequences.count() && !found; ++s) {
      Batch batch = sequences.empty_batch(1);
      sequences.fill(s, batch, 0);
      const auto* tokens = batch.tokens.data<std::int32_t>();
      const auto* labels = batch.labels.data<std::int32_t>();
      const std::size_t inputs = wanted.ids.size() - 1;
      const auto at = std::search(tokens, tokens + 100, wanted.ids.begin(), wanted.ids.end() - 1);
      if (at == tokens + 100) continue;
      found = true;
      ++rows;
      for (std::size_t i = 0; i < inputs; ++i)
        EXPECT_EQ(labels[std::size_t(at - tokens) + i],
                  wanted.learned[i + 1] ? wanted.ids[i + 1] : -1)
            << "sample " << kept << " input " << i;
    }
    EXPECT_TRUE(found) << "sample " << kept;
  }
  EXPECT_EQ(rows, 5);
}

TEST_F(ChatShards, TruncatingKeepsWhatStillTeachesSomething) {
  const std::string answer(60, 'y'), long_question(200, 'q');
  write_bytes(folder_ / "in.jsonl",
              line("short", answer) + line(long_question, "never reached") + line("fits", "yes"));
  BuildOptions o = options();
  const auto prompt = std::int64_t(encoder_.prompt({{{"user", "short"}}}, "").size());
  o.max_tokens = prompt + 3;
  o.truncate = true;
  const BuildReport report = build_shards(o);
  EXPECT_EQ(report.left_out.truncated, 1);
  EXPECT_EQ(report.left_out.removed.at("chat").at("over-long").documents, 1);
  const TokenFile file(shard_);
  ASSERT_EQ(file.documents(), 2);
  EXPECT_EQ(file.document(0).count, prompt + 3);
  EXPECT_EQ(file.count_learned(0, prompt), 0);
  EXPECT_EQ(file.count_learned(prompt, 3), 3);
  EXPECT_EQ(report.written.learned, file.learned_tokens());
  EXPECT_THAT(text_of(file, 1), HasSubstr("fits"));
}

TEST_F(ChatShards, BadRecordsStopOrAreCountedByReason) {
  write_bytes(folder_ / "in.jsonl", line("a", "b") +
                                        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n" +
                                        "{oops\n" + line("c", "") +
                                        "{\"messages\":[{\"role\":\"judge\",\"content\":"
                                        "\"x\"}]}\n{\"messages\":[]}\n" +
                                        line("c", "d"));
  BuildOptions o = options();
  EXPECT_THAT(input_error_of([&] { build_shards(o); }),
              HasSubstr("in.jsonl:2: no turn of the assistant"));
  EXPECT_FALSE(fs::exists(shard_));
  o.force = true;
  o.skip_bad = true;
  const BuildReport report = build_shards(o);
  EXPECT_EQ(report.left_out.bad, 5);
  EXPECT_EQ(
      report.left_out.bad_kinds,
      (std::map<std::string, std::int64_t>{
          {"no assistant turn", 2}, {"broken JSON", 1}, {"empty turn", 1}, {"unknown role", 1}}));
  EXPECT_EQ(TokenFile(shard_).documents(), 2);
}

TEST_F(ChatShards, ReadsListsAndGivesTheSameBytesOnAnyNumberOfThreadsAndAfterAStop) {
  json list = json::array();
  const Philox random(5, RandomPurpose::test);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    std::string answer;
    for (std::uint64_t w = 0, n = 1 + random.below(i, 30); w < n; ++w) answer += "word ";
    list.push_back({{"instruction", "say " + std::to_string(i)}, {"output", answer + "."}});
  }
  write_bytes(folder_ / "in.json", list.dump(1));
  BuildOptions o = options();
  o.inputs = {folder_ / "in.json"};
  o.held_out = HeldOutSize{.count = 50};
  o.save_every = 0;
  const auto bytes = [&](const std::string& name, int threads, bool stopped) {
    fs::create_directory(folder_ / name);
    o.output = folder_ / name / "chat.h5";
    o.held_out_output = folder_ / name / "held-out.h5";
    o.threads = threads;
    const auto kill = [&](std::int64_t, std::int64_t tokens) {
      if (tokens > 300000) throw Error("killed");
    };
    if (stopped) {
      EXPECT_THROW(build_shards(o, kill), Error);
    }
    build_shards(o);
    TokenFile(o.output).verify();
    EXPECT_TRUE(TokenFile(o.output).info().masked);
    return read_bytes(o.output) + read_bytes(o.held_out_output);
  };
  const std::string one = bytes("one", 1, false);
  EXPECT_EQ(TokenFile(folder_ / "one/chat.h5").documents(), 19950);
  EXPECT_TRUE(bytes("three", 3, false) == one);
  EXPECT_TRUE(bytes("stopped", 2, true) == one);
}

TEST_F(ChatShards, PlainTextAndOtherWaysOfDocumentsAreRefused) {
  write_bytes(folder_ / "in.txt", "hello");
  BuildOptions o = options();
  o.inputs = {folder_ / "in.txt"};
  EXPECT_THAT(input_error_of([&] { build_shards(o); }), HasSubstr("plain text holds no"));
  write_bytes(folder_ / "in.jsonl", line("a", "b"));
  o = options();
  o.chat = nullptr;
  o.max_tokens = 5;
  EXPECT_THAT(input_error_of([&] { build_shards(o); }), HasSubstr("--max-tokens is for"));
}

TEST(RealChatShards, GiveTheRowsOfThePackedGolden) {
  MOE_SKIP_WITHOUT_REALDATA("sft/cs336/sft_sample.jsonl");
  const TestFolder folder;
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama3"));
  const ChatEncoder encoder(read_chat_template(chat_template_file("alpaca")), tokenizer, true);
  BuildOptions o;
  o.inputs = {real_data("sft/cs336/sft_sample.jsonl")};
  o.domain = "sft";
  o.tokenizer = &tokenizer;
  o.chat = &encoder;
  o.output = folder / "sft.h5";
  EXPECT_EQ(build_shards(o).written.documents, 5);
  const json golden = json::parse(read_bytes(real_data("sft/cs336/tokenized_sft_sample.json")));
  const Sequences sequences({o.output}, 32, tokenizer.vocabulary_size());
  ASSERT_EQ(golden.size(), 75u);
  // The golden leaves out the rest, which we pad.
  ASSERT_EQ(sequences.count(), 76);
  for (std::size_t i = 0; i < golden.size(); ++i) {
    Batch batch = sequences.empty_batch(1);
    sequences.fill(std::int64_t(i), batch, 0);
    const auto row = [](const Tensor& t) {
      return std::vector<std::int32_t>(t.data<std::int32_t>(), t.data<std::int32_t>() + 32);
    };
    ASSERT_EQ(row(batch.tokens), golden[i]["input_ids"].get<std::vector<std::int32_t>>()) << i;
    ASSERT_EQ(row(batch.labels), golden[i]["labels"].get<std::vector<std::int32_t>>()) << i;
  }
}

TEST(RealChatShards, SayTheTextThatAlpacasOwnFormattingDoes) {
  MOE_SKIP_WITHOUT_REALDATA("sft/torchtune_alpaca_tiny.json");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama3"));
  const ChatEncoder encoder(read_chat_template(chat_template_file("alpaca")), tokenizer, true);
  const json records = json::parse(read_bytes(real_data("sft/torchtune_alpaca_tiny.json")));
  ASSERT_EQ(records.size(), 100u);
  int with_input = 0;
  for (const json& record : records) {
    const Conversation c = parse_conversation(record.dump(), "record");
    with_input += !c.input.empty();
    EXPECT_EQ(tokenizer.decode(encoder.encode(c, "record").ids), record["text"]);
  }
  EXPECT_GT(with_input, 10);
}

TEST(RealChatShards, LeaveLittlePaddingWhenPacked) {
  MOE_SKIP_WITHOUT_REALDATA("sft/fastchat_dummy_conversation.json");
  const TestFolder folder;
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama3"));
  const ChatEncoder encoder(read_chat_template(chat_template_file("llama3")), tokenizer);
  for (const char* file : {"fastchat_dummy_conversation.json", "torchtune_alpaca_tiny.json"})
    for (const std::int64_t length : {512, 1024, 2048}) {
      BuildOptions o;
      o.inputs = {real_data("sft") / file};
      o.domain = "sft";
      o.tokenizer = &tokenizer;
      o.chat = &encoder;
      o.output = folder / "sft.h5";
      o.force = true;
      build_shards(o);
      const Sequences packed({o.output}, length, tokenizer.vocabulary_size(),
                             {Packing::best_fit, true});
      // The last sequence has what is left, whatever the packing.
      std::int64_t tokens = 0;
      for (std::int64_t i = 0; i + 1 < packed.count(); ++i) tokens += packed.size(i).tokens;
      EXPECT_GE(double(tokens), 0.98 * double((packed.count() - 1) * length)) << file << length;
    }
}

}  // namespace
}  // namespace moe
