// SPDX-License-Identifier: Apache-2.0
#include "train/run_progress.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "train/machine.h"

namespace moe {
namespace {

using Json = nlohmann::json;

Json to_json(const MachineRecord& machine, DType dtype) {
  return {{"ranks", machine.ranks},        {"expert_parallel", machine.expert_parallel},
          {"threads", machine.threads},    {"dtype", name(dtype)},
          {"processor", processor_name()}, {"compiler", compiler_name()}};
}

}  // namespace

std::string progress_to_json(const RunProgress& progress, const TrainConfig& config,
                             const std::vector<DomainSize>& domains, const MachineRecord& machine) {
  Json state;
  state["step"] = progress.step;
  state["tokens"] = progress.tokens;
  state["optimizer_steps"] = progress.optimizer_steps;
  state["guard"] = Json::parse(to_json(progress.guard));
  state["seed"] = config.run.seed;
  state["sequence_length"] = config.data.sequence_length;
  // Domains that an earlier part of the run had are carried along, for the case they come back.
  for (const auto& [domain, consumed] : progress.other_domains)
    state["consumed"][domain] = consumed;
  for (std::size_t d = 0; d < domains.size(); ++d) {
    state["consumed"][domains[d].name] = progress.mixture.consumed[d];
    state["domain_tokens"][domains[d].name] = domains[d].tokens;
  }
  state["machine"] = to_json(machine, config.model.dtype);
  return state.dump(1);
}

RunProgress progress_from_json(const std::string& text, const std::string& where,
                               const TrainConfig& config, const std::vector<DomainSize>& domains,
                               const MachineRecord& machine) {
  RunProgress progress;
  try {
    const Json state = Json::parse(text);
    progress.step = state.at("step");
    progress.tokens = state.at("tokens");
    progress.optimizer_steps = state.at("optimizer_steps");
    // Checkpoints of before there were guards have no such state.
    if (state.contains("guard")) progress.guard = guard_state_from_json(state["guard"].dump());
    progress.other_domains = state.at("consumed").get<std::map<std::string, std::int64_t>>();
    for (const DomainSize& domain : domains) {
      const auto known = progress.other_domains.find(domain.name);
      progress.mixture.consumed.push_back(known == progress.other_domains.end() ? 0
                                                                                : known->second);
      if (known == progress.other_domains.end()) {
        warn_once("domain {} is new in this run", domain.name);
        continue;
      }
      progress.other_domains.erase(known);
      if (state.at("domain_tokens").value(domain.name, std::int64_t{-1}) != domain.tokens)
        warn_once("the shards of domain {} have changed: some of it repeats or is left out",
                  domain.name);
    }
    for (const auto& [domain, consumed] : progress.other_domains)
      warn_once("domain {} is no longer trained on", domain);
    if (state.at("sequence_length") != config.data.sequence_length)
      warn_once(
          "data.sequence_length is {}, the checkpoint's was {}: some text repeats or is left "
          "out",
          config.data.sequence_length, state.at("sequence_length").get<std::int64_t>());
    if (state.at("seed") != config.run.seed)
      warn_once("run.seed is {}, the checkpoint's was {}: the data order changes", config.run.seed,
                state.at("seed").get<std::int64_t>());
    if (state.at("machine") != to_json(machine, config.model.dtype))
      warn_once(
          "layout, threads, number type, processor or compiler differ from the checkpoint's: "
          "losses will agree but not to the last bit");
  } catch (const Json::exception& e) {
    throw InputError(str(where, ": ", e.what()));
  }
  return progress;
}

}  // namespace moe
