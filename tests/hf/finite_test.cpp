// SPDX-License-Identifier: Apache-2.0
#include "hf/finite.h"

#include <cstring>
#include <limits>
#include <vector>

#include "hf_test_support.h"

namespace moe::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// Bits of the largest finite number, of both infinities and of two NaNs.
struct Bits {
  DType dtype;
  std::uint64_t largest;
  std::vector<std::uint64_t> bad;
};

const std::vector<Bits> kBits = {
    {DType::f32, 0x7f7fffff, {0x7f800000, 0xff800000, 0x7fc00000, 0xff800001}},
    {DType::bf16, 0x7f7f, {0x7f80, 0xff80, 0x7fc0, 0xff81}},
    {DType::f16, 0x7bff, {0x7c00, 0xfc00, 0x7e00, 0xfc01}},
    {DType::f64,
     0x7fefffffffffffffull,
     {0x7ff0000000000000ull, 0xfff0000000000000ull, 0x7ff8000000000000ull, 0xfff0000000000001ull}},
};

TEST(FirstNotFinite, FindsEveryKindAnywhereAtAnyAlignment) {
  constexpr std::int64_t n = 1'000'003;
  for (const auto& [dtype, largest, bad] : kBits) {
    const std::size_t width = size_of(dtype);
    for (const std::size_t shift : {0, 1}) {
      std::vector<std::byte> bytes(std::size_t(n) * width + shift);
      std::byte* values = bytes.data() + shift;
      const auto put = [&](std::int64_t i, std::uint64_t bits) {
        std::memcpy(values + std::size_t(i) * width, &bits, width);
      };
      for (std::int64_t i = 0; i < n; ++i) put(i, largest);
      EXPECT_EQ(first_not_finite(values, dtype, n), -1) << name(dtype);
      std::size_t kind = 0;
      for (const std::int64_t at : {n - 1, std::int64_t(700'001), std::int64_t(4096),
                                    std::int64_t(4095), std::int64_t(0)}) {
        put(at, bad[kind++ % bad.size()]);  // the later ones stay: the first counts
        EXPECT_EQ(first_not_finite(values, dtype, n), at) << name(dtype);
      }
    }
  }
  EXPECT_EQ(first_not_finite(nullptr, DType::f32, 0), -1);
}

TEST(RequireFinite, NamesTheRow) {
  Tensor t = Tensor::zeros({3, 5}, DType::f32);
  EXPECT_NO_THROW(require_finite(t, "router.weight"));
  t.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(input_error_of([&] { require_finite(t, "router.weight"); }),
              AllOf(HasSubstr("router.weight"), HasSubstr("row 1, column 2")));
}

TEST(ModelFolderRequireFinite, NamesFileTensorAndRow) {
  TestFolder folder;
  const ModelConfig config = small_mixtral_config();
  const RandomModel model(config, DType::bf16);
  WriteOptions options;
  options.format = ModelFormat::mixtral;
  write_model(folder / "m", config, options, [&](const std::string& name, auto first, auto count) {
    const Tensor t = model.at(name).slice(first, count).clone();
    if (name == "layers.1.experts.down.weight" && first == 4)  // neuron 2 of expert 1, channel 3
      t.data<bf16>()[2 * 8 + 3] = bf16(-std::numeric_limits<float>::infinity());
    return t;
  });
  const ModelFolder read(folder / "m");
  EXPECT_NO_THROW(read.require_finite("layers.0.experts.down.weight"));
  const auto expected = AllOf(HasSubstr((folder / "m" / "model.safetensors").string()),
                              HasSubstr("'model.layers.1.block_sparse_moe.experts.1.w2.weight'"),
                              HasSubstr("row 3, column 2"));
  EXPECT_THAT(input_error_of([&] { read.require_finite("layers.1.experts.down.weight"); }),
              expected);
  EXPECT_THAT(input_error_of([&] { read.require_finite(); }), expected);
  EXPECT_THROW(read.require_finite("layers.1.ffn.up.weight"), Error);
}

}  // namespace
}  // namespace moe::testing
