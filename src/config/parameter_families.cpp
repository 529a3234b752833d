// SPDX-License-Identifier: Apache-2.0
#include "config/parameter_families.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/readable.h"

namespace moe {
namespace {

constexpr const char* kKey = "train.freeze";

std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string known_families() {
  std::string text;
  for (std::size_t i = 0; i < kParameterFamilyNames.size(); ++i)
    text += str(i == 0                                  ? ""
                : i + 1 == kParameterFamilyNames.size() ? " and "
                                                        : ", ",
                kParameterFamilyNames[i]);
  return text;
}

}  // namespace

ParameterFamily family_of(std::string_view parameter) {
  const std::vector<std::string_view> parts = parts_of(parameter);
  const bool in_layer = parts.size() > 3 && parts[0] == "layers";
  const std::string_view what = in_layer ? parts[2] : parts[0];
  if (!in_layer) {
    if (what == "embed" || what == "head") return ParameterFamily::embeddings;
    if (what == "norm") return ParameterFamily::norms;
  } else if (what == "attention_norm" || what == "ffn_norm") {
    return ParameterFamily::norms;
  } else if (what == "attention") {
    return parts[3] == "router" ? ParameterFamily::router : ParameterFamily::attention;
  } else if (what == "router" || what == "shared_router") {
    return ParameterFamily::router;
  } else if (what == "experts") {
    return ParameterFamily::experts;
  } else if (what == "shared") {
    return ParameterFamily::shared;
  } else if (what == "ffn") {
    return ParameterFamily::ffn;
  }
  throw Error(str("parameter ", parameter, " is of no family"));
}

void require_families(std::span<const std::string> names, const char* key) {
  for (auto name = names.begin(); name != names.end(); ++name) {
    MOE_REQUIRE(std::ranges::find(kParameterFamilyNames, *name) != kParameterFamilyNames.end(), key,
                ": '", *name, "' is no family of parameters: there are ", known_families());
    MOE_REQUIRE(std::find(names.begin(), name, *name) == name, key, ": ", *name, " is given twice");
  }
}

FrozenPlan plan_frozen(std::span<const std::string> freeze, const ModelConfig& model) {
  require_families(freeze, kKey);
  std::array<std::int64_t, kParameterFamilyNames.size()> sizes{};
  for (const ParameterSpec& p : model_parameters(model))
    sizes[std::size_t(family_of(p.name))] +=
        std::accumulate(p.shape.begin(), p.shape.end(), std::int64_t{1}, std::multiplies<>());
  FrozenPlan plan;
  for (std::size_t f = 0; f < sizes.size(); ++f) {
    const std::string name = kParameterFamilyNames[f];
    const bool frozen = std::ranges::find(freeze, name) != freeze.end();
    MOE_REQUIRE(!frozen || sizes[f] > 0, kKey, ": the model has no parameters of the family ",
                name);
    if (sizes[f] == 0) continue;
    plan.families.push_back({name, sizes[f], frozen});
    (frozen ? plan.frozen : plan.trained) += sizes[f];
  }
  MOE_REQUIRE(plan.trained > 0, kKey, " leaves nothing to train: it names every family of the ",
              "model");
  return plan;
}

std::string to_text(const FrozenPlan& plan) {
  const auto list = [&](bool frozen) {
    std::string text;
    for (const FrozenPlan::Family& f : plan.families)
      if (f.frozen == frozen)
        text +=
            str(text.empty() ? "" : ", ", f.name, " (", readable_count(double(f.parameters)), ")");
    return text;
  };
  return str("trained: ", list(false), "; frozen: ", plan.frozen > 0 ? list(true) : "nothing");
}

}  // namespace moe
