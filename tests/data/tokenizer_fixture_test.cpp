// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "data/tokenizer_test_support.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(MOE_SOURCE_DIR) / "tests/data/tokenizers" / name;
}

std::string bytes_of(const json& input) {
  if (input.contains("text")) return input["text"].get<std::string>();
  const std::string digits = input["hex"].get<std::string>();
  std::string bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2)
    bytes += char(std::stoi(digits.substr(i, 2), nullptr, 16));
  return bytes;
}

/// A base of cases.json with what the case changes in it.
Tokenizer open_case(const json& c, const TestFolder& folder) {
  if (c["base"] == "ranks") return Tokenizer::open(fixture("ranks.tiktoken"));
  json made = json::parse(read_bytes(fixture(c["base"].get<std::string>() + ".json")));
  made.merge_patch(c["patch"]);
  write_bytes(folder / "tokenizer.json", made.dump());
  return Tokenizer::open(folder.path());
}

TEST(TokenizerFixture, GivesTheIdsOfTheLibraryForTextsThatAreHardToCut) {
  const json cases = json::parse(read_bytes(fixture("cases.json")));
  const json& inputs = cases["inputs"];
  EXPECT_GE(cases["tokenizers"].size(), 30u);
  EXPECT_GE(inputs.size(), 90u);
  const TestFolder folder;
  for (const json& c : cases["tokenizers"]) {
    const Tokenizer tokenizer = open_case(c, folder);
    ASSERT_EQ(c["ids"].size(), inputs.size());
    for (int round = 0; round < 2; ++round)  // the second time most words are known
      for (std::size_t i = 0; i < inputs.size(); ++i)
        EXPECT_EQ(json(tokenizer.encode(bytes_of(inputs[i]))), c["ids"][i])
            << c["name"] << ": " << inputs[i].dump();
  }
}

TEST(TokenizerFixture, DecodesWhatTheLibraryDecodes) {
  const json cases = json::parse(read_bytes(fixture("cases.json")));
  const TestFolder folder;
  for (const json& c : cases["tokenizers"]) {
    const Tokenizer tokenizer = open_case(c, folder);
    for (std::size_t i = 0; i < cases["inputs"].size(); ++i) {
      const json& input = cases["inputs"][i];
      if (!input.contains("text")) continue;
      const auto ids = c["ids"][i].get<std::vector<std::int32_t>>();
      const std::string text = c["decoded"].value(std::to_string(i), bytes_of(input));
      EXPECT_EQ(tokenizer.decode(ids), text) << c["name"] << ": " << input.dump();
      EXPECT_EQ(streamed(tokenizer, ids), text) << c["name"] << ": " << input.dump();
    }
  }
}

TEST(TokenizerFixture, TextNeverBecomesASpecialId) {
  const TestFolder folder;
  json made = json::parse(read_bytes(fixture("byte_level.json")));
  made["model"]["ignore_merges"] = true;
  made["pre_tokenizer"]["pretokenizers"].erase(0);  // the whole text is a word
  const std::int32_t end = made["added_tokens"].back()["id"];
  made["model"]["vocab"]["<|end_of_text|>"] = end;
  write_bytes(folder / "tokenizer.json", made.dump());
  const Tokenizer tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer.special_id("<|end_of_text|>"), end);
  EXPECT_THAT(tokenizer.encode("<|end_of_text|>"), ::testing::Not(::testing::Contains(end)));
}

TEST(TokenizerFixture, LearnsFromTheFilesBesideWhatBeginsAndEndsATextIn) {
  const TestFolder folder;
  json made = json::parse(read_bytes(fixture("byte_level.json")));
  const auto open = [&] { return Tokenizer::open(folder.path()); };
  const auto add = [&](const char* content, int id) {
    made["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", true}});
  };
  add("<start>", 502);
  add("<end>", 503);
  write_bytes(folder / "tokenizer.json", made.dump());
  EXPECT_EQ(open().bos_id(), 500);  // by its usual name
  EXPECT_EQ(open().eos_id(), 501);
  write_bytes(folder / "config.json", R"({"bos_token_id": 7, "eos_token_id": [8, 9]})");
  EXPECT_EQ(open().bos_id(), 7);
  EXPECT_EQ(open().eos_id(), 8);
  write_bytes(folder / "special_tokens_map.json", R"({"eos_token": "<end>"})");
  EXPECT_EQ(open().bos_id(), 7);
  EXPECT_EQ(open().eos_id(), 503);
  write_bytes(folder / "tokenizer_config.json",
              R"({"bos_token": {"content": "<start>"}, "eos_token": null})");
  EXPECT_EQ(open().bos_id(), 502);
  EXPECT_EQ(open().eos_id(), -1);
  write_bytes(folder / "tokenizer_config.json", "{");
  EXPECT_THAT(input_error_of(open), HasSubstr("tokenizer_config.json: not valid JSON"));
}

TEST(TokenizerFixture, RefusesATokenizerJsonAndNamesTheFieldAtFault) {
  const TestFolder folder;
  const auto refusal = [&](const std::string& base, const std::string& patch) {
    json made = json::parse(read_bytes(fixture(base)));
    made = made.patch(json::parse(patch));
    write_bytes(folder / "tokenizer.json", made.dump());
    const std::string message = input_error_of([&] { Tokenizer::open(folder.path()); });
    EXPECT_THAT(message, HasSubstr("tokenizer.json: "));
    EXPECT_EQ(message.find('\n'), message.npos);
    return message;
  };
  const auto replaced = [&](const std::string& path, const std::string& value) {
    return refusal("byte_level.json",
                   str(R"([{"op": "add", "path": ")", path, R"(", "value": )", value, "}]"));
  };
  write_bytes(folder / "tokenizer.json", "{\"model\": ");
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }), HasSubstr("not valid JSON"));
  write_bytes(folder / "tokenizer.json", "{}");
  EXPECT_THAT(input_error_of([&] { Tokenizer::open(folder.path()); }),
              HasSubstr("'model' is missing"));

  EXPECT_THAT(replaced("/model/type", R"("Unigram")"), HasSubstr("model of type Unigram"));
  EXPECT_THAT(replaced("/model/type", R"("WordPiece")"), HasSubstr("model of type WordPiece"));
  EXPECT_THAT(replaced("/model/vocab", "[]"), HasSubstr("'model.vocab' is a array"));
  EXPECT_THAT(replaced("/model/vocab/zz", "-1"), HasSubstr("model.vocab['zz']: -1 is no token id"));
  EXPECT_THAT(replaced("/model/vocab/zz", "99999999"), HasSubstr("no token id"));
  EXPECT_THAT(replaced("/model/vocab/zz", "300"), HasSubstr("id 300 is both"));
  EXPECT_THAT(replaced("/model/vocab/", "502"), HasSubstr("a token without text"));
  EXPECT_THAT(replaced("/model/merges/3", R"("q zzzz")"),
              HasSubstr("model.merges[3]: 'zzzz' is not in model.vocab"));
  EXPECT_THAT(replaced("/model/merges/3", R"(["q", "Z"])"),
              HasSubstr("model.merges[3]: 'qZ' is not"));
  EXPECT_THAT(replaced("/model/merges/3", R"("a b c")"), HasSubstr("model.merges[3]: 'a b c'"));
  EXPECT_THAT(replaced("/model/merges/3", R"(["a"])"), HasSubstr("model.merges[3]: not a pair"));
  EXPECT_THAT(replaced("/model/dropout", "0.1"), HasSubstr("model.dropout"));
  EXPECT_THAT(replaced("/model/end_of_word_suffix", R"("</w>")"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(replaced("/model/unk_token", R"("<nothing>")"), HasSubstr("model.unk_token"));
  EXPECT_THAT(replaced("/added_tokens/0/id", "300"), HasSubstr("id 300 is both"));
  EXPECT_THAT(replaced("/added_tokens/0/content", R"("a")"), HasSubstr("in model.vocab"));
  EXPECT_THAT(replaced("/added_tokens/0/content", "5"), HasSubstr("added_tokens[0].content"));
  EXPECT_THAT(replaced("/normalizer", R"({"type": "Lowercase"})"),
              HasSubstr("normalizer (Lowercase): is not supported"));
  EXPECT_THAT(replaced("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Nmt"}]})"),
              HasSubstr("normalizers[0] (Nmt): is not supported"));
  EXPECT_THAT(replaced("/normalizer", R"({"type": "Prepend"})"), HasSubstr("'prepend' is missing"));
  EXPECT_THAT(replaced("/pre_tokenizer", R"({"type": "BertPreTokenizer"})"),
              HasSubstr("pre_tokenizer (BertPreTokenizer): is not supported"));
  EXPECT_THAT(replaced("/pre_tokenizer/pretokenizers/0/pattern", R"({"Regex": "(a"})"),
              HasSubstr("pretokenizers[0] (Split): the pattern (a is none: missing closing"));
  EXPECT_THAT(replaced("/pre_tokenizer/pretokenizers/0/pattern", R"({"Regex": "\\w+"})"),
              HasSubstr(R"(has \w, which is not supported)"));
  EXPECT_THAT(replaced("/pre_tokenizer/pretokenizers/0/behavior", R"("Sometimes")"),
              HasSubstr("behavior 'Sometimes'"));
  EXPECT_THAT(replaced("/pre_tokenizer/pretokenizers/1/add_prefix_space", "true"),
              HasSubstr("pretokenizers[1] (ByteLevel): is supported only before"));
  EXPECT_THAT(replaced("/decoder", "null"), HasSubstr("decoder: there is none"));
  EXPECT_THAT(replaced("/decoder", R"({"type": "CTC"})"), HasSubstr("decoder (CTC): is not"));
  EXPECT_THAT(refusal("byte_level.json", R"([{"op": "remove", "path": "/model/vocab/!"}])"),
              HasSubstr("no token for byte 33"));
  EXPECT_THAT(refusal("byte_fallback.json", R"([{"op": "remove", "path": "/model/vocab/<0x0A>"}])"),
              HasSubstr("'<0x0A>' is not in model.vocab"));
}

TEST(TokenizerFixture, RefusesATiktokenFileAndNamesTheLineAtFault) {
  const std::string good = read_bytes(fixture("ranks.tiktoken"));
  const TestFolder folder;
  const auto refusal = [&](const std::string& content) {
    write_bytes(folder / "tokenizer.model", content);
    return input_error_of([&] { Tokenizer::open(folder.path()); });
  };
  const std::string head = "IQ== 0\n";
  EXPECT_EQ(good.substr(0, head.size()), head);
  EXPECT_THAT(refusal(head + "I!== 1\n"), HasSubstr("tokenizer.model line 2: no base64"));
  EXPECT_THAT(refusal(head + "IQ= 1\n"), HasSubstr("line 2: no base64"));
  EXPECT_THAT(refusal(head + "Ig==\n"), HasSubstr("line 2: no rank"));
  EXPECT_THAT(refusal(head + "Ig== 1x\n"), HasSubstr("line 2: no rank"));
  EXPECT_THAT(refusal(head + "Ig== 2\n"), HasSubstr("line 2: rank 2, not 1"));
  EXPECT_THAT(refusal(head + "Ig== 1\nIQ== 2\n"), HasSubstr("ranks 0 and 2 have the same bytes"));
  EXPECT_THAT(refusal(head), HasSubstr("byte 0 has no rank"));
}

}  // namespace
}  // namespace moe
