// SPDX-License-Identifier: Apache-2.0
#include "hf/convert.h"

#include <cmath>
#include <limits>

#include "hf_test_support.h"

namespace moe::testing {
namespace {

template <class To, class From>
To converted(From value) {
  To result{};
  convert_floats(reinterpret_cast<const std::byte*>(&value), dtype_of<From>,
                 reinterpret_cast<std::byte*>(&result), dtype_of<To>, 1);
  return result;
}

TEST(ConvertFloats, WidensEveryHalfExactly) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    f16 h;
    h.bits = std::uint16_t(bits);
    bf16 b;
    b.bits = std::uint16_t(bits);
    const float wide = float(h);
    const auto got = converted<float>(h);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
      continue;
    }
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(wide)) << bits;
    ASSERT_EQ(converted<f16>(got).bits, bits);
    if (!std::isnan(float(b))) {
      ASSERT_EQ(converted<bf16>(converted<double>(b)).bits, bits);
    }
  }
}

TEST(ConvertFloats, RoundsToNearestEven) {
  EXPECT_EQ(float(converted<bf16>(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(float(converted<bf16>(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_EQ(float(converted<f16>(1.0f + 0x1p-11f)), 1.0f);
  EXPECT_EQ(converted<float>(1.0 + 0x1p-24), 1.0f);
  EXPECT_EQ(converted<double>(0.1f), double(0.1f));
}

TEST(ConvertFloats, SaysWhenAValueOverflows) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto fits = [](auto value, DType to) {
    std::byte bytes[8];
    return convert_floats(reinterpret_cast<const std::byte*>(&value), dtype_of<decltype(value)>,
                          bytes, to, 1);
  };
  EXPECT_TRUE(fits(65504.0f, DType::f16));
  EXPECT_FALSE(fits(65536.0f, DType::f16));
  EXPECT_TRUE(fits(inf, DType::f16));
  EXPECT_FALSE(fits(1e300, DType::bf16));
  EXPECT_FALSE(fits(bf16(1e10f), DType::f16));
}

TEST(ConvertFloats, KeepsOrderOverManyChunks) {
  const Tensor x = Tensor::empty({300'001}, DType::f32);
  for (std::int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = float(i);
  const Tensor y = scaled_to(x, 1, DType::f64, "x"), z = scaled_to(x, 0.5, DType::f32, "x");
  for (std::int64_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(y.data<double>()[i], double(i));
    ASSERT_EQ(z.data<float>()[i], float(i) / 2);
  }
}

TEST(ScaledTo, RoundsOnceAfterTheFactor) {
  // 1 + 2^-7 is the bf16 after 1; a factor of 3 needs more digits than bf16 has.
  const Tensor x = Tensor::of<bf16>({1}, {bf16(1.0f + 0x1p-7f)});
  EXPECT_EQ(scaled_to(x, 3, DType::f32, "x").data<float>()[0], 3 * (1.0f + 0x1p-7f));
  const Tensor big = Tensor::of<float>({1}, {60000.0f});
  EXPECT_THAT(input_error_of([&] { scaled_to(big, 2, DType::f16, "w2"); }),
              ::testing::HasSubstr("w2"));
}

TEST(TransposeWords, MovesEveryElementOfAnyWidthAndSize) {
  for (const DType dtype : {DType::bf16, DType::f32, DType::f64})
    for (const auto& [rows, cols] : {std::pair{1, 1}, {3, 70}, {64, 64}, {65, 33}, {130, 129}}) {
      const std::size_t w = size_of(dtype);
      const std::int64_t from_stride = cols + 5, to_stride = rows + 3;
      std::string from(std::size_t(rows * from_stride) * w + 1, '\0');
      for (std::size_t i = 0; i < from.size(); ++i) from[i] = char(i * 2654435761u >> 13);
      std::string to(std::size_t(cols * to_stride) * w, '!');
      // One byte in: files need not be aligned.
      transpose_words(reinterpret_cast<const std::byte*>(from.data()) + 1, from_stride,
                      reinterpret_cast<std::byte*>(to.data()), to_stride, rows, cols, w);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c)
          ASSERT_EQ(to.substr(std::size_t(c * to_stride + r) * w, w),
                    from.substr(1 + std::size_t(r * from_stride + c) * w, w))
              << rows << "x" << cols << " at " << r << "," << c;
      EXPECT_EQ(to.substr(std::size_t(rows) * w, 3 * w), std::string(3 * w, '!'));
    }
  EXPECT_THROW(transpose_words(nullptr, 0, nullptr, 0, 0, 0, 3), Error);
}

}  // namespace
}  // namespace moe::testing
