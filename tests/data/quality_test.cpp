// SPDX-License-Identifier: Apache-2.0
#include "data/quality.h"

#include <set>

#include "data/raw_test_support.h"
#include "data/text_parts.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string repeated(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

/// "FIRST FIRST+1 ...": so many different words of four characters.
std::string words(int count, int first = 1000) {
  std::string text;
  for (int i = 0; i < count; ++i) text += str(i > 0 ? " " : "", first + i);
  return text;
}

QualityFilter filter_of(const std::string& measure, const std::string& bound) {
  return QualityFilter::parse("rules:\n  - domains: [web]\n    " + measure + ": {" + bound +
                                  "}\nboilerplate: [\"Add to CART\"]\nforbidden: [Lorem ipsum]\n",
                              "rules.yaml");
}

struct Case {
  std::string measure, bound, inside, outside, reason;
};

const std::vector<Case> kCases = {
    {"characters", "min: 4", "äöü€", "äöü", "characters < 4"},
    {"words", "max: 3", " one two\n\nthree ", "one two three -", "words > 3"},
    {"lines", "min: 2", "a\n \n b", "a b\n \n", "lines < 2"},
    {"sentences", "min: 3", "One. \"Two!\" Three?", "One. Two, three. E.g", "sentences < 3"},
    {"mean_word_length", "min: 3, max: 10", "ab äöüß", "ab äöü", "mean_word_length < 3"},
    {"hashes_per_word", "max: 0.5", "#a b", "#a #b c", "hashes_per_word > 0.5"},
    {"ellipses_per_word", "max: 0.5", "a... b c… d", "a... b c… ...", "ellipses_per_word > 0.5"},
    {"curly_braces", "max: 0", "a } b", "a { b", "curly_braces > 0"},
    {"alphabetic_words", "min: 0.8", "a ß 1ж 語 …", "a b c — ☂ d e 、 f g",
     "alphabetic_words < 0.8"},
    {"bullet_lines", "max: 0.5", "- a\nb\n-c\n• d", "- a\nb\n• c\n* d", "bullet_lines > 0.5"},
    {"ellipsis_lines", "max: 0.5", "a...\nb\nc …\nd ... d", "a...\nb …", "ellipsis_lines > 0.5"},
    {"punctuated_lines", "min: 0.5", "a.\nb\nc!\nd,", "a.\nb\nc,", "punctuated_lines < 0.5"},
    {"stop_words", "min: 2", "The end of it", "the and-then THE", "stop_words < 2"},
    {"forbidden_phrases", "max: 0", "lorem\nipsum", "so LOREM IPSUM dolor",
     "forbidden_phrases > 0"},
    {"boilerplate_lines", "max: 0.5", "add to cart\nadd to\ncart",
     "x\nNow Add To Cart!\nadd to cart", "boilerplate_lines > 0.5"},
    {"repeated_lines", "max: 0.5", "a\na\nb\nb", "a\n a \na\nb\nb", "repeated_lines > 0.5"},
    {"repeated_paragraphs", "max: 0.4", "a\nb\n\na\nb\n\nc", "a\nb\n\na\nb\n\nc\n\nc",
     "repeated_paragraphs > 0.4"},
    {"repeated_line_characters", "max: 0.5", "abcd\nabcd\nx\nx", "abcd\nabcd\nx\nabcd\nx",
     "repeated_line_characters > 0.5"},
    {"repeated_paragraph_characters", "max: 0.4", "abcd\n\nabcd\n\nxy", "abcd\n\nabcd\n\nabcd",
     "repeated_paragraph_characters > 0.4"},
    // 2 · 8 of 80 characters; the same of 76.
    {"top_2_words", "max: 0.2", "aaaa bbbb aaaa bbbb " + words(16),
     "aaaa bbbb aaaa bbbb " + words(15), "top_2_words > 0.2"},
    {"top_3_words", "max: 0.3", "a b c a b c " + words(3) + " xx", "a b c a b c " + words(3),
     "top_3_words > 0.3"},
    {"top_4_words", "max: 0.5", "a b c d a b c d " + words(2), "a b c d a b c d " + words(1),
     "top_4_words > 0.5"},
};

TEST(QualityFilter, EveryRuleRemovesADocumentAndKeepsOneJustInsideItsLimit) {
  std::set<std::string> seen;
  for (const Case& c : kCases) {
    const QualityFilter filter = filter_of(c.measure, c.bound);
    EXPECT_EQ(filter.reason_against("web", c.inside), "") << c.measure;
    EXPECT_EQ(filter.reason_against("web", c.outside), c.reason) << c.measure;
    EXPECT_EQ(filter.reason_against("code", c.outside), "") << "no rules for this domain";
    seen.insert(c.measure);
  }
  // Runs of n words: n of 4n words come again, and then one word more.
  for (int n = 5; n <= 10; ++n) {
    const std::string measure = str("repeated_", n, "_words");
    const QualityFilter filter = filter_of(measure, "max: 0.25");
    const std::string begin = words(n) + " " + words(n, 2000);
    EXPECT_EQ(filter.reason_against("web", begin + " " + words(n, 3000) + " " + words(n)), "");
    EXPECT_EQ(filter.reason_against("web", begin + " " + words(n, 3000) + " " + words(n - 1)), "");
    EXPECT_EQ(filter.reason_against("web", begin + " " + words(n - 1, 3000) + " " + words(n)),
              measure + " > 0.25");
    seen.insert(measure);
  }
  for (const auto& [name, doc] : QualityFilter::measures())
    EXPECT_TRUE(seen.contains(name)) << name << " has no case here";
}

TEST(QualityFilter, TheDocumentedMeasuresAreThoseThereAre) {
  const std::string text = read_bytes(MOE_SOURCE_DIR "/docs/data_quality.md");
  for (const auto& [name, doc] : QualityFilter::measures())
    EXPECT_THAT(text, HasSubstr("| `" + name + "` | " + doc + " |"));
}

TEST(QualityFilter, TheReadyRulesTakeProseAndLeaveJunkOut) {
  const QualityFilter filter = QualityFilter::read(MOE_SOURCE_DIR "/configs/data/quality.yaml");
  const std::string prose =
      "The river came down from the hills and ran past the mill. Nobody knew who had built that "
      "mill, or why it stood so far from the road. In spring the water rose over its wheel, and "
      "the "
      "miller sat on the roof with a book. He said that he would have to learn to swim. His wife "
      "laughed at him, for she had been able to swim since she was three years old.";
  EXPECT_EQ(filter.reason_against("en_c4", prose), "");
  EXPECT_EQ(filter.reason_against("en_c4", prose + " { }"), "curly_braces > 0");
  EXPECT_EQ(filter.reason_against("github", std::string(100, '{')), "");
  EXPECT_EQ(filter.reason_against("github", "{}"), "characters < 100");
  EXPECT_EQ(filter.reason_against("en_cc", prose + "\nAccept all cookies\n"),
            "boilerplate_lines > 0.05");
  EXPECT_EQ(filter.reason_against("en_cc", repeated(prose + "\n", 2)), "repeated_lines > 0.3");
  EXPECT_EQ(filter.reason_against("another", ""), "");
}

TEST(QualityFilter, RulesThatAreWrongAreRefusedWithTheirLine) {
  const auto error = [](const std::string& yaml) {
    return input_error_of([&] { QualityFilter::parse(yaml, "rules.yaml"); });
  };
  EXPECT_THAT(error("rules:\n  - domains: [a]\n    word: {min: 1}\n"), HasSubstr("rules.yaml:3"));
  EXPECT_THAT(error("rules:\n  - words: {min: 1}\n"), HasSubstr("domains"));
  EXPECT_THAT(error("rules:\n  - domains: []\n"), HasSubstr("without domains"));
  EXPECT_THAT(error("rules:\n  - domains: [a]\n    words: {min: 2, max: 1}\n"),
              HasSubstr("words: min is above max"));
  EXPECT_THAT(error("rules: []\nforbidden: [\"\"]\n"), HasSubstr("phrase"));
  EXPECT_THAT(input_error_of([] { QualityFilter::read("/nowhere.yaml"); }), HasSubstr("nowhere"));
  const QualityFilter star = QualityFilter::parse(
      "rules:\n  - domains: [\"*\"]\n    words: {min: 2}\n  - domains: [a]\n    words: {min: 3}\n",
      "");
  EXPECT_EQ(star.reason_against("a", "x y"), "words < 3") << "its own rules, wherever they stand";
  EXPECT_EQ(star.reason_against("b", "x y"), "");
}

TEST(TextParts, TakesLinesAndParagraphsApart) {
  const std::string text = "\n a  b \n\tc\r\n \n\nd\n";
  const TextParts parts(text);
  EXPECT_THAT(parts.words(), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(parts.lines(), ElementsAre("a  b", "c", "d"));
  EXPECT_THAT(parts.paragraphs(), ElementsAre("a  b \n\tc", "d"));
  EXPECT_TRUE(TextParts("").paragraphs().empty());
}

TEST(TextParts, RunsThatOverlapAreCountedOnceOrAtMostAsTheWhole) {
  const std::string text = repeated("a ", 10);
  const TextParts parts(text);
  EXPECT_EQ(top_run_share(parts.words(), 2), 1);
  EXPECT_EQ(repeated_run_share(parts.words(), 2), 0.9);
  EXPECT_EQ(repeated_run_share(parts.words(), 11), 0) << "more words than there are";
}

}  // namespace
}  // namespace moe
