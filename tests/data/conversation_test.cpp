// SPDX-License-Identifier: Apache-2.0
#include "data/conversation.h"

#include "data/bad_document.h"
#include "data/data_test_support.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

TEST(ConversationRecord, IsToldByItsKeys) {
  const Conversation pair{{{"user", "q"}, {"assistant", "a"}}};
  EXPECT_EQ(parse_conversation(R"({"messages":[{"role":"user","content":"q"},
                                   {"role":"assistant","content":"a"}],"id":7})",
                               "f:1"),
            pair);
  EXPECT_EQ(
      parse_conversation(
          R"({"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]})", "f:1"),
      pair);
  EXPECT_EQ(parse_conversation(R"({"prompt":"q","response":"a"})", "f:1"), pair);
  EXPECT_EQ(parse_conversation(R"({"prompt":"q","completion":"a"})", "f:1"), pair);
  EXPECT_EQ(parse_conversation(R"({"instruction":"q","output":"a"})", "f:1"), pair);
  EXPECT_EQ(parse_conversation(R"({"instruction":"q","input":"","output":"a","text":""})", "f:1"),
            pair);
  Conversation with_input = pair;
  with_input.input = "i";
  EXPECT_EQ(parse_conversation(R"({"instruction":"q","input":"i","output":"a"})", "f:1"),
            with_input);
}

TEST(ConversationRecord, KeepsEveryTurnAndTheNamesOfOtherRoles) {
  const Conversation c = parse_conversation(
      R"({"conversations":[{"from":"system","value":"s"},{"from":"human","value":"q"},
          {"from":"gpt","value":"a"},{"from":"observation","value":"o"},{"from":"gpt","value":"b"}]})",
      "f:1");
  EXPECT_EQ(c.messages, (std::vector<ChatMessage>{{"system", "s"},
                                                  {"user", "q"},
                                                  {"assistant", "a"},
                                                  {"observation", "o"},
                                                  {"assistant", "b"}}));
}

TEST(ConversationRecord, SaysWhereAndWhatIsWrong) {
  struct Case {
    const char *line, *kind, *words;
  };
  for (const Case& c : std::initializer_list<Case>{
           {R"({"messages":[)", "broken JSON", "f:9: not valid JSON"},
           {"", "broken JSON", "f:9: not valid JSON"},
           {"[1]", "no conversation", "f:9: a JSON array where an object"},
           {R"({"text":"x"})", "no conversation", "f:9: no 'messages', no 'conversations'"},
           {R"({"instruction":"q"})", "no conversation", "'instruction' with 'output'"},
           {R"({"prompt":"q","output":"a"})", "no conversation", "'prompt' with 'response'"},
           {R"({"messages":{}})", "bad field", "f:9: 'messages' is object, not a list"},
           {R"({"messages":["hi"]})", "bad field", "f:9: messages[0]: string, not an object"},
           {R"({"messages":[{"role":"user","content":"q"},{"role":"user"}]})", "bad field",
            "f:9: messages[1]: 'role' and 'content'"},
           {R"({"messages":[{"content":"q"}]})", "bad field", "lack the first"},
           {R"({"messages":[{"role":"user","content":null}]})", "bad field",
            "messages[0]: 'content' is null, not text"},
           {R"({"conversations":[{"from":3,"value":"x"}]})", "bad field",
            "conversations[0]: 'from' is number, not text"},
           {R"({"instruction":"q","input":[],"output":"a"})", "bad field",
            "'input' is array, not text"},
           {"{\"prompt\":\"\xff\",\"response\":\"a\"}", "broken JSON", "f:9: not valid JSON"}}) {
    try {
      parse_conversation(c.line, "f:9");
      ADD_FAILURE() << c.line;
    } catch (const BadDocument& e) {
      EXPECT_EQ(e.kind(), c.kind) << c.line;
      EXPECT_THAT(e.what(), HasSubstr(c.words));
    }
  }
}

}  // namespace
}  // namespace moe
