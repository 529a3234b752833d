// SPDX-License-Identifier: Apache-2.0
#include "data/build_shards.h"

#include <algorithm>
#include <set>

#include "data/raw_test_support.h"
#include "data/text_reader.h"
#include "data/token_format.h"

namespace moe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string jsonl_of(const std::vector<Document>& documents) {
  std::string text;
  for (const Document& d : documents) text += "{\"input_ids\":[" + join(d, ",") + "]}\n";
  return text;
}

class BuildShards : public ::testing::Test {
 protected:
  TestFolder folder_;

  BuildOptions tokenized(const std::vector<std::string>& inputs, std::int64_t vocabulary) {
    BuildOptions options;
    for (const std::string& name : inputs) options.inputs.push_back(folder_ / name);
    options.tokenized = true;
    options.vocabulary_size = vocabulary;
    options.domain = "test";
    options.output = folder_ / "out.h5";
    return options;
  }
};

TEST_F(BuildShards, KeepsEveryDocumentOnceAndInOrder) {
  const auto a = random_documents(9000, 40, 500, 1);   // several batches by count
  const auto b = random_documents(3, 400000, 500, 2);  // several by size
  const auto c = random_documents(1, 5, 500, 3);
  write_bytes(folder_ / "a.jsonl", jsonl_of(a));
  write_bytes(folder_ / "empty.jsonl", "");
  write_bytes(folder_ / "b.jsonl.gz", gzip(jsonl_of(b)));
  write_bytes(folder_ / "c.jsonl.zst", zstd("{\"input_ids\":[]}\n" + jsonl_of(c)));
  const auto options = tokenized({"a.jsonl", "empty.jsonl", "b.jsonl.gz", "c.jsonl.zst"}, 500);
  std::int64_t heard_bytes = 0, heard_tokens = 0;
  const BuildReport report = build_shards(options, [&](std::int64_t bytes, std::int64_t tokens) {
    EXPECT_GE(bytes, heard_bytes);
    heard_bytes = bytes;
    heard_tokens = tokens;
  });
  auto expected = a;
  expected.insert(expected.end(), b.begin(), b.end());
  expected.insert(expected.end(), c.begin(), c.end());
  EXPECT_EQ(read_documents(TokenFile(options.output)), expected);
  EXPECT_EQ(report.written.documents, 9004);
  EXPECT_EQ(report.left_out.empty, 1);
  EXPECT_EQ(report.written.tokens, std::int64_t(concatenated(expected).size()));
  EXPECT_EQ(heard_tokens, report.written.tokens);
  std::int64_t size = 0;
  for (const auto& input : options.inputs) size += std::int64_t(fs::file_size(input));
  EXPECT_EQ(heard_bytes, size);
}

TEST_F(BuildShards, TheNumberOfThreadsDoesNotShow) {
  write_bytes(folder_ / "a.jsonl", jsonl_of(random_documents(20000, 60, 70000)));
  auto options = tokenized({"a.jsonl"}, 70000);
  options.held_out = HeldOutSize{100, 0};
  std::vector<std::string> results;
  for (const int threads : {1, 3, 8}) {
    options.threads = threads;
    options.output = folder_ / str("out", threads, ".h5");
    options.held_out_output = folder_ / str("held", threads, ".h5");
    build_shards(options);
    results.push_back(read_bytes(options.output) + read_bytes(manifest_path(options.output)) +
                      read_bytes(options.held_out_output));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_F(BuildShards, HeldOutDocumentsLeaveTheTrainingShard) {
  auto documents = random_documents(997, 8, 1000);
  for (std::size_t i = 0; i < documents.size(); ++i) documents[i].push_back(std::int32_t(i));
  write_bytes(folder_ / "a.jsonl", jsonl_of(documents));
  std::vector<std::vector<Document>> chosen;
  for (const auto& [size, seed, count] :
       {std::tuple{"50", 1u, 50}, {"0.1", 1u, 100}, {"50", 2u, 50}, {"996", 1u, 996}}) {
    auto options = tokenized({"a.jsonl"}, 1000);
    options.held_out = parse_held_out(size);
    options.held_out_output = folder_ / "held.h5";
    options.seed = seed;
    options.force = true;
    const BuildReport report = build_shards(options);
    EXPECT_EQ(report.held_out.documents, count);
    const auto kept = read_documents(TokenFile(options.output));
    const auto held = read_documents(TokenFile(options.held_out_output));
    EXPECT_EQ(kept.size() + held.size(), documents.size());
    // The last id says which document it is: both sides in order, together every one once.
    const auto number = [](const Document& a, const Document& b) { return a.back() < b.back(); };
    std::vector<Document> merged;
    std::merge(kept.begin(), kept.end(), held.begin(), held.end(), std::back_inserter(merged),
               number);
    EXPECT_EQ(merged, documents);
    chosen.push_back(held);
  }
  EXPECT_NE(chosen[0], chosen[2]) << "another seed chooses others";
}

TEST(ChooseHeldOut, TakesEveryDocumentAsOften) {
  std::vector<int> count(20);
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    const auto chosen = choose_held_out(20, 5, seed);
    EXPECT_EQ(std::count(chosen.begin(), chosen.end(), true), 5);
    for (std::size_t i = 0; i < 20; ++i) count[i] += chosen[i];
  }
  for (const int c : count) EXPECT_NEAR(c, 1000, 150);  // 5.5 standard deviations
}

TEST_F(BuildShards, BadLinesStopTheBuildOrAreCounted) {
  const std::string good = jsonl_of({{1, 2}, {3}});
  write_bytes(folder_ / "a.jsonl", good + "{\"input_ids\":[4,500]}\n{\"ids\":[1]}\n" + good);
  auto options = tokenized({"a.jsonl"}, 500);
  EXPECT_EQ(input_error_of([&] { build_shards(options); }),
            (folder_ / "a.jsonl").string() +
                ":3: token id 500 at position 1 is beyond the vocabulary of 500");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1) << "only the input";
  options.skip_bad = true;
  const BuildReport report = build_shards(options);
  EXPECT_EQ(report.left_out.bad, 2);
  EXPECT_EQ(read_documents(TokenFile(options.output)),
            (std::vector<Document>{{1, 2}, {3}, {1, 2}, {3}}));
}

TEST_F(BuildShards, ABuildThatStoppedGoesOnToTheSameBytes) {
  const std::string text = jsonl_of(random_documents(9000, 40, 500));
  write_bytes(folder_ / "a.jsonl", text);
  write_bytes(folder_ / "b.jsonl", text + "nonsense\n" + text);
  auto options = tokenized({"a.jsonl", "b.jsonl"}, 500);
  options.held_out = HeldOutSize{100, 0};
  options.shard_tokens = 150000;
  const auto all_in = [&](const char* name, const BuildProgress& progress = {}) {
    options.output = folder_ / name / "out.h5";
    options.held_out_output = folder_ / name / "held.h5";
    fs::create_directory(folder_ / name);
    build_shards(options, progress);
    std::string bytes;
    for (const char* file : {"out-00000.h5", "out-00001.h5", "out-00002.h5", "out-00003.h5",
                             "held.h5", "out-00003.h5.json"})
      bytes += read_bytes(folder_ / name / file);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / name), {}), 10);
    return bytes;
  };
  options.skip_bad = true;
  const std::string straight = all_in("straight");
  options.skip_bad = false;
  options.save_every = 0;
  EXPECT_THAT(input_error_of([&] { all_in("stopped"); }), HasSubstr("b.jsonl:9001: not valid"));
  options.skip_bad = true;
  std::int64_t first = -1;
  EXPECT_EQ(all_in("stopped",
                   [&](std::int64_t, std::int64_t tokens) {
                     if (first < 0) first = tokens;
                   }),
            straight);
  EXPECT_GT(first, 200000) << "what was done before was kept";

  // Other options cannot go on with it, and a shard that is somebody else's is not replaced.
  options.skip_bad = false;
  EXPECT_THROW(all_in("other"), InputError);
  options.vocabulary_size = 600;
  EXPECT_THAT(input_error_of([&] { all_in("other"); }), HasSubstr("another 'vocab-size'"));
  options.vocabulary_size = 500;
  options.cut_documents = 20;
  EXPECT_THAT(input_error_of([&] { all_in("other"); }), HasSubstr("another 'cut-documents'"));
  options.cut_documents = 0;
  options.skip_bad = true;
  write_bytes(folder_ / "other/out-00001.h5", "mine");
  EXPECT_THAT(input_error_of([&] { all_in("other"); }), HasSubstr("out-00001.h5: exists"));
  fs::remove(folder_ / "other/out-00001.h5");
  EXPECT_EQ(all_in("other"), straight);
}

TEST_F(BuildShards, ShardsEndWithTheDocumentThatFillsThem) {
  std::vector<Document> documents;
  for (int i = 0; i < 10; ++i) documents.push_back(Document(std::size_t(i + 1), i));
  write_bytes(folder_ / "a.jsonl", jsonl_of(documents));
  auto options = tokenized({"a.jsonl"}, 10);
  options.shard_tokens = 10;
  const BuildReport report = build_shards(options);
  std::vector<std::int64_t> sizes;
  std::vector<Document> read;
  for (const auto& shard : report.shards) {
    sizes.push_back(shard.tokens);
    for (auto& d : read_documents(TokenFile(shard.path))) read.push_back(d);
  }
  EXPECT_EQ(sizes, (std::vector<std::int64_t>{10, 11, 15, 19}));
  EXPECT_EQ(read, documents);
  options.force = true;
  options.shard_tokens = 30;
  build_shards(options);
  EXPECT_TRUE(fs::exists(folder_ / "out-00001.h5"));
  EXPECT_FALSE(fs::exists(folder_ / "out-00002.h5")) << "of the build that was replaced";
  EXPECT_FALSE(fs::exists(folder_ / "out-00003.h5.json"));
}

TEST_F(BuildShards, LongDocumentsAreCutIntoPieces) {
  write_bytes(folder_ / "a.jsonl", jsonl_of({{1, 2, 3, 4, 5, 6, 7}, {1, 2, 3}, {8}}));
  auto options = tokenized({"a.jsonl"}, 10);
  options.cut_documents = 3;
  build_shards(options);
  EXPECT_EQ(read_documents(TokenFile(options.output)),
            (std::vector<Document>{{1, 2, 3}, {4, 5, 6}, {7}, {1, 2, 3}, {8}}));
}

TEST_F(BuildShards, RawDocumentsOfSevenSetsBecomeSevenDomains) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
  MOE_SKIP_WITHOUT_REALDATA("corpus/redpajama_sample/wiki/sample_wiki1.jsonl");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama2"));
  const std::map<std::string, std::string> samples = {
      {"RedPajamaArXiv", "arxiv"},    {"RedPajamaCommonCrawl", "cc"},
      {"RedPajamaGithub", "github"},  {"RedPajamaStackExchange", "stackexchange"},
      {"RedPajamaWikipedia", "wiki"}, {"RedPajamaC4", "c4-rp"}};
  // Twenty documents of each set at most, the sets taking turns.
  std::map<std::string, std::vector<std::string>> texts = {{"RedPajamaBook", {"A book. The end."}}};
  for (const auto& [set, name] : samples) {
    std::ifstream in(real_data(str("corpus/redpajama_sample/", name, "/sample_", name, "1.jsonl")));
    for (std::string line; std::getline(in, line) && texts[set].size() < 20;)
      if (line.size() < 20000) texts[set].push_back(parse_text(line, "text", ""));
  }
  std::string raw;
  for (std::size_t i = 0; i < 20; ++i)
    for (const auto& [set, list] : texts)
      if (i < list.size()) raw += raw_line(set, list[i]);
  write_bytes(folder_ / "a.jsonl.zst", zstd(raw));
  BuildOptions options;
  options.inputs = {folder_ / "a.jsonl.zst"};
  options.sets = SetNames{};
  options.tokenizer = &tokenizer;
  options.bos = true;
  std::map<std::string, std::string> straight;
  for (const int threads : {1, 2, 7}) {
    options.output = folder_ / str("out", threads);
    options.threads = threads;
    EXPECT_EQ(build_shards(options).domains.size(), 7u);
    if (threads == 1) straight = files_below(options.output);
    EXPECT_EQ(files_below(options.output), straight);
  }
  EXPECT_EQ(straight.size(), 14u);
  for (const auto& [set, list] : texts) {
    const TokenFile file(options.output / (kSevenSets.at(set) + ".h5"));
    EXPECT_EQ(file.info().domain, kSevenSets.at(set));
    std::vector<std::string> read;
    for (const Document& d : read_documents(file)) {
      EXPECT_EQ(d[0], 1);
      read.push_back(tokenizer.decode({d.data() + 1, d.size() - 1}));
    }
    EXPECT_EQ(read, list) << set;
  }
  options.force = true;
  options.held_out = HeldOutSize{1, 0};
  EXPECT_THAT(input_error_of([&] { build_shards(options); }),
              AllOf(HasSubstr("1 documents of en_book"), HasSubstr("--cut-documents")));
  options.cut_documents = 3;
  const BuildReport report = build_shards(options);
  EXPECT_EQ(report.held_out.documents, 7);
  EXPECT_EQ(TokenFile(options.output / "en_book-held-out.h5").documents(), 1);
}

TEST_F(BuildShards, RetokenizedShardsAreThoseOfTheText) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
  MOE_SKIP_WITHOUT_REALDATA("models/stories260K");
  MOE_SKIP_WITHOUT_REALDATA("corpus/redpajama_sample/stackexchange/sample_stackexchange1.jsonl");
  const Tokenizer from = Tokenizer::open(real_data("tokenizers/llama2"));
  fs::path model;
  for (const auto& entry : fs::directory_iterator(real_data("models/stories260K")))
    if (entry.path().extension() == ".model") model = entry.path();
  const Tokenizer to = Tokenizer::open(model);
  std::ifstream in(real_data("corpus/redpajama_sample/stackexchange/sample_stackexchange1.jsonl"));
  std::string text;
  int count = 0;
  for (std::string line; count < 200 && std::getline(in, line); ++count) text += line + "\n";
  write_bytes(folder_ / "a.jsonl", text);
  BuildOptions options;
  options.inputs = {folder_ / "a.jsonl"};
  options.domain = "stack";
  options.bos = true;
  options.output = folder_ / "from.h5";
  options.tokenizer = &from;
  build_shards(options);
  options.output = folder_ / "direct.h5";
  options.tokenizer = &to;
  options.eos = true;
  build_shards(options);
  options.inputs = {folder_ / "from.h5"};
  options.from = &from;
  for (const int threads : {1, 2, 7}) {
    options.threads = threads;
    options.output = folder_ / str("to", threads, ".h5");
    build_shards(options);
    EXPECT_EQ(read_bytes(options.output), read_bytes(folder_ / "direct.h5"));
  }
  options.output = folder_ / "again.h5";
  options.from = &to;
  EXPECT_THAT(input_error_of([&] { build_shards(options); }),
              AllOf(HasSubstr("from.h5: made by another tokenizer"), HasSubstr(to.hash())));
}

TEST_F(BuildShards, AnExistingShardIsReplacedByForceOnly) {
  write_bytes(folder_ / "a.jsonl", jsonl_of({{1, 2}, {3}}));
  auto options = tokenized({"a.jsonl"}, 500);
  write_shard(options.output, {{9, 9}}, 500);
  EXPECT_THAT(input_error_of([&] { build_shards(options); }),
              AllOf(HasSubstr("out.h5: exists"), HasSubstr("--force")));
  EXPECT_EQ(read_documents(TokenFile(options.output)), (std::vector<Document>{{9, 9}}));
  options.force = true;
  build_shards(options);
  EXPECT_EQ(read_documents(TokenFile(options.output)), (std::vector<Document>{{1, 2}, {3}}));
}

TEST_F(BuildShards, OptionsThatContradictEachOtherAreRefused) {
  write_bytes(folder_ / "a.jsonl", jsonl_of({{1, 2}, {3}}));
  const auto error = [&](auto change) {
    auto options = tokenized({"a.jsonl"}, 500);
    change(options);
    return input_error_of([&] { build_shards(options); });
  };
  using O = BuildOptions;
  EXPECT_THAT(error([](O& o) { o.inputs.clear(); }), HasSubstr("no input"));
  EXPECT_THAT(error([](O& o) { o.vocabulary_size = 0; }), HasSubstr("--vocab-size"));
  EXPECT_THAT(error([](O& o) { o.tokenized = false; }), HasSubstr("--tokenizer"));
  EXPECT_THAT(error([](O& o) { o.bos = true; }), HasSubstr("--bos needs --tokenizer"));
  EXPECT_THAT(error([](O& o) { o.held_out = HeldOutSize{1, 0}; }), HasSubstr("--held-out-output"));
  EXPECT_THAT(error([&](O& o) { o.held_out_output = folder_ / "h.h5"; }), HasSubstr("--held-out"));
  EXPECT_THAT(error([](O& o) {
                o.held_out = HeldOutSize{1, 0};
                o.held_out_output = o.output;
              }),
              HasSubstr("the same file"));
  EXPECT_THAT(error([&](O& o) {
                o.held_out = HeldOutSize{2, 0};
                o.held_out_output = folder_ / "h.h5";
              }),
              HasSubstr("the inputs have 2 documents"));
  EXPECT_THAT(error([&](O& o) { o.output = folder_ / "none/out.h5"; }),
              HasSubstr("no such folder"));
  EXPECT_THAT(error([&](O& o) { o.inputs = {folder_ / "none.jsonl"}; }), HasSubstr("none.jsonl"));
  EXPECT_THAT(error([](O& o) { o.domain = ""; }), HasSubstr("domain"));
  for (const char* bad : {"", "0", "-1", "1.5", "0.0", "x", "1x", "0.5x", "nan"})
    EXPECT_THROW(parse_held_out(bad), InputError) << bad;
}

TEST_F(BuildShards, PutsBosAndEosAroundTextAndLeavesEmptyDocumentsOut) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama2"));
  write_bytes(folder_ / "a.jsonl",
              "{\"body\":\"Hello world\"}\n{\"body\":\"\"}\n{\"body\":\" \"}\n");
  write_bytes(folder_ / "b.txt", "Hello world\n\n\nHello World\n");
  BuildOptions options;
  options.inputs = {folder_ / "a.jsonl", folder_ / "b.txt"};
  options.tokenizer = &tokenizer;
  options.domain = "test";
  options.field = "body";
  options.separator = "";
  options.bos = options.eos = true;
  options.output = folder_ / "out.h5";
  const BuildReport report = build_shards(options);
  EXPECT_EQ(report.left_out.empty, 2);
  const TokenFile file(options.output);
  EXPECT_EQ(read_documents(file),
            (std::vector<Document>{
                {1, 15043, 3186, 2}, {1, 259, 2}, {1, 15043, 3186, 2}, {1, 15043, 2787, 2}}));
  EXPECT_EQ(file.info(), (TokenFileInfo{"test", tokenizer.hash(), 32000, 1, 2}));
}

TEST_F(BuildShards, RealTextComesBackFromTheShard) {
  MOE_SKIP_WITHOUT_REALDATA("tokenizers/llama2/tokenizer.model");
  MOE_SKIP_WITHOUT_REALDATA("corpus/redpajama_sample/github/sample_github1.jsonl");
  const Tokenizer tokenizer = Tokenizer::open(real_data("tokenizers/llama2"));
  BuildOptions options;
  options.inputs = {real_data("corpus/redpajama_sample/github/sample_github1.jsonl"),
                    real_data("corpus/redpajama_sample/wiki/sample_wiki1.jsonl")};
  options.tokenizer = &tokenizer;
  options.domain = "code";
  options.output = folder_ / "out.h5";
  build_shards(options);
  const TokenFile file(options.output);
  std::int64_t i = 0;
  for (const auto& input : options.inputs) {
    std::ifstream in(input);
    for (std::string line; std::getline(in, line); ++i) {
      const TokenFile::Range range = file.document(i);
      std::vector<std::int32_t> ids(std::size_t(range.count));
      file.read(range.first, ids);
      ASSERT_EQ(tokenizer.decode(ids), parse_text(line, "text", "")) << "document " << i;
    }
  }
  EXPECT_EQ(i, file.documents());
}

}  // namespace
}  // namespace moe
