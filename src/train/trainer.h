// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/parameter_families.h"
#include "config/train_config.h"
#include "train/batch_feed.h"
#include "train/checkpoint.h"
#include "train/engine.h"
#include "train/faults.h"
#include "train/guard.h"
#include "train/heartbeat.h"
#include "train/metrics.h"
#include "train/run_checkpoints.h"
#include "train/run_metrics.h"
#include "train/run_setup.h"
#include "train/training_view.h"

namespace moe {

/// Where a run begins.
struct StartOptions {
  /// "none": from the first step; "auto": from the run's newest checkpoint that is whole, or the
  /// first step when there is none; else a checkpoint's folder.
  std::string resume = "none";
  Device device = Device::cpu;
  int threads = 1;  // per rank, for the record in checkpoints
  int host = 0;     // stands for this rank's host
  /// Asked once a step: whether this rank has been told to stop. One rank's word suffices.
  std::function<bool()> stop_requested = [] { return false; };
  /// A checkpoint of the same model whose optimizer state and router counts a run takes that begins
  /// at its first step; empty: it begins without.
  std::filesystem::path optimizer_from;
  std::vector<Fault> faults;  // to suffer, as drills
  bool live_view = false;     // show progress in lines that are redrawn, see training_view.h
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
  /// guard gives the run up, or when that last one cannot be saved.
  RunEnd run();

  /// Writes a checkpoint of the steps done and waits for it. Collective. Throws Error.
  void save();

  std::int64_t steps_done() const { return progress_.step; }
  Engine& engine() { return *engine_; }

 private:
  std::shared_ptr<const CheckpointReader> find_start() const;
  void roll_back();
  void prepare_folder(const std::filesystem::path& run);
  void train_one_step();
  Verdict agree(const StepResult& result);
  void evaluate(StepMetrics& metrics);
  void reweight(const StepMetrics& metrics);
  RunProgress progress() const;
  void print_start() const;

  const TrainConfig config_;
  const StartOptions start_;
  Communicator& world_;
  const ProcessGrid grid_;
  FrozenPlan frozen_;
  std::string teacher_;  // Teacher::checksum
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<const RunData> data_;
  std::unique_ptr<BatchFeed> feed_;
  std::unique_ptr<const FaultDrills> drills_;
  std::unique_ptr<RunCheckpoints> checkpoints_;
  RunProgress progress_;  // but for what the engine and the guard know: progress() is whole
  std::unique_ptr<RunMetrics> metrics_;
  TrainingView view_;
  Heartbeat heartbeat_;  // writes on rank 0 alone
  Guard guard_;
  bool stop_ = false;            // a rank has been asked to stop: known to all
  double seconds_training_ = 0;  // of this process, for the time left
  std::int64_t steps_timed_ = 0;
};

}  // namespace moe
