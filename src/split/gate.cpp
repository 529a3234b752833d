// SPDX-License-Identifier: Apache-2.0
#include "split/gate.h"

#include "core/error.h"
#include "core/rng.h"

namespace moe {

namespace {

constexpr double kGateDeviation = 0.02;
constexpr GateInit kAll[] = {GateInit::mlp, GateInit::linear, GateInit::zeros};

/// FNV-1a, 64 bits.
std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : text) h = (h ^ std::uint8_t(c)) * 0x100000001b3ull;
  return h;
}

}  // namespace

const char* name(GateInit init) {
  switch (init) {
    case GateInit::mlp:
      return "mlp";
    case GateInit::linear:
      return "linear";
    case GateInit::zeros:
      return "zeros";
  }
  return "?";
}

GateInit gate_init_named(std::string_view text) {
  for (const GateInit init : kAll)
    if (text == name(init)) return init;
  throw InputError(str("unknown gate '", text, "': use mlp, linear or zeros"));
}

GateKind gate_kind(GateInit init) {
  return init == GateInit::mlp ? GateKind::mlp : GateKind::linear;
}

bool is_router_parameter(const std::string& parameter) {
  return parameter.find(".router.") != std::string::npos;
}

Tensor initial_gate_rows(const std::string& parameter, std::int64_t first, std::int64_t rows,
                         std::int64_t cols, GateInit init, std::uint64_t seed) {
  if (init == GateInit::zeros || parameter.ends_with(".router.noise.weight"))
    return Tensor::zeros({rows, cols}, DType::f32);
  const Philox random(seed, RandomPurpose::split, {hash(parameter)});
  Tensor weights = Tensor::empty({rows, cols}, DType::f32);
  for (std::int64_t i = 0; i < rows * cols; ++i)
    weights.data<float>()[i] =
        float(kGateDeviation * random.normal(std::uint64_t(first * cols + i)));
  return weights;
}

}  // namespace moe
