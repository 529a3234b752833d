// SPDX-License-Identifier: Apache-2.0
#include "train/training_state.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/backend.h"

namespace moe {
namespace {

/// The counts that routers remember, by their names in a checkpoint; undefined ones left out.
std::vector<std::pair<std::string, Tensor>> remembered_counts(const Engine& engine) {
  std::vector<std::pair<std::string, Tensor>> list = {
      {"router/previous_counts", engine.previous_counts()},
      {"attention_router/previous_counts", engine.attention_previous_counts()}};
  std::erase_if(list, [](const auto& c) { return !c.second.defined(); });
  return list;
}

TensorRows rows_of(const char* kind, const Parameter& p, std::int64_t first, Tensor value) {
  return {kind + p.name(), p.spec.shape, p.first_row + first, std::move(value)};
}

}  // namespace

std::vector<TensorRows> state_to_save(Engine& engine) {
  std::vector<TensorRows> list;
  const BucketPlan& plan = engine.buckets();
  const std::vector<Parameter>& parameters = engine.parameters().all();
  for (const AdamW::State& s : engine.optimizer().states()) {
    const Parameter& p = parameters[s.rows.parameter];
    Share share{0, s.rows.rows};
    if (plan.buckets()[s.rows.bucket].parts.empty()) {
      const Communicator& copies = engine.grid().holders(p.spec.placement);
      share = share_of(s.rows.rows, copies.rank(), copies.size());
    }
    const auto add = [&](const char* kind, const Tensor& t) {
      list.push_back(
          rows_of(kind, p, s.rows.first + share.first, t.slice(share.first, share.count)));
    };
    add("weights/", s.master);
    add("adam_m/", s.m);
    add("adam_v/", s.v);
  }
  for (const FrozenMasters::Rows& r : engine.frozen().rows())
    list.push_back(rows_of("weights/", parameters[r.parameter], r.first, r.value));
  const Communicator& world = engine.grid().world();
  for (const Parameter& p : parameters) {
    if (p.spec.trained) continue;
    const Share share = share_of(p.rows(), world.rank(), world.size());
    list.push_back(
        rows_of("weights/", p, share.first, p.variable.value.slice(share.first, share.count)));
  }
  for (const auto& [name, counts] : remembered_counts(engine)) {
    const Share share = share_of(counts.rows(), world.rank(), world.size());
    list.push_back({name, counts.shape(), share.first, counts.slice(share.first, share.count)});
  }
  return list;
}

void load_moments_and_counts(Engine& engine, const CheckpointReader& reader) {
  for (const AdamW::State& s : engine.optimizer().states()) {
    const Parameter& p = engine.parameters().all()[s.rows.parameter];
    for (auto [kind, moment] : {std::pair("adam_m/", s.m), std::pair("adam_v/", s.v)}) {
      if (reader.has(kind + p.name()))
        reader.read_into(rows_of(kind, p, s.rows.first, moment));
      else
        backend(moment.device()).fill(moment, 0);
    }
  }
  for (const auto& [name, counts] : remembered_counts(engine)) {
    if (reader.has(name))
      reader.read_into({name, counts.shape(), 0, counts});
    else
      counts.copy_from(Tensor::of<std::int64_t>(
          counts.shape(), std::vector<std::int64_t>(std::size_t(counts.size()), 1)));
  }
}

std::int64_t optimizer_steps_in(const CheckpointReader& reader) {
  try {
    return nlohmann::json::parse(reader.state_json()).at("optimizer_steps");
  } catch (const nlohmann::json::exception& e) {
    throw InputError(str((reader.folder() / "state.json").string(), ": ", e.what()));
  }
}

ParameterRows weights_in(std::shared_ptr<const CheckpointReader> reader) {
  return [reader = std::move(reader)](const std::string& name, std::int64_t first,
                                      std::int64_t count) {
    return reader->read("weights/" + name, first, count);
  };
}

}  // namespace moe
