// SPDX-License-Identifier: Apache-2.0
#include "train/stages.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "comm/texts.h"
#include "comm/watchdog.h"
#include "core/error.h"
#include "core/log.h"
#include "data/tokenizer.h"
#include "train/checkpoint_choice.h"
#include "train/checkpoint_folders.h"
#include "train/export_model.h"
#include "train/model_source.h"
#include "train/run_setup.h"
#include "train/selfcheck.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Reader = std::shared_ptr<const CheckpointReader>;

/// What is wrong with a stage says which stage it is.
template <class Work>
auto in_stage(const std::string& name, Work&& work) {
  try {
    return work();
  } catch (const InputError& e) {
    throw InputError(name.empty() ? std::string(e.what()) : str("stage ", name, ": ", e.what()));
  }
}

/// Rank 0 works; the others wait in short collectives, which no watchdog takes for a hang.
template <class Work>
void on_rank_0(Communicator& world, Work&& work) {
  std::future<std::string> job;
  if (world.rank() == 0)
    job = std::async(std::launch::async, [&]() -> std::string {
      try {
        work();
      } catch (const std::exception& e) {
        return *e.what() != '\0' ? e.what() : "unknown reason";
      }
      return "";
    });
  for (bool busy = true; busy;) {
    busy = job.valid() && job.wait_for(std::chrono::milliseconds(200)) != std::future_status::ready;
    const Tensor any = Tensor::of<std::int64_t>({1}, {busy});
    world.all_reduce(any, ReduceOp::max).wait();
    busy = *any.data<std::int64_t>() != 0;
  }
  const std::string failure = broadcast_text(job.valid() ? job.get() : "", 0, world);
  if (!failure.empty()) throw Error(failure);
}

fs::path folder_of(const PlannedStage& stage) { return stage.config.run.folder; }
fs::path checkpoints_of(const PlannedStage& stage) { return folder_of(stage) / "checkpoints"; }
fs::path model_of(const PlannedStage& stage) { return folder_of(stage) / "model"; }

/// The tokenizer of the model that a run begins with, as far as it is known.
std::optional<fs::path> tokenizer_of(const TrainConfig& config) {
  const TrainConfig::Model& m = config.model;
  if (m.tokenizer.empty() && m.init_from.empty()) return std::nullopt;
  fs::path place = m.tokenizer;
  if (place.empty()) place = open_for_export(m.init_from).tokenizer_from.value_or("");
  if (!fs::is_directory(place)) return fs::exists(place) ? std::optional(place) : std::nullopt;
  return Tokenizer::find(place);
}

const TokenFile* first_named(const Loader& loader, std::size_t domains) {
  for (std::size_t d = 0; d < domains; ++d)
    for (const TokenFile& file : loader.sequences(d).stream().files())
      if (!file.info().tokenizer_hash.empty()) return &file;
  return nullptr;
}

/// The last parts of a checkpoint's path: they stay when a run's folder moves.
std::string short_name(const fs::path& checkpoint) {
  const fs::path stage = checkpoint.parent_path().parent_path();
  return (stage.filename() / "checkpoints" / checkpoint.filename()).string();
}

class StagedRun {
 public:
  StagedRun(const TrainConfig& config, const StartOptions& start, Communicator& world)
      : config_(config), start_(start), world_(world), stages_(plan_stages(config)) {
    MOE_REQUIRE(start.resume == "none" || start.resume == "auto", "--resume ", start.resume,
                ": a run with stages goes on with --resume auto, which finds the stage");
    for (const Fault& f : start.faults)
      MOE_REQUIRE(f.stage.empty() ||
                      std::ranges::find(stages_, f.stage, &PlannedStage::name) != stages_.end(),
                  "--inject ", f.text, ": the run has no stage ", f.stage);
  }

  RunEnd run() {
    std::size_t next = 0;
    if (start_.resume == "auto")
      next = skip_complete();
    else
      require_no_run();
    check(next);
    world_.barrier().wait();  // nothing is changed on disk before every rank has checked
    if (world_.rank() == 0) prepare_folder();
    world_.barrier().wait();
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (i >= next && train(i) == RunEnd::interrupted) return RunEnd::interrupted;
      if (stages_[i].export_format) export_end(i);
    }
    log_info("all {} stages are complete", stages_.size());
    return RunEnd::complete;
  }

 private:
  /// The number of the first stage that is not complete; knows the ends of those before.
  std::size_t skip_complete() {
    std::size_t i = 0;
    for (; i < stages_.size(); ++i) {
      const Reader newest = newest_good_checkpoint(checkpoints_of(stages_[i]), world_);
      if (newest && i > 0) require_origin(i, *newest);
      if (!newest || newest->step() < stages_[i].config.train.steps) break;
      end_ = newest->folder();
    }
    if (world_.rank() == 0)
      for (std::size_t later = i + 1; later < stages_.size(); ++later)
        MOE_REQUIRE(checkpoint_folders(checkpoints_of(stages_[later])).empty(),
                    folder_of(stages_[later]).string(), ": stage ", stages_[later].name,
                    " has been trained, but stage ", stages_[i].name,
                    " before it is not complete: set train.steps of ", stages_[i].name,
                    " back to what it was, or move the folders of the stages after it away");
    return i;
  }

  void require_origin(std::size_t i, const CheckpointReader& newest) const {
    const TrainConfig was =
        parse_train_config(newest.texts().config, (newest.folder() / "config.yaml").string());
    MOE_REQUIRE(short_name(was.model.init_from) == short_name(end_), newest.folder().string(),
                ": began with ", was.model.init_from, ", but stage ", stages_[i - 1].name,
                " ends with ", end_.string(), ": move ", folder_of(stages_[i]).string(),
                " away to train stage ", stages_[i].name, " anew");
  }

  void require_no_run() const {
    if (world_.rank() != 0) return;
    const fs::path run = config_.run.folder;
    MOE_REQUIRE(!fs::exists(run / "metrics.jsonl"), run.string(),
                ": a run without stages lies here: choose another run.folder");
    for (const PlannedStage& stage : stages_) {
      MOE_REQUIRE(config_.run.overwrite || !fs::exists(folder_of(stage) / "metrics.jsonl"),
                  folder_of(stage).string(),
                  ": a run lies here already: continue it with --resume auto, choose another "
                  "run.folder, or allow --set run.overwrite=true");
    }
    const std::string source = fs::weakly_canonical(config_.model.init_from).string() + "/";
    MOE_REQUIRE(!config_.run.overwrite || config_.model.init_from.empty() ||
                    !source.starts_with(fs::weakly_canonical(run).string() + "/"),
                "run.overwrite would delete model.init_from (", config_.model.init_from,
                "): choose another run.folder");
  }

  /// Everything that stages from `first` on need.
  void check(std::size_t first) const {
    const std::optional<fs::path> tokenizer = tokenizer_of(config_);
    std::string known = tokenizer ? Tokenizer::open(*tokenizer).hash() : "";
    std::string made_by = tokenizer ? tokenizer->string() : "";
    for (std::size_t i = first; i < stages_.size(); ++i)
      in_stage(stages_[i].name, [&] {
        const TrainConfig& c = stages_[i].config;
        const FrozenPlan frozen = require_trainable(c, stages_[i].model, world_.size());
        const RunData data = open_data(c, stages_[i].model);
        const Mixture& mixture = data.loader.mixture();
        mixture.require_enough(mixture.initial_state(), c.train.steps * c.batch.global);
        if (const TokenFile* file = first_named(data.loader, c.data.train.size())) {
          const std::string& hash = file->info().tokenizer_hash;
          MOE_REQUIRE(known.empty() || hash == known, file->path().string(),
                      ": made by another tokenizer (", hash, ") than ", made_by, " (", known,
                      "): all stages and their model have one; build it again with that");
          known = hash;
          if (made_by.empty()) made_by = file->path().string();
        }
        log_info("stage {}: {} steps of {} sequences of {}; {}", stages_[i].name, c.train.steps,
                 c.batch.global, c.data.sequence_length, to_text(frozen));
      });
    if (start_.selfcheck)
      for (std::size_t i = first; i < stages_.size(); ++i) {
        TrainConfig c = stages_[i].config;
        if (!end_.empty()) c.model.init_from = end_.string();
        const auto [model, weights] = starting_point(c);
        const ProcessGrid grid(world_, int(c.parallel.expert), c.parallel.exchange, start_.host);
        const Teacher teacher = load_teacher(c, model, start_.device);
        report_selfcheck(c, engine_options(c, start_.device, teacher), grid, model, weights);
      }
  }

  /// Later stages first: what a kill leaves is a run that can still go on.
  void prepare_folder() const {
    const fs::path run = config_.run.folder;
    std::error_code error;
    if (start_.resume == "none" && config_.run.overwrite)
      for (std::size_t i = stages_.size(); i-- > 0;)
        for (const char* part : {"checkpoints", "model", "metrics.jsonl"}) {
          fs::remove_all(folder_of(stages_[i]) / part, error);
          MOE_REQUIRE(!error, folder_of(stages_[i]).string(), ": cannot remove its ", part, ": ",
                      error.message());
        }
    fs::create_directories(run, error);
    MOE_REQUIRE(!error, run.string(), ": cannot make this folder: ", error.message());
    TrainConfig effective = config_;
    effective.run.overwrite = false;
    save_config(effective, run / "config.yaml");
  }

  RunEnd train(std::size_t i) {
    const PlannedStage& stage = stages_[i];
    // What was exported of an earlier end, before train.steps was raised.
    if (world_.rank() == 0) fs::remove_all(model_of(stage));
    TrainConfig c = stage.config;
    c.run.overwrite = false;
    StartOptions start = start_;
    start.resume = "auto";
    start.selfcheck = false;
    std::erase_if(start.faults,
                  [&](const Fault& f) { return !f.stage.empty() && f.stage != stage.name; });
    if (i > 0) {
      c.model.init_from = end_.string();
      if (config_.stages[i].keep_optimizer) start.optimizer_from = end_;
    }
    log_info("stage {} ({} of {})", stage.name, i + 1, stages_.size());
    Trainer trainer(std::move(c), start, world_);
    const RunEnd end = trainer.run();
    end_ = checkpoints_of(stage) / checkpoint_name(trainer.steps_done());
    return end;
  }

  void export_end(std::size_t i) const {
    const PlannedStage& stage = stages_[i];
    const fs::path model = model_of(stage);
    set_phase("export");
    on_rank_0(world_, [&] {
      if (fs::exists(model / "config.json")) return;
      for (const auto& entry : fs::directory_iterator(folder_of(stage)))
        if (entry.path().filename().string().starts_with("model.partial-"))
          fs::remove_all(entry.path());  // of an export that was killed
      ExportSource source = open_for_export(checkpoints_of(stage));
      WriteOptions options;
      options.format = *stage.export_format;
      options.dtype = source.dtype;
      options.tokenizer_from = source.tokenizer_from;
      const WrittenModel written = export_model(std::move(source), options, model);
      for (const std::string& note : written.notes) log_info("{}", note);
      log_info("stage {}: exported to {} ({})", stage.name, model.string(),
               name(*stage.export_format));
    });
  }

  const TrainConfig& config_;
  const StartOptions& start_;
  Communicator& world_;
  const std::vector<PlannedStage> stages_;
  fs::path end_;  // the checkpoint that ended the last complete stage
};

}  // namespace

std::vector<PlannedStage> plan_stages(const TrainConfig& config) {
  if (config.stages.empty()) return {{"", config, starting_point(config).first, std::nullopt}};
  std::vector<PlannedStage> stages;
  for (std::size_t i = 0; i < config.stages.size(); ++i) {
    const TrainConfig::Stage& stage = config.stages[i];
    in_stage(stage.name, [&] {
      PlannedStage planned{stage.name, config.of_stage(i), {}, std::nullopt};
      if (i == 0) {
        planned.model = starting_point(planned.config).first;
      } else {
        planned.model = stages.back().model;
        apply_model_settings(planned.config, planned.model);
      }
      if (!stage.export_format.empty()) {
        planned.export_format = model_format_named(stage.export_format);
        require_exportable(planned.model, *planned.export_format);
      }
      stages.push_back(std::move(planned));
    });
  }
  return stages;
}

RunEnd train_run(const TrainConfig& config, const StartOptions& start, Communicator& world) {
  if (!config.stages.empty()) return StagedRun(config, start, world).run();
  for (const Fault& f : start.faults)
    MOE_REQUIRE(f.stage.empty(), "--inject ", f.text, ": the run has no stages");
  return Trainer(config, start, world).run();
}

}  // namespace moe
