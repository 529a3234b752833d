// SPDX-License-Identifier: Apache-2.0
#include "data/job_folder.h"

#include "data/data_test_support.h"
#include "data/growing_file.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

TEST(JobFolder, GivesTheStateThatWasSavedLastToTheSameJobOnly) {
  const TestFolder folder;
  const fs::path path = folder / "job";
  {
    JobFolder job(path, R"({"a":1,"b":2})", false);
    EXPECT_EQ(job.state(), "");
    job.save(R"({"done":1})");
    job.save(R"({"done":2})");
  }
  EXPECT_EQ(JobFolder(path, R"({"b":2,"a":1})", false).state(), R"({"done":2})");
  EXPECT_THAT(input_error_of([&] { JobFolder(path, R"({"a":1,"b":3})", false); }),
              AllOf(HasSubstr("job"), HasSubstr("another 'b'"), HasSubstr("--force")));
  EXPECT_THAT(input_error_of([&] { JobFolder(path, R"({"a":1})", false); }), HasSubstr("'b'"));
  EXPECT_THAT(input_error_of([&] { JobFolder(path, R"({"a":1,"b":2,"c":3})", false); }),
              HasSubstr("'c'"));
  EXPECT_EQ(JobFolder(path, R"({"a":1,"b":2})", true).state(), R"({"done":2})") << "the same job";
  EXPECT_EQ(JobFolder(path, R"({"a":5})", true).state(), "");
  EXPECT_FALSE(fs::exists(path)) << "nothing was saved";
}

TEST(JobFolder, IsGoneWhenTheJobIsFinishedOrHasSavedNothing) {
  const TestFolder folder;
  const fs::path path = folder / "job";
  {
    JobFolder job(path, "{}", false);
    write_bytes(path / "left", "x");
  }
  EXPECT_FALSE(fs::exists(path));
  JobFolder job(path, "{}", false);
  job.save("{}");
  job.finish();
  EXPECT_FALSE(fs::exists(path));
}

TEST(JobFolder, IsForOneProcessAtATimeAndRefusesADamagedState) {
  const TestFolder folder;
  const fs::path path = folder / "job";
  {
    JobFolder job(path, "{}", false);
    job.save("{}");
    EXPECT_THAT(input_error_of([&] { JobFolder(path, "{}", true); }), HasSubstr("another process"));
  }
  write_bytes(path / "progress.json", "{\"job\":{");
  EXPECT_THAT(input_error_of([&] { JobFolder(path, "{}", false); }), HasSubstr("progress.json"));
  EXPECT_THAT(input_error_of([&] { JobFolder(folder / "no/job", "{}", false); }),
              HasSubstr("no/job"));
}

TEST(GrowingFile, KeepsWhatItIsToldToKeep) {
  const TestFolder folder;
  const std::string text(3 << 20, 'x');
  {
    GrowingFile file(folder / "a", 0);
    file.append("hello", 5);
    file.append(text.data(), text.size());  // more than the buffer
    file.append("end", 3);
    EXPECT_EQ(file.size(), std::int64_t(text.size()) + 8);
    file.sync();
  }
  EXPECT_EQ(read_bytes(folder / "a"), "hello" + text + "end");
  {
    GrowingFile file(folder / "a", 4);
    file.append("!", 1);
    file.flush();
    char back[3];
    file.read(2, back, 3);
    EXPECT_EQ(std::string(back, 3), "ll!");
  }
  EXPECT_EQ(read_bytes(folder / "a"), "hell!");
  EXPECT_THAT(input_error_of([&] { GrowingFile(folder / "a", 6); }), HasSubstr("5 bytes where 6"));
}

}  // namespace
}  // namespace moe
