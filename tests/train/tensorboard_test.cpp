// SPDX-License-Identifier: Apache-2.0
#include "train/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/write_fault.h"
#include "support/test_folder.h"
#include "train/run_metrics.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

/// A second opinion on protobuf: fields by number, numbers as their bits.
struct Field {
  int number = 0, wire_type = 0;
  std::uint64_t bits = 0;
  std::string text;
};

std::uint64_t fixed(const std::string& bytes, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;) value = value << 8 | std::uint8_t(bytes.at(at + i));
  return value;
}

std::vector<Field> fields_of(const std::string& bytes) {
  std::vector<Field> fields;
  std::size_t at = 0;
  const auto variable = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = std::uint8_t(bytes.at(at++));
      value |= std::uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.size()) {
    const std::uint64_t key = variable();
    Field f{int(key >> 3), int(key & 7), 0, {}};
    if (f.wire_type == 0) {
      f.bits = variable();
    } else if (f.wire_type == 2) {
      const std::uint64_t size = variable();
      if (at + size > bytes.size()) throw Error("a field longer than its message");
      f.text = bytes.substr(at, size);
      at += size;
    } else {
      const std::size_t size = f.wire_type == 1 ? 8 : 4;
      f.bits = fixed(bytes, at, size);
      at += size;
    }
    fields.push_back(f);
  }
  return fields;
}

Field field(const std::string& bytes, int number) {
  for (const Field& f : fields_of(bytes))
    if (f.number == number) return f;
  throw Error(str("no field ", number));
}

double real(const Field& f) {
  if (f.wire_type == 5) return std::bit_cast<float>(std::uint32_t(f.bits));
  return std::bit_cast<double>(f.bits);
}

/// Bit by bit, as the standard defines it.
std::uint32_t slow_masked_crc(const std::string& bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= std::uint8_t(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8;
}

/// The whole records of an event file; what is behind them goes to `torn`.
std::vector<std::string> records_of(const fs::path& file, std::size_t* torn = nullptr) {
  std::ifstream in(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> records;
  std::size_t at = 0;
  while (at + 12 <= bytes.size()) {
    const std::uint64_t size = fixed(bytes, at, 8);
    EXPECT_EQ(fixed(bytes, at + 8, 4), slow_masked_crc(bytes.substr(at, 8)));
    if (at + 16 + size > bytes.size()) break;
    records.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(fixed(bytes, at + 12 + size, 4), slow_masked_crc(records.back()));
    at += 16 + size;
  }
  if (torn != nullptr) *torn = bytes.size() - at;
  return records;
}

std::map<std::string, double> scalars_of(const std::string& record) {
  std::map<std::string, double> scalars;
  for (const Field& value : fields_of(field(record, 5).text))
    for (const Field& f : fields_of(value.text))
      if (f.number == 2) scalars[field(value.text, 1).text] = real(f);
  return scalars;
}

std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

StepMetrics metrics(std::int64_t step) {
  StepMetrics m;
  m.step = step;
  m.tokens = 1'000'000'000 * step;
  m.loss = 2.5;
  m.teacher_kl = 0.125;
  m.top_k = 3;
  m.domain_loss = {{"web", 3.25}, {"code", NAN}};
  m.held_out_loss = {{"web", 3.5}};
  m.grad_norm = INFINITY;
  m.phase_seconds = {{"forward", 0.25}};
  m.load_max_over_mean = {1, 2};
  m.expert_load = {{1, 0, 3}, {2, 2, 0}};
  return m;
}

struct TensorBoardFiles : testing::Test {
  test::TestFolder folder_;
};

TEST(Crc32c, GivesThePublishedChecksums) {
  const std::string zeros(32, '\0'), ones(32, '\xff');
  std::string rising(32, '\0');
  std::iota(rising.begin(), rising.end(), '\0');
  EXPECT_EQ(crc32c(zeros), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(ones), 0x62a8ab43u);
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(crc32c(std::string("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string()), 0u);
}

TEST_F(TensorBoardFiles, BeginWithTheVersionAndTheFirstStepThatCounts) {
  TensorBoard(folder_ / "tb", 7, 700);
  const auto records = records_of(event_files(folder_ / "tb").at(0));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(field(records[0], 3).text, "brain.Event:2");
  EXPECT_EQ(field(records[1], 2).bits, 8u);
  EXPECT_EQ(field(field(records[1], 7).text, 1).bits, 1u);  // START
  const double now = double(std::time(nullptr));
  EXPECT_NEAR(real(field(records[1], 1)), now, 60);
  const auto by_tokens = records_of(event_files(folder_ / "tb" / "by_tokens").at(0));
  EXPECT_EQ(field(by_tokens.at(1), 2).bits, 701u);
}

TEST_F(TensorBoardFiles, HoldEveryNumberOfAStepUnderItsTag) {
  TensorBoard(folder_ / "tb", 0, 0).write(metrics(300));
  const auto records = records_of(event_files(folder_ / "tb").at(0));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(field(records[2], 2).bits, 300u);
  const auto scalars = scalars_of(records[2]);
  EXPECT_EQ(scalars.at("train/loss"), 2.5);
  EXPECT_EQ(scalars.at("train/teacher_kl"), 0.125);
  EXPECT_EQ(scalars.at("router/top_k"), 3);
  EXPECT_EQ(scalars.at("train/loss_by_domain/web"), 3.25);
  EXPECT_EQ(scalars.at("held_out/web"), 3.5);
  EXPECT_EQ(scalars.at("time/forward"), 0.25);
  EXPECT_EQ(scalars.at("load/max_over_mean"), 1.5);
  EXPECT_EQ(scalars.at("load/max_over_mean_by_layer/01"), 2);
  EXPECT_FALSE(scalars.contains("train/loss_by_domain/code"));  // NaN
  EXPECT_FALSE(scalars.contains("train/grad_norm"));            // infinite
  const auto by_tokens = records_of(event_files(folder_ / "tb" / "by_tokens").at(0));
  EXPECT_EQ(field(by_tokens.at(2), 2).bits, 300'000'000'000u);
  EXPECT_EQ(scalars_of(by_tokens.at(2)).at("train/loss"), 2.5);
}

TEST_F(TensorBoardFiles, ShowSkippedStepsByStepsAlone) {
  StepMetrics skipped = metrics(2);
  skipped.skipped = "the loss is not finite";
  TensorBoard(folder_ / "tb", 0, 0).write(skipped);
  EXPECT_EQ(records_of(event_files(folder_ / "tb").at(0)).size(), 3u);
  EXPECT_EQ(records_of(event_files(folder_ / "tb" / "by_tokens").at(0)).size(), 2u);
}

TEST_F(TensorBoardFiles, HoldTheLoadOfEachLayerAsBars) {
  TensorBoard(folder_ / "tb", 0, 0).write(metrics(1));
  const auto record = records_of(event_files(folder_ / "tb").at(0)).at(2);
  std::vector<std::string> tags;
  for (const Field& value : fields_of(field(record, 5).text)) {
    const auto fields = fields_of(value.text);
    if (fields.at(1).number != 5) continue;
    tags.push_back(fields[0].text);
    const std::string& bars = fields[1].text;
    if (tags.size() > 1) continue;
    EXPECT_EQ(real(field(bars, 3)), 4);  // pairs
    EXPECT_EQ(real(field(bars, 4)), 6);  // 0 * 1 + 2 * 3
    EXPECT_EQ(real(field(bars, 5)), 12);
    std::vector<double> limits, counts;
    for (std::size_t i = 0; i < 3; ++i) {
      limits.push_back(std::bit_cast<double>(fixed(field(bars, 6).text, 8 * i, 8)));
      counts.push_back(std::bit_cast<double>(fixed(field(bars, 7).text, 8 * i, 8)));
    }
    EXPECT_THAT(limits, ElementsAre(0.5, 1.5, 2.5));
    EXPECT_THAT(counts, ElementsAre(1, 0, 3));
  }
  EXPECT_THAT(tags, ElementsAre("load/experts_of_layer/00", "load/experts_of_layer/01"));
}

TEST_F(TensorBoardFiles, AreReadInTheOrderInWhichTheyWereMade) {
  for (int i = 0; i < 12; ++i) TensorBoard(folder_ / "tb", i, i);
  const auto files = event_files(folder_ / "tb");
  ASSERT_EQ(files.size(), 12u);
  for (std::size_t i = 0; i < files.size(); ++i)
    EXPECT_EQ(field(records_of(files[i]).at(1), 2).bits, i + 1);
}

TEST_F(TensorBoardFiles, AreReadableUpToATornTail) {
  {
    TensorBoard board(folder_ / "tb", 0, 0);
    board.write(metrics(1));
    board.write(metrics(2));
  }
  const fs::path file = event_files(folder_ / "tb").at(0);
  const auto whole = records_of(file);
  for (int bytes = 1; bytes < 40; ++bytes) {
    fs::resize_file(file, fs::file_size(file) - 1);
    std::size_t torn = 0;
    EXPECT_THAT(records_of(file, &torn), testing::ElementsAreArray(whole.begin(), whole.end() - 1));
    EXPECT_GT(torn, 0u);
  }
}

TEST_F(TensorBoardFiles, OnAFullDiskCostOneWarningAndNotTheMetrics) {
  TrainConfig::Run run;
  run.folder = folder_.path().string();
  RunMetrics written(run, 0, 0);
  written.write(metrics(1));
  const auto sizes = [&] {
    return std::pair(fs::file_size(event_files(folder_ / "tensorboard").at(0)),
                     fs::file_size(event_files(folder_ / "tensorboard" / "by_tokens").at(0)));
  };
  const auto before = sizes();
  plant_write_fault((folder_ / "tensorboard").string(), ENOSPC);
  testing::internal::CaptureStderr();
  written.write(metrics(2));
  written.write(metrics(3));
  RunMetrics(run, 3, 3).write(metrics(4));  // the files cannot be begun either
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(sizes(), before);
  EXPECT_THAT(said, testing::HasSubstr(std::strerror(ENOSPC)));
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 2) << said;  // one for each RunMetrics
  std::ifstream in(folder_ / "metrics.jsonl");
  EXPECT_EQ(std::count(std::istreambuf_iterator<char>(in), {}, '\n'), 4);
}

TEST_F(TensorBoardFiles, AreNotMadeWhereTheConfigurationSaysSo) {
  TrainConfig::Run run;
  run.folder = folder_.path().string();
  run.tensorboard = false;
  RunMetrics(run, 0, 0).write(metrics(1));
  EXPECT_FALSE(fs::exists(folder_ / "tensorboard"));
}

TEST_F(TensorBoardFiles, AndTheLinesHoldTheLoadOfSomeSteps) {
  TrainConfig::Run run;
  run.folder = folder_.path().string();
  run.expert_load_every = 3;
  {
    RunMetrics written(run, 0, 0);
    for (int step = 1; step <= 6; ++step) written.write(metrics(step));
  }
  std::ifstream in(folder_ / "metrics.jsonl");
  std::vector<bool> has;
  for (std::string line; std::getline(in, line);)
    has.push_back(line.find("\"expert_load\"") != std::string::npos);
  EXPECT_THAT(has, ElementsAre(false, false, true, false, false, true));
}

}  // namespace
}  // namespace moe
