// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"

namespace CLI {
class App;
}

namespace moe {

inline constexpr int kExitOk = 0, kExitFailed = 1, kExitBadInput = 2;
/// EX_TEMPFAIL: the run was asked to stop, has saved, and wants to be started again.
inline constexpr int kExitRequeue = 75;

struct ProgramText {
  std::string name;         // "moe-data"
  std::string description;  // what the program does, in a sentence
  std::string examples;     // printed below the options by --help
};

/// What a program does once its arguments are known; returns the exit code.
using Action = std::function<int()>;

/// The whole of a main(): `define` declares the options on the App and returns the action to run
/// after parsing. Adds --version and the examples to --help. Exit code 0 for --help and --version,
/// 2 for bad arguments and InputError, 1 for every other error; errors are one line on standard
/// error ("moe-data: error: ..."). Programs under MPI catch their own errors inside the action,
/// because only they can take the other ranks down with them (see report_error).
int run_program(int argc, char** argv, const ProgramText& text,
                const std::function<Action(CLI::App&)>& define);

/// Subcommands of a program: defines each and finds the one that was given.
class Subcommands {
 public:
  explicit Subcommands(CLI::App& app) : app_(&app) {}
  /// `define` declares the options of the subcommand and returns what to run after parsing.
  void add(const char* name, const char* text, const std::function<Action(CLI::App&)>& define);
  /// What to run: undefined when no subcommand was given.
  Action parsed() const;

 private:
  CLI::App* app_;
  std::vector<std::pair<CLI::App*, Action>> commands_;
};

/// The number type of stored weights: "f32", "bf16", "f16" or "f64"; throws InputError otherwise.
DType stored_type_named(const std::string& text);

/// Called in a catch block: prints "NAME: error: MESSAGE", or "NAME (rank 3): error: MESSAGE" when
/// rank >= 0, and returns the exit code that the exception in flight stands for.
int report_error(const std::string& name, int rank = -1);

/// How far a long job is, on standard error: a bar with rate and time left, redrawn in place on a
/// terminal; a plain line every ten seconds when piped. Says nothing on ranks other than 0.
class Progress {
 public:
  /// `total` is in the unit that update() counts in, 0 when unknown. `rate_unit` is what `items` of
  /// update() are ("tokens").
  Progress(std::string what, std::int64_t total, std::string rate_unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// So much was done before this run began: rate and time left count from there.
  void start_from(std::int64_t done, std::int64_t items);
  /// `done` of `total`, and how many items that was. Cheap: draws ten times a second at most.
  void update(std::int64_t done, std::int64_t items);
  /// Removes the bar, so that what is printed next begins on a clean line.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  void draw(std::int64_t done, double items_per_second, double seconds);

  std::string what_, rate_unit_;
  std::int64_t total_, first_done_ = 0, first_items_ = 0;
  bool quiet_, terminal_, drawn_ = false;
  Clock::time_point start_, next_;
};

}  // namespace moe
