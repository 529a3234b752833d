// SPDX-License-Identifier: Apache-2.0
#include "train/run_checkpoints.h"

#include <utility>

#include "comm/watchdog.h"
#include "config/model_json.h"
#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"
#include "train/training_state.h"

namespace moe {
namespace {

namespace fs = std::filesystem;

std::string not_saved(const SaveResult& result) {
  return str("checkpoint ", result.folder.string(), " was not saved: ", result.failure);
}

}  // namespace

RunCheckpoints::RunCheckpoints(const TrainConfig& config, int threads,
                               const std::vector<DomainSize>& domains, const FaultDrills& drills,
                               Engine& engine)
    : config_(config),
      domains_(domains),
      drills_(drills),
      engine_(engine),
      machine_{engine.grid().world().size(), engine.grid().ep(), threads},
      saver_(fs::path(config.run.folder) / "checkpoints",
             Retention{config.train.keep_last, config.train.keep_every}, engine.grid().world()) {
  if (config.train.async_checkpoints && config.train.checkpoint_every > 0)
    saver_.reserve(state_to_save(engine));
}

CheckpointTexts RunCheckpoints::texts(const RunProgress& progress) const {
  return {progress_to_json(progress, config_, domains_, machine_),
          model_config_to_json(engine_.config()), to_yaml(config_)};
}

void RunCheckpoints::note(const SaveResult& result) {
  ended_ = result;
  if (!result.failure.empty()) {
    warn_once("{}; training goes on, earlier checkpoints stay", not_saved(result));
    return;
  }
  newest_step_ = result.step;
  drills_.after_save(result.step, result.folder);
  if (!result.warning.empty()) warn_once("an old checkpoint stays: {}", result.warning);
  log_info("saved {}: {}B in {:.2f} s ({}B/s), training stood still for {:.3f} s",
           result.folder.string(), readable_count(double(result.bytes)), result.seconds,
           readable_count(double(result.bytes) / result.seconds), result.seconds_still);
}

void RunCheckpoints::begin(const RunProgress& progress) {
  finish();
  set_phase("checkpoint");
  drills_.before_save(progress.step);
  if (config_.train.async_checkpoints)
    saver_.begin(progress.step, state_to_save(engine_), texts(progress));
  else
    note(saver_.save(progress.step, state_to_save(engine_), texts(progress)));
}

std::optional<SaveResult> RunCheckpoints::poll() {
  if (saver_.busy()) {
    set_phase("checkpoint");
    if (const auto result = saver_.poll()) note(*result);
  }
  return std::exchange(ended_, std::nullopt);
}

void RunCheckpoints::finish() {
  set_phase("checkpoint");
  if (const auto result = saver_.finish()) note(*result);
}

void RunCheckpoints::save(const RunProgress& progress) {
  finish();
  drills_.before_save(progress.step);
  const SaveResult result = saver_.save(progress.step, state_to_save(engine_), texts(progress));
  if (!result.failure.empty()) throw Error(not_saved(result));
  note(result);
}

RunProgress RunCheckpoints::restore(const CheckpointReader& reader) {
  finish();
  load_moments_and_counts(engine_, reader);
  const RunProgress progress = progress_from_json(
      reader.texts().state, (reader.folder() / "state.json").string(), config_, domains_, machine_);
  engine_.optimizer().set_steps(progress.optimizer_steps);
  newest_step_ = progress.step;
  return progress;
}

}  // namespace moe
