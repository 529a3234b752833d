// SPDX-License-Identifier: Apache-2.0
#include "data/split_raw.h"

#include "data/raw_test_support.h"
#include "data/text_reader.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class SplitRaw : public ::testing::Test {
 protected:
  TestFolder folder_;

  SplitRawOptions options(const std::vector<std::string>& inputs, const std::string& output) {
    SplitRawOptions o;
    for (const std::string& input : inputs) o.intake.inputs.push_back(folder_ / input);
    o.intake.sets = SetNames{};
    o.output = folder_ / output;
    return o;
  }

  std::vector<std::string> lines_of(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    std::vector<std::string> lines;
    for (const fs::path& file : files) {
      LineReader reader(file);
      for (std::string line; reader.next(line);) lines.push_back(line + "\n");
    }
    return lines;
  }
};

TEST_F(SplitRaw, EveryLineGoesUnchangedAndInOrderToItsDomain) {
  const std::vector<std::string> lines = raw_lines(5000);
  std::string parts[3];
  for (std::size_t i = 0; i < lines.size(); ++i) parts[i * 3 / lines.size()] += lines[i];
  write_bytes(folder_ / "a.jsonl", parts[0]);
  write_bytes(folder_ / "b.jsonl.gz", gzip(parts[1]));
  write_bytes(folder_ / "c.jsonl.zst", zstd(parts[2]));
  auto o = options({"a.jsonl", "b.jsonl.gz", "c.jsonl.zst"}, "out");
  o.file_bytes = 100000;
  const SplitRawReport report = split_raw(o);
  std::map<std::string, std::vector<std::string>> expected;
  for (const std::string& line : lines)
    expected[kSevenSets.at(parse_labelled_text(line, "text", "meta.redpajama_set_name", "").label)]
        .push_back(line);
  EXPECT_EQ(report.domains.size(), 7u);
  for (const auto& d : report.domains) {
    EXPECT_EQ(d.documents, std::int64_t(expected[d.name].size()));
    EXPECT_EQ(lines_of(folder_ / "out" / d.name), expected[d.name]) << d.name;
  }
  EXPECT_EQ(files_below(folder_ / "out").size(), 14u) << "two files each, nothing else";
}

TEST_F(SplitRaw, TheNumberOfThreadsAndAStopOnTheWayDoNotShow) {
  std::vector<std::string> lines = raw_lines(12000);  // three batches
  std::string text;
  for (const std::string& line : lines) text += line;
  write_bytes(folder_ / "a.jsonl", text);
  write_bytes(folder_ / "bad.jsonl", text + "{\"text\":\n" + text);
  std::map<std::string, std::string> straight;
  for (const int threads : {1, 2, 7}) {
    auto o = options({"bad.jsonl"}, str("out", threads));
    o.threads = threads;
    o.file_bytes = 300000;
    o.intake.skip_bad = true;
    EXPECT_EQ(split_raw(o).left_out.bad, 1);
    if (threads == 1) straight = files_below(o.output);
    EXPECT_EQ(files_below(o.output), straight);
  }
  EXPECT_GT(straight.size(), 7u);
  auto o = options({"bad.jsonl"}, "stopped");
  o.file_bytes = 300000;
  o.save_every = 0;
  EXPECT_THAT(input_error_of([&] { split_raw(o); }), HasSubstr("bad.jsonl:12001: not valid JSON"));
  EXPECT_FALSE(fs::exists(o.output / "en_c4")) << "nothing has its name yet";
  std::int64_t first = -1;
  o.intake.skip_bad = true;
  split_raw(o, [&](std::int64_t, std::int64_t documents) {
    if (first < 0) first = documents;
  });
  EXPECT_EQ(first, 8192) << "two batches were saved";
  EXPECT_EQ(files_below(o.output), straight);
}

TEST_F(SplitRaw, UnknownSetsStopAreSkippedOrKept) {
  write_bytes(folder_ / "a.jsonl", raw_line("RedPajamaC4", "a") + raw_line("../My Set", "b") +
                                       raw_line("../My Set", "c"));
  auto o = options({"a.jsonl"}, "out");
  EXPECT_THAT(input_error_of([&] { split_raw(o); }),
              AllOf(HasSubstr("a.jsonl:2: unknown set name '../My Set'"), HasSubstr("--set ")));
  EXPECT_FALSE(fs::exists(o.output / ".unfinished"));
  o.intake.sets->unknown = UnknownSets::skip;
  SplitRawReport report = split_raw(o);
  EXPECT_EQ(report.left_out.unknown_sets, (std::map<std::string, std::int64_t>{{"../My Set", 2}}));
  EXPECT_EQ(lines_of(o.output / "en_c4").size(), 1u);
  EXPECT_EQ(report.domains.size(), 1u);
  EXPECT_THAT(input_error_of([&] { split_raw(o); }), HasSubstr("en_c4/00000.jsonl.zst: exists"));
  o.force = true;
  o.intake.sets->unknown = UnknownSets::keep;
  split_raw(o);
  EXPECT_EQ(lines_of(o.output / "_._My_Set").size(), 2u);
  o.intake.sets->unknown = UnknownSets::stop;
  add_set_name("../My Set=mine", o.intake.sets->domains);
  split_raw(o);
  EXPECT_EQ(lines_of(o.output / "mine").size(), 2u);
  for (const char* bad : {"x", "=x", "a=", "a=b/c", "a=..", "a=-b"})
    EXPECT_THROW(add_set_name(bad, o.intake.sets->domains), InputError) << bad;
}

TEST_F(SplitRaw, BadLinesAndDamagedFilesAreNamedAndCounted) {
  std::string good;
  for (const std::string& line : raw_lines(3000)) good += line;
  const std::string packed = zstd(good);
  write_bytes(folder_ / "short.jsonl.zst", packed.substr(0, packed.size() - 5));
  write_bytes(folder_ / "b.jsonl",
              raw_line("RedPajamaC4", "a") + "{\"text\":\"no meta\"}\n" +
                  "{\"text\":\"x\",\"meta\":{\"redpajama_set_name\":7}}\n" +
                  "{\"text\":\"\xff\",\"meta\":{\"redpajama_set_name\":\"RedPajamaC4\"}}\n" +
                  raw_line("RedPajamaC4", "") + "\n" + raw_line("RedPajamaC4", "z"));
  auto o = options({"short.jsonl.zst", "b.jsonl"}, "out");
  EXPECT_THAT(input_error_of([&] { split_raw(o); }), HasSubstr("short.jsonl.zst:"));
  o.intake.skip_bad = true;
  o.intake.max_bad = 3;
  EXPECT_THAT(input_error_of([&] { split_raw(o); }),
              AllOf(HasSubstr("b.jsonl:4: "), HasSubstr("UTF-8"), HasSubstr("--max-bad allows 3")));
  o.intake.max_bad = 4;
  const SplitRawReport report = split_raw(o);
  EXPECT_EQ(report.left_out.bad, 4) << "the damaged file, no set, no text for it, no UTF-8";
  EXPECT_EQ(report.left_out.empty, 1);
  const auto lines = lines_of(o.output / "en_c4");
  EXPECT_EQ(lines.back(), raw_line("RedPajamaC4", "z"));
}

TEST_F(SplitRaw, FilteredAndRepeatedDocumentsAreCountedAndMayBeKeptAside) {
  std::string text;
  for (int i = 0; i < 9000; ++i)  // more than two batches
    text += raw_line(i % 2 == 0 ? "RedPajamaC4" : "RedPajamaGithub",
                     str("text ", i % 3000, i % 5 == 0 ? "" : " long enough"));
  write_bytes(folder_ / "a.jsonl", text);
  std::map<std::string, std::string> straight;
  for (const int threads : {1, 3, 0}) {
    auto o = options({"a.jsonl"}, str("out", threads));
    if (threads > 0) o.threads = threads;
    o.intake.filter =
        QualityFilter::parse("rules:\n  - {domains: [en_c4], words: {min: 3}}\n", "rules.yaml");
    o.intake.deduplicate = true;
    o.intake.removed = folder_ / str("removed", threads, ".jsonl.zst");
    if (threads == 0) {  // stopped after two batches
      o.save_every = 0;
      o.intake.max_bad = 0;
      o.intake.skip_bad = true;
      write_bytes(folder_ / "a.jsonl", text + "nonsense\n");
      EXPECT_THAT(input_error_of([&] { split_raw(o); }), HasSubstr("9001"));
      EXPECT_FALSE(fs::exists(o.intake.removed));
      o.intake.max_bad = -1;
    }
    const SplitRawReport report = split_raw(o);
    const auto& removed = report.left_out.removed;
    // Of 3000 texts (a third of them three times over, in both domains by turns), 600 are short;
    // those are removed from C4 each time and taken once from Github.
    EXPECT_EQ(removed.at("en_c4").at("words < 3").documents, 900);
    std::int64_t kept = 0, bytes = 0, text_bytes = 0;
    for (const auto& d : report.domains) kept += d.documents, text_bytes += d.text_bytes;
    std::int64_t written = 0;
    for (const auto& d : report.domains)
      written += std::int64_t(lines_of(o.output / d.name).size());
    EXPECT_EQ(written, kept);
    EXPECT_EQ(kept, 2700) << "2400 long texts, and 300 short ones that Github has";
    std::int64_t documents = kept;
    for (const auto& [domain, reasons] : removed)
      for (const auto& [reason, r] : reasons) documents += r.documents, bytes += r.bytes;
    EXPECT_EQ(documents, 9000);
    std::map<std::string, std::int64_t> aside;
    std::int64_t aside_bytes = 0;
    LineReader reader(o.intake.removed);
    for (std::string line; reader.next(line);) {
      const auto object = nlohmann::json::parse(line);
      ++aside[object["domain"].get<std::string>() + object["reason"].get<std::string>()];
      aside_bytes += std::int64_t(object["text"].get<std::string>().size());
    }
    EXPECT_EQ(aside["en_c4words < 3"], 900);
    EXPECT_EQ(aside_bytes, bytes);
    const std::string all = read_bytes(o.intake.removed);
    auto files = files_below(o.output);
    files["removed"] = all;
    if (threads == 1) straight = files;
    EXPECT_EQ(files, straight) << threads;
    EXPECT_GT(text_bytes, 0);
  }
}

}  // namespace
}  // namespace moe
