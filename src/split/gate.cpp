// SPDX-License-Identifier: Apache-2.0
#include "split/gate.h"

#include "core/error.h"
#include "nn/parameter_store.h"

namespace moe {

namespace {

constexpr GateInit kAll[] = {GateInit::mlp,      GateInit::linear,        GateInit::zeros,
                             GateInit::centers,  GateInit::select,        GateInit::select_linear,
                             GateInit::logistic, GateInit::representative};

}  // namespace

const char* name(GateInit init) {
  switch (init) {
    case GateInit::mlp:
      return "mlp";
    case GateInit::linear:
      return "linear";
    case GateInit::zeros:
      return "zeros";
    case GateInit::centers:
      return "centers";
    case GateInit::select:
      return "select";
    case GateInit::select_linear:
      return "select-linear";
    case GateInit::logistic:
      return "logistic";
    case GateInit::representative:
      return "representative";
  }
  return "?";
}

GateInit gate_init_named(std::string_view text) {
  for (const GateInit init : kAll)
    if (text == name(init)) return init;
  throw InputError(str("unknown gate '", text,
                       "': use mlp, linear, zeros, centers, select, select-linear, logistic or "
                       "representative"));
}

GateKind gate_kind(GateInit init) {
  return init == GateInit::mlp || init == GateInit::select ? GateKind::mlp : GateKind::linear;
}

bool is_router_parameter(const std::string& parameter) {
  return parameter.find(".router.") != std::string::npos;
}

bool is_attention_router_parameter(const std::string& parameter) {
  return parameter.find(".attention.router.") != std::string::npos;
}

ParameterRows gate_weights(const ModelConfig& config, GateInit init, std::uint64_t seed) {
  const bool random = init == GateInit::mlp || init == GateInit::linear;
  return [random, weights = initial_weights(config, seed)](const std::string& parameter,
                                                           std::int64_t first, std::int64_t count) {
    MOE_CHECK(is_router_parameter(parameter), parameter, " is no router's");
    const Tensor w = weights(parameter, first, count);
    return random ? w : Tensor::zeros(w.shape(), w.dtype());
  };
}

}  // namespace moe
