// SPDX-License-Identifier: Apache-2.0
#include "split/neuron_indices.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.h"
#include "hf/safetensors.h"

namespace moe {
namespace {

/// "layers.3.experts.12"
struct Place {
  std::int64_t layer = 0, expert = 0;
  bool shared = false;
};

std::optional<std::int64_t> number(std::string_view& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return std::nullopt;
  text.remove_prefix(std::size_t(end - text.data()));
  return value;
}

bool skip(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

std::optional<Place> place_of(std::string_view name) {
  Place place;
  if (!skip(name, "layers.")) return std::nullopt;
  const auto layer = number(name);
  place.shared = skip(name, ".shared.");
  if (!layer || (!place.shared && !skip(name, ".experts."))) return std::nullopt;
  const auto expert = number(name);
  if (!expert || !name.empty()) return std::nullopt;
  place.layer = *layer;
  place.expert = *expert;
  return place;
}

bool divides_exactly(const Partition& partition, std::int64_t neurons) {
  try {
    check_partition(partition, neurons, Coverage::exact);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

}  // namespace

void write_indices(const std::filesystem::path& file, const SplitPlan& plan) {
  std::vector<SafetensorsWriter::Declaration> declared;
  std::vector<const std::vector<std::int64_t>*> sets;
  bool exact = true;
  for (const auto& [l, layer] : plan.layers) {
    exact = exact && divides_exactly(layer.partition, plan.config.intermediate_size);
    const auto add = [&](const NeuronSets& list, const char* kind) {
      for (std::size_t e = 0; e < list.size(); ++e) {
        declared.push_back(
            {str("layers.", l, ".", kind, ".", e), DType::i32, {std::int64_t(list[e].size())}});
        sets.push_back(&list[e]);
      }
    };
    add(layer.partition.experts, "experts");
    add(layer.partition.shared, "shared");
  }
  SafetensorsWriter out(file, declared, {{"coverage", exact ? "exact" : "any"}});
  for (const auto* set : sets)
    out.write(Tensor::of<std::int32_t>({std::int64_t(set->size())},
                                       std::vector<std::int32_t>(set->begin(), set->end())));
  out.finish();
}

std::map<std::int64_t, Partition> read_indices(const std::filesystem::path& file,
                                               std::int64_t layers, std::int64_t neurons) {
  const SafetensorsFile in(file);
  const std::string where = file.string();
  std::map<std::int64_t, std::map<std::pair<bool, std::int64_t>, std::vector<std::int64_t>>> found;
  for (const SafetensorsEntry& entry : in.entries()) {
    const std::optional<Place> place = place_of(entry.name);
    MOE_REQUIRE(place, where, ": tensor '", entry.name,
                "' is no index: names are layers.N.experts.E and layers.N.shared.R");
    MOE_REQUIRE(place->layer < layers, where, ": tensor '", entry.name,
                "' belongs to no layer of a model of ", layers);
    MOE_REQUIRE(entry.dtype == "I32" && entry.shape.size() == 1, where, ": tensor '", entry.name,
                "' must be a list of I32");
    std::vector<std::int32_t> ids(std::size_t(entry.shape[0]));
    std::memcpy(ids.data(), in.bytes(entry.name).data(), ids.size() * sizeof(std::int32_t));
    found[place->layer][{place->shared, place->expert}] = {ids.begin(), ids.end()};
  }
  MOE_REQUIRE(!found.empty(), where, ": holds no indices");
  const auto coverage = in.metadata().find("coverage");
  const bool any = coverage != in.metadata().end() && coverage->second == "any";
  std::map<std::int64_t, Partition> partitions;
  for (const auto& [l, sets] : found) {
    Partition partition;
    for (const auto& [key, ids] : sets) {
      NeuronSets& list = key.first ? partition.shared : partition.experts;
      MOE_REQUIRE(key.second == std::int64_t(list.size()), where, ": layer ", l, " has ",
                  key.first ? "shared expert " : "expert ", key.second, " but not ", list.size());
      list.push_back(ids);
    }
    try {
      check_partition(partition, neurons, any ? Coverage::any : Coverage::exact);
    } catch (const InputError& error) {
      throw InputError(str(where, ": layer ", l, ": ", error.what()));
    }
    partitions.emplace(l, std::move(partition));
  }
  return partitions;
}

NeuronOrder neuron_order(const std::map<std::int64_t, Partition>& partitions, std::int64_t layers) {
  NeuronOrder order(static_cast<std::size_t>(layers));
  for (const auto& [l, partition] : partitions) {
    auto& ids = order.at(std::size_t(l));
    ids = concatenated(partition.experts);
    const auto shared = concatenated(partition.shared);
    ids.insert(ids.end(), shared.begin(), shared.end());
  }
  return order;
}

}  // namespace moe
