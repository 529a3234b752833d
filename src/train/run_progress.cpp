// SPDX-License-Identifier: Apache-2.0
#include "train/run_progress.h"

#include <algorithm>
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

/// The mixture goes on as the state says where it knows a domain, and as the configuration says
/// elsewhere. Takes the domains out of `known`: sequences consumed of each.
MixtureState mixture_from(const Json& state, std::map<std::string, std::int64_t>& known,
                          const TrainConfig& config, const std::vector<DomainSize>& domains) {
  MixtureState mixture = Mixture(domains, std::uint64_t(config.run.seed)).initial_state();
  const auto number = [&](const char* what, const std::string& domain, auto otherwise) {
    return state.contains(what) ? state[what].value(domain, otherwise) : otherwise;
  };
  for (std::size_t d = 0; d < domains.size(); ++d) {
    const std::string& domain = domains[d].name;
    const auto entry = known.find(domain);
    if (entry == known.end()) {
      warn_once("domain {} is new in this run", domain);
      continue;
    }
    mixture.consumed[d] = entry->second;
    mixture.owed[d] = number("owed", domain, 0.0);
    known.erase(entry);
    if (number("domain_sequences", domain, domains[d].sequences) != domains[d].sequences)
      warn_once(
          "domain {} has {} sequences, it had {}: its shards or how they are cut changed, some of "
          "it repeats or is left out",
          domain, domains[d].sequences, number("domain_sequences", domain, std::int64_t{0}));
  }
  if (!config.data.mixture.dynamic) return mixture;
  const Json weights = state.value("weights", Json::object());
  const bool same = weights.size() == domains.size() &&
                    std::all_of(domains.begin(), domains.end(), [&](const DomainSize& domain) {
                      return weights.contains(domain.name);
                    });
  if (!same)
    warn_once("the domains have changed: their weights begin again as data.train has them");
  for (std::size_t d = 0; same && d < domains.size(); ++d)
    mixture.weights[d] = weights[domains[d].name];
  return mixture;
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
    const std::string& domain = domains[d].name;
    state["consumed"][domain] = progress.mixture.consumed[d];
    state["owed"][domain] = progress.mixture.owed[d];
    state["weights"][domain] = progress.mixture.weights[d];
    state["domain_sequences"][domain] = domains[d].sequences;
  }
  if (!progress.teacher.empty()) state["teacher"] = progress.teacher;
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
    progress.teacher = state.value("teacher", "");
    progress.other_domains = state.at("consumed").get<std::map<std::string, std::int64_t>>();
    progress.mixture = mixture_from(state, progress.other_domains, config, domains);
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
