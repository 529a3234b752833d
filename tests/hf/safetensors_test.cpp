// SPDX-License-Identifier: Apache-2.0
#include "hf/safetensors.h"

#include <sys/resource.h>

#include <csignal>

#include "hf_test_support.h"
#include "support/realdata.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  int begin, int end) {
  return str("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[",
             begin, ",", end, "]}");
}

struct BadHeader {
  const char* what;
  std::string header;
  int data_bytes;
  std::vector<std::string> message;
};

class BadSafetensorsHeader : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadSafetensorsHeader, IsRefusedNamingFileAndFault) {
  TestFolder folder;
  const auto path = folder / "x.safetensors";
  write_file(path, safetensors_bytes(GetParam().header, std::size_t(GetParam().data_bytes)));
  const std::string message = input_error_of([&] { SafetensorsFile file(path); });
  EXPECT_THAT(message, HasSubstr(path.string()));
  for (const std::string& part : GetParam().message) EXPECT_THAT(message, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadSafetensorsHeader,
    ::testing::Values(
        BadHeader{"Empty", "", 0, {"does not start with '{'"}},
        BadHeader{"NoObject", "[1]", 0, {"does not start with '{'"}},
        BadHeader{"BrokenJson", "{\"a\":", 0, {"no valid JSON"}},
        BadHeader{"BadUtf8", "{\"a\xff\":1}", 0, {"no valid JSON"}},
        BadHeader{"TooDeep",
                  "{\"a\":" + std::string(40, '[') + std::string(40, ']') + "}",
                  0,
                  {"nested"}},
        BadHeader{"TwiceTheSameName",
                  "{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("a", "F32", "[1]", 4, 8) + "}",
                  8,
                  {"'a'", "twice"}},
        BadHeader{"EntryIsNoObject", "{\"a\":3}", 0, {"'a'"}},
        BadHeader{"NoShape", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, {"'a'", "shape"}},
        BadHeader{"UnknownKey",
                  R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})",
                  4,
                  {"'a'"}},
        BadHeader{"UnknownDtype", "{" + entry("a", "F33", "[1]", 0, 4) + "}", 4, {"'a'", "'F33'"}},
        BadHeader{"NegativeSize", "{" + entry("a", "F32", "[-1]", 0, 4) + "}", 4, {"'a'", "shape"}},
        BadHeader{"FractionalSize", "{" + entry("a", "F32", "[1.0]", 0, 4) + "}", 4, {"'a'"}},
        BadHeader{"ProductOverflows",
                  "{" + entry("a", "F32", "[4294967296,4294967296,1]", 0, 4) + "}",
                  4,
                  {"'a'", "too large"}},
        BadHeader{"SizeAboveInt64",
                  "{" + entry("a", "F32", "[18446744073709551615]", 0, 4) + "}",
                  4,
                  {"'a'", "shape"}},
        BadHeader{"OffsetsBackwards", "{" + entry("a", "F32", "[1]", 4, 0) + "}", 4, {"'a'"}},
        BadHeader{"OneOffset",
                  R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})",
                  4,
                  {"'a'", "data_offsets"}},
        BadHeader{"SizeIsNotShapeTimesDtype",
                  "{" + entry("a", "F16", "[3]", 0, 4) + "}",
                  4,
                  {"'a'", "has 4 bytes", "takes 6"}},
        BadHeader{
            "PastTheEnd", "{" + entry("a", "F32", "[4]", 0, 16) + "}", 12, {"'a'", "truncated"}},
        BadHeader{
            "Overlap",
            "{" + entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[2]", 4, 12) + "}",
            12,
            {"'b'", "inside the tensor before it"}},
        BadHeader{
            "Gap",
            "{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "F32", "[1]", 8, 12) + "}",
            12,
            {"'b'", "gap"}},
        BadHeader{"BytesOfNoTensor", "{" + entry("a", "F32", "[1]", 0, 4) + "}", 9, {"5 bytes"}},
        BadHeader{"MetadataIsNoText", R"({"__metadata__":{"a":1}})", 0, {"__metadata__", "'a'"}}),
    [](const auto& row) { return row.param.what; });

TEST(SafetensorsFile, RefusesFilesShorterThanTheirHeaderSays) {
  TestFolder folder;
  const auto path = folder / "x.safetensors";
  const std::string whole = safetensors_bytes("{" + entry("a", "F32", "[4]", 0, 16) + "}", 16);
  for (std::size_t n = 0; n < whole.size(); ++n) {
    write_file(path, std::string_view(whole).substr(0, n));
    EXPECT_THAT(input_error_of([&] { SafetensorsFile file(path); }), HasSubstr(path.string()));
  }
  write_file(path, whole);
  EXPECT_NO_THROW(SafetensorsFile{path});

  std::string huge = whole;
  std::memset(huge.data(), 0xff, 8);
  write_file(path, huge);
  EXPECT_THAT(input_error_of([&] { SafetensorsFile file(path); }), HasSubstr("header of"));
  EXPECT_THAT(input_error_of([&] { SafetensorsFile file(folder / "none"); }),
              HasSubstr("cannot be opened"));
  EXPECT_THAT(input_error_of([&] { SafetensorsFile file(folder.path()); }),
              HasSubstr("no regular file"));
}

TEST(SafetensorsFile, ReadsWholeTensorsAndRows) {
  TestFolder folder;
  const auto path = folder / "x.safetensors";
  // A header of odd length: nothing after it is aligned.
  write_file(path, safetensors_bytes("{" + entry("i", "I8", "[3]", 0, 3) + "," +
                                         entry("m", "BF16", "[3,2]", 3, 15) + "," +
                                         entry("none", "F32", "[0,5]", 15, 15) + "," +
                                         entry("s", "F32", "[]", 15, 19) + "} ",
                                     19));
  const SafetensorsFile file(path);
  ASSERT_EQ(file.entries().size(), 4u);
  const Tensor m = file.read("m");
  EXPECT_THAT(m.shape(), ElementsAre(3, 2));
  EXPECT_EQ(m.data<bf16>()[0].bits, 0x0403);
  const Tensor rows = file.read("m", 1, 2);
  EXPECT_THAT(rows.shape(), ElementsAre(2, 2));
  EXPECT_EQ(rows.data<bf16>()[0].bits, 0x0807);
  EXPECT_EQ(rows.data<bf16>()[3].bits, 0x0e0d);
  EXPECT_THAT(file.read("none").shape(), ElementsAre(0, 5));
  EXPECT_EQ(file.read("s").size(), 1);
  EXPECT_EQ(file.bytes("i").size(), 3u);
  EXPECT_EQ(file.bytes("i")[2], std::byte{2});
  EXPECT_THAT(input_error_of([&] { file.read("i"); }),
              AllOf(HasSubstr(path.string()), HasSubstr("'i'"), HasSubstr("I8")));
  EXPECT_THAT(input_error_of([&] { file.read("x"); }),
              AllOf(HasSubstr(path.string()), HasSubstr("'x'")));
  EXPECT_THROW(file.read("m", 2, 2), Error);
}

TEST(SafetensorsFile, ReadsWhatTheReferenceImplementationWrote) {
  const SafetensorsFile file(fixture("llama") / "expected.safetensors");
  EXPECT_THAT(file.read("logits").shape(), ElementsAre(24, 96));
  EXPECT_THAT(file.read("inv_freq").shape(), ElementsAre(4));
  EXPECT_NEAR(file.read("inv_freq").data<float>()[1], 0.1f, 1e-7);
  EXPECT_EQ(file.entry("input_ids").dtype, "I64");
}

TEST(SafetensorsFile, ReadsMetadata) {
  MOE_SKIP_WITHOUT_REALDATA("models/tinystories-656k");
  const SafetensorsFile file(realdata() / "models/tinystories-656k/model.safetensors");
  EXPECT_EQ(file.metadata().at("model.embed_tokens.weight"), "lm_head.weight");
  EXPECT_EQ(file.entries().size(), 20u);
}

Tensor raw_bytes(const Tensor& t) {
  const Tensor raw = Tensor::empty({std::int64_t(t.nbytes())}, DType::u8);
  std::memcpy(raw.bytes(), t.bytes(), t.nbytes());
  return raw;
}

TEST(SafetensorsWriter, RoundTripsEveryTypeInPiecesOfAnySize) {
  TestFolder folder;
  const auto path = folder / "x.safetensors";
  const Tensor a = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor b = Tensor::of<bf16>({2}, {bf16(1.5f), bf16(-2.0f)});
  const Tensor c = Tensor::of<double>({1}, {0.1});
  const Tensor d = Tensor::of<f16>({1, 1}, {f16(0.25f)});
  SafetensorsWriter writer(path, {{"a", DType::f32, {2, 3}},
                                  {"b", DType::bf16, {2}},
                                  {"c", DType::f64, {1}},
                                  {"d", DType::f16, {1, 1}}});
  writer.write(a.slice(0, 1));
  writer.write(a.slice(1, 1));
  writer.write(b);
  const Tensor bytes_of_c = raw_bytes(c);
  writer.write(bytes_of_c.slice(0, 3));
  writer.write(bytes_of_c.slice(3, 5));
  writer.write(d);
  EXPECT_FALSE(std::filesystem::exists(path));
  const std::int64_t bytes = writer.finish();
  EXPECT_EQ(bytes, std::int64_t(std::filesystem::file_size(path)));

  const SafetensorsFile file(path);
  EXPECT_TRUE(same_bits(file.read("a"), a));
  EXPECT_TRUE(same_bits(file.read("b"), b));
  EXPECT_TRUE(same_bits(file.read("c"), c));
  EXPECT_TRUE(same_bits(file.read("d"), d));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.bytes("a").data()) % 8, 0u);
}

TEST(SafetensorsWriter, WritesTensorsLargerThanItsBuffer) {
  TestFolder folder;
  const Tensor big = Tensor::empty({3, 1 << 20}, DType::f32);
  for (std::int64_t i = 0; i < big.size(); ++i) big.data<float>()[i] = float(i);
  SafetensorsWriter writer(folder / "x",
                           {{"a", DType::f32, {5}}, {"big", DType::f32, {3, 1 << 20}}});
  const Tensor a = Tensor::of<float>({5}, {1, 2, 3, 4, 5});
  writer.write(a);
  for (int r = 0; r < 3; ++r) writer.write(big.slice(r, 1));
  writer.finish();
  EXPECT_TRUE(same_bits(SafetensorsFile(folder / "x").read("big"), big));
  EXPECT_TRUE(same_bits(SafetensorsFile(folder / "x").read("a"), a));
}

TEST(SafetensorsWriter, RefusesTooFewAndTooManyBytesAndLeavesNothing) {
  TestFolder folder;
  const Tensor a = Tensor::zeros({2}, DType::f32);
  {
    SafetensorsWriter writer(folder / "x", {{"a", DType::f32, {2}}});
    writer.write(a.slice(0, 1));
    EXPECT_THROW(writer.finish(), Error);
    EXPECT_THROW(writer.write(a), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"a", DType::f32, {2}}, {"a", DType::f32, {2}}}),
               Error);
  EXPECT_THROW(SafetensorsWriter(folder / "x", {{"a", DType::u8, {2}}}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, ReportsAFullDiskAndLeavesNothing) {
  TestFolder folder;
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1 << 20, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    SafetensorsWriter writer(folder / "x", {{"a", DType::f32, {1 << 19}}});
    writer.write(Tensor::zeros({1 << 19}, DType::f32));
    writer.finish();
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(message, HasSubstr("cannot write " + (folder / "x").string()));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace moe::testing
