// SPDX-License-Identifier: Apache-2.0
#include "data/quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "config/yaml_reader.h"
#include "core/error.h"
#include "data/text_parts.h"

namespace moe {
namespace {

using Phrases = std::vector<std::string>;

/// What measures look at.
struct Subject {
  TextParts parts;
  const Phrases& boilerplate;
  const Phrases& forbidden;
};

double ratio(double count, std::size_t of) { return of == 0 ? 0 : count / double(of); }

double occurrences(std::string_view text, std::string_view what) {
  double count = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != text.npos; at += what.size()) ++count;
  return count;
}

bool ends_with_any(std::string_view text, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(), [&](auto end) { return text.ends_with(end); });
}

double ellipses(std::string_view text) { return occurrences(text, "...") + occurrences(text, "…"); }

template <class Predicate>
double share_of(const std::vector<std::string_view>& pieces, Predicate&& has) {
  return ratio(double(std::count_if(pieces.begin(), pieces.end(), has)), pieces.size());
}

double mean_word_length(const Subject& s) {
  double total = 0;
  for (const std::string_view word : s.parts.words()) total += double(characters_of(word));
  return ratio(total, s.parts.words().size());
}

double stop_words(const Subject& s) {
  static const std::set<std::string, std::less<>> kWords = {"the", "be",   "to",   "of",
                                                            "and", "that", "have", "with"};
  std::set<std::string_view> found;
  const TextParts lower(s.parts.lower());
  for (const std::string_view word : lower.words())
    if (kWords.contains(word)) found.insert(word);
  return double(found.size());
}

bool ends_a_sentence(std::string_view text) {
  return ends_with_any(text, {".", "!", "?", "\"", "”", "。", "！", "？"});
}

double sentences(const Subject& s) {
  const auto& words = s.parts.words();
  return double(std::count_if(words.begin(), words.end(), [](std::string_view word) {
    return ends_with_any(
        word, {".", "!", "?", ".\"", "!\"", "?\"", ".”", "!”", "?”", ".)", "。", "！", "？"});
  }));
}

/// Lines that hold one of the phrases, whatever their case.
double lines_with(const TextParts& parts, const Phrases& phrases) {
  const TextParts lower(parts.lower());
  return share_of(lower.lines(), [&](std::string_view line) {
    return std::any_of(phrases.begin(), phrases.end(),
                       [&](const std::string& phrase) { return line.find(phrase) != line.npos; });
  });
}

double forbidden_phrases(const Subject& s) {
  double count = 0;
  for (const std::string& phrase : s.forbidden) count += occurrences(s.parts.lower(), phrase);
  return count;
}

double repeated_pieces(const std::vector<std::string_view>& pieces) {
  const std::set<std::string_view> distinct(pieces.begin(), pieces.end());
  return ratio(double(pieces.size() - distinct.size()), pieces.size());
}

template <std::size_t n>
double top_run(const Subject& s) {
  return top_run_share(s.parts.words(), n);
}

template <std::size_t n>
double repeated_run(const Subject& s) {
  return repeated_run_share(s.parts.words(), n);
}

struct Definition {
  const char* name;
  double (*measure)(const Subject&);
  const char* doc;
};

/// In the order in which they are tried: cheap ones first.
const auto kMeasures = std::to_array<Definition>({
    {"characters", [](const Subject& s) { return double(characters_of(s.parts.text())); },
     "code points"},
    {"words", [](const Subject& s) { return double(s.parts.words().size()); },
     "words: what stands between white space"},
    {"lines", [](const Subject& s) { return double(s.parts.lines().size()); },
     "lines that are not blank"},
    {"sentences", sentences, "words that end in . ! or ?"},
    {"mean_word_length", mean_word_length, "code points a word"},
    {"hashes_per_word",
     [](const Subject& s) {
       return ratio(occurrences(s.parts.text(), "#"), s.parts.words().size());
     },
     "number signs (#) a word"},
    {"ellipses_per_word",
     [](const Subject& s) { return ratio(ellipses(s.parts.text()), s.parts.words().size()); },
     "ellipses (... or …) a word"},
    {"curly_braces", [](const Subject& s) { return occurrences(s.parts.text(), "{"); },
     "opening curly braces"},
    {"alphabetic_words", [](const Subject& s) { return share_of(s.parts.words(), has_letter); },
     "share of words with a letter"},
    {"bullet_lines",
     [](const Subject& s) {
       return share_of(s.parts.lines(), [](std::string_view line) {
         return line.starts_with("•") || line.starts_with("‣") || line.starts_with("- ") ||
                line.starts_with("* ");
       });
     },
     "share of lines that begin with • ‣ - or *"},
    {"ellipsis_lines",
     [](const Subject& s) {
       return share_of(s.parts.lines(), [](std::string_view line) {
         return ends_with_any(line, {"...", "…"});
       });
     },
     "share of lines that end with an ellipsis"},
    {"punctuated_lines",
     [](const Subject& s) { return share_of(s.parts.lines(), ends_a_sentence); },
     "share of lines that end with . ! ? or a closing quote"},
    {"stop_words", stop_words, "how many of: the be to of and that have with"},
    {"forbidden_phrases", forbidden_phrases, "occurrences of phrases of the list `forbidden`"},
    {"boilerplate_lines", [](const Subject& s) { return lines_with(s.parts, s.boilerplate); },
     "share of lines with a phrase of the list `boilerplate`"},
    {"repeated_lines", [](const Subject& s) { return repeated_pieces(s.parts.lines()); },
     "share of lines that were there before"},
    {"repeated_paragraphs", [](const Subject& s) { return repeated_pieces(s.parts.paragraphs()); },
     "share of paragraphs that were there before"},
    {"repeated_line_characters", [](const Subject& s) { return repeated_share(s.parts.lines()); },
     "share of characters in such lines"},
    {"repeated_paragraph_characters",
     [](const Subject& s) { return repeated_share(s.parts.paragraphs()); },
     "share of characters in such paragraphs"},
    {"top_2_words", top_run<2>, "share of characters in the pair of words that covers most"},
    {"top_3_words", top_run<3>, "the same for three words in a row"},
    {"top_4_words", top_run<4>, "the same for four"},
    {"repeated_5_words", repeated_run<5>,
     "share of characters in runs of five words that were there before"},
    {"repeated_6_words", repeated_run<6>, "the same for six"},
    {"repeated_7_words", repeated_run<7>, "the same for seven"},
    {"repeated_8_words", repeated_run<8>, "the same for eight"},
    {"repeated_9_words", repeated_run<9>, "the same for nine"},
    {"repeated_10_words", repeated_run<10>, "the same for ten"},
});

ConfigSection keys(QualityRules& rules) {
  ConfigSection section{{{"domains", &rules.domains, "domains that these rules are for", true}}};
  for (const Definition& d : kMeasures) {
    QualityBounds& bounds = rules.bounds[d.name];
    section.fields.push_back(
        {d.name, ConfigSection{{{"min", &bounds.min, "at least"}, {"max", &bounds.max, "at most"}}},
         d.doc});
  }
  return section;
}

}  // namespace

QualityFilter QualityFilter::read(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  MOE_REQUIRE(in.is_open(), file.string(), ": cannot open: ", std::strerror(errno));
  return parse({std::istreambuf_iterator<char>(in), {}}, file.string());
}

QualityFilter QualityFilter::parse(const std::string& yaml, const std::string& name) {
  QualityFilter filter;
  const ConfigSection section{
      {{"rules", config_list(filter.rules_, keys), "rules for some domains each", true},
       {"boilerplate", &filter.boilerplate_, "phrases of boilerplate_lines"},
       {"forbidden", &filter.forbidden_, "phrases of forbidden_phrases"}}};
  read_yaml(yaml, name, {}, section);
  for (const QualityRules& rules : filter.rules_) {
    MOE_REQUIRE(!rules.domains.empty(), name,
                ": rules without domains ('*' stands for all others)");
    for (const auto& [measure, bounds] : rules.bounds)
      MOE_REQUIRE(!bounds.min || !bounds.max || *bounds.min <= *bounds.max, name, ": ", measure,
                  ": min is above max");
  }
  filter.yaml_ = write_yaml(section);
  for (Phrases* phrases : {&filter.boilerplate_, &filter.forbidden_})
    for (std::string& phrase : *phrases) {
      MOE_REQUIRE(!phrase.empty(), name, ": a phrase without text is in every line");
      phrase = TextParts(phrase).lower();
    }
  return filter;
}

std::string QualityFilter::reason_against(const std::string& domain, std::string_view text) const {
  const auto names = [&](const std::string& wanted) {
    return std::find_if(rules_.begin(), rules_.end(), [&](const QualityRules& rules) {
      return std::find(rules.domains.begin(), rules.domains.end(), wanted) != rules.domains.end();
    });
  };
  auto rules = names(domain);
  if (rules == rules_.end()) rules = names("*");
  if (rules == rules_.end()) return {};
  const Subject subject{TextParts(text), boilerplate_, forbidden_};
  for (const Definition& d : kMeasures) {
    const auto& [min, max] = rules->bounds.at(d.name);
    if (!min && !max) continue;
    const double value = d.measure(subject);
    if (min && value < *min) return fmt::format("{} < {}", d.name, *min);
    if (max && value > *max) return fmt::format("{} > {}", d.name, *max);
  }
  return {};
}

std::vector<QualityFilter::Measure> QualityFilter::measures() {
  std::vector<Measure> all;
  for (const Definition& d : kMeasures) all.push_back({d.name, d.doc});
  return all;
}

}  // namespace moe
