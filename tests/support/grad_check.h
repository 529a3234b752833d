// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "autograd/tape.h"
#include "core/rng.h"

namespace moe::testing {

/// f64 tensor of normal numbers times `scale`.
inline Tensor random_f64(Shape shape, std::uint64_t seed, double scale = 1) {
  Tensor t = Tensor::empty(std::move(shape), DType::f64);
  const Philox random(seed, RandomPurpose::test);
  for (std::int64_t i = 0; i < t.size(); ++i)
    t.data<double>()[i] = scale * random.normal(std::uint64_t(i));
  return t;
}

/// i32 tensor on the CPU.
inline Tensor indices(Shape shape, const std::vector<std::int32_t>& values) {
  return Tensor::of<std::int32_t>(std::move(shape), values);
}

using Function = std::function<Variable(const std::vector<Variable>&)>;

/// Compares the tape's gradient of sum(f(inputs) * probe) with central differences, in f64, with a
/// probe that differs per element. f must be smooth at the inputs.
inline void expect_gradients(const Function& f, const std::vector<Tensor>& inputs,
                             double tolerance = 1e-6) {
  const auto probe = [](std::int64_t i) {
    return 0.3 + 0.1 * double(i % 7) - 0.05 * double(i % 3);
  };
  const auto weighted = [&] {
    std::vector<Variable> in;
    for (const Tensor& t : inputs) in.push_back(Variable::constant(t));
    const Tensor y = f(in).value;
    double sum = 0;
    for (std::int64_t i = 0; i < y.size(); ++i) sum += y.data<double>()[i] * probe(i);
    return sum;
  };
  std::vector<Variable> in;
  for (const Tensor& t : inputs) in.push_back(Variable::leaf(t));
  {
    Tape tape;
    const Variable y = f(in);
    Tensor dy = empty_like(y.value);
    for (std::int64_t i = 0; i < dy.size(); ++i) dy.data<double>()[i] = probe(i);
    tape.backward(std::span(&y, 1), std::span<const Tensor>(&dy, 1));
  }
  constexpr double h = 1e-5;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    ASSERT_TRUE(in[k].slot->grad.defined()) << "input " << k << " got no gradient";
    for (std::int64_t i = 0; i < inputs[k].size(); ++i) {
      double& value = inputs[k].data<double>()[i];
      const double keep = value;
      value = keep + h;
      const double up = weighted();
      value = keep - h;
      const double down = weighted();
      value = keep;
      const double want = (up - down) / (2 * h);
      EXPECT_NEAR(in[k].slot->grad.data<double>()[i], want,
                  tolerance * std::max(1.0, std::abs(want)))
          << "input " << k << ", element " << i;
    }
  }
}

}  // namespace moe::testing
