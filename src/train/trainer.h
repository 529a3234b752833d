// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/train_config.h"
#include "data/held_out.h"
#include "data/loader.h"
#include "train/checkpoint.h"
#include "train/engine.h"
#include "train/faults.h"
#include "train/guard.h"
#include "train/heartbeat.h"
#include "train/metrics.h"

namespace moe {

/// Where a run begins.
struct StartOptions {
  /// "none": from the first step; "auto": from the run's newest checkpoint, or the first step when
  /// there is none; else a checkpoint's folder.
  std::string resume = "none";
  int threads = 1;  // per rank, for the record in checkpoints
  int host = 0;     // stands for this rank's host
  /// Asked once a step: whether this rank has been told to stop. One rank's word suffices.
  std::function<bool()> stop_requested = [] { return false; };
  std::vector<Fault> faults;  // to suffer, as drills
  bool selfcheck = false;     // before anything is trained, see selfcheck.h
};

/// How a run ended.
enum class RunEnd : std::uint8_t {
  complete,     // after config.train.steps
  interrupted,  // earlier, as it was asked to: saved, to be resumed
};

/// The training loop: plan a step, load this rank's sequences, train, write metrics, now and then
/// measure held-out loss and save a checkpoint. Bad steps are skipped and, where too many follow
/// one another, the run goes back to a checkpoint (train/guard.h). A resumed run continues to the
/// bit where the layout, the machine's kind and the threads are the same; on another layout it
/// differs by rounding alone.
class Trainer {
 public:
  /// Collective. Throws InputError for a configuration or a checkpoint that does not fit.
  Trainer(TrainConfig config, const StartOptions& start, Communicator& world);
  ~Trainer();

  /// Trains to config.train.steps, or to the end of the step in which a rank was asked to stop, and
  /// saves a last checkpoint, unless one of that step is there. Collective. Throws Error when the
  /// guard gives the run up.
  RunEnd run();

  /// Writes a checkpoint of the steps done. Collective.
  void save();

  std::int64_t steps_done() const { return step_; }
  Engine& engine() { return *engine_; }

 private:
  struct HeldOutDomain {
    std::string name;
    HeldOut data;
  };

  std::optional<std::filesystem::path> find_start() const;
  void open_data();
  void restore(const CheckpointReader& reader);
  void roll_back();
  void prepare_folder(const std::filesystem::path& run);
  void train_one_step();
  Verdict agree(const StepResult& result);
  void evaluate(StepMetrics& metrics);
  std::string state_json() const;
  void print_start() const;

  const TrainConfig config_;
  const StartOptions start_;
  Communicator& world_;
  const ProcessGrid grid_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Loader> loader_;
  std::vector<HeldOutDomain> held_out_;
  MixtureState mixture_;
  std::map<std::string, std::int64_t> other_domains_;  // consumed of domains that left the mixture
  std::unique_ptr<MetricsWriter> metrics_;
  Heartbeat heartbeat_;  // writes on rank 0 alone
  Guard guard_;
  std::unique_ptr<const FaultDrills> drills_;
  bool stop_ = false;        // a rank has been asked to stop: known to all
  std::int64_t step_ = 0;    // steps done
  std::int64_t tokens_ = 0;  // labelled tokens that the weights were trained on
  std::int64_t saved_step_ = -1;
  double seconds_training_ = 0;  // of this process, for the time left
  std::int64_t steps_timed_ = 0;
};

}  // namespace moe
