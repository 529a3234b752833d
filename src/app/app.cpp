// SPDX-License-Identifier: Apache-2.0
#include "app/app.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/log.h"
#include "core/readable.h"

namespace moe {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kPlainLine = std::chrono::seconds(10);
constexpr int kBarWidth = 24;

/// OpenMP threads that wait for one another spin for milliseconds by default, which starves whoever
/// shares the cores: other ranks, other programs. libgomp reads its settings when it is loaded, so
/// the program starts itself again with a short spin, unless the user has chosen otherwise.
void wait_politely(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "2000", 1);
  // By its path, so that ps and top show its name.
  std::error_code unknown;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", unknown);
  execv(unknown ? "/proc/self/exe" : program.c_str(), argv);
}

}  // namespace

void Subcommands::add(const char* name, const char* text,
                      const std::function<Action(CLI::App&)>& define) {
  CLI::App* command = app_->add_subcommand(name, text);
  commands_.emplace_back(command, define(*command));
}

Action Subcommands::parsed() const {
  for (const auto& [command, action] : commands_)
    if (command->parsed()) return action;
  return nullptr;
}

DType stored_type_named(const std::string& text) {
  for (const DType t : {DType::f32, DType::bf16, DType::f16, DType::f64})
    if (text == name(t)) return t;
  throw InputError(str("unknown number type '", text, "': use f32, bf16, f16 or f64"));
}

int report_error(const std::string& name, int rank) {
  const std::string who = rank < 0 ? name : fmt::format("{} (rank {})", name, rank);
  const auto say = [&](const char* message) {
    log_line(fmt::format("{}: error: {}", who, message));
  };
  try {
    throw;
  } catch (const InputError& e) {
    say(e.what());
    return kExitBadInput;
  } catch (const std::bad_alloc&) {
    say("out of memory");
  } catch (const std::exception& e) {
    say(e.what());
  } catch (...) {
    say("an exception of an unknown type");
  }
  return kExitFailed;
}

int run_program(int argc, char** argv, const ProgramText& text,
                const std::function<Action(CLI::App&)>& define) {
  wait_politely(argv);
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the limit is an error with words, no death
  try {
    CLI::App app(text.description, text.name);
    app.set_version_flag("--version", text.name + " " MOE_VERSION);
    app.footer(text.examples);
    app.get_formatter()->column_width(34);
    const Action action = define(app);
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
      std::cerr << text.name << ": error: " << e.what() << " (see " << text.name << " --help)\n";
      return kExitBadInput;
    }
    return action();
  } catch (...) {
    return report_error(text.name);
  }
}

Progress::Progress(std::string what, std::int64_t total, std::string rate_unit)
    : what_(std::move(what)),
      rate_unit_(std::move(rate_unit)),
      total_(total),
      quiet_(log_rank() != 0),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      next_(start_ + (terminal_ ? Clock::duration(kRedraw) : Clock::duration(kPlainLine))) {}

Progress::~Progress() { finish(); }

void Progress::start_from(std::int64_t done, std::int64_t items) {
  first_done_ = done;
  first_items_ = items;
}

void Progress::update(std::int64_t done, std::int64_t items) {
  const auto now = Clock::now();
  if (quiet_ || now < next_) return;
  next_ = now + (terminal_ ? Clock::duration(kRedraw) : Clock::duration(kPlainLine));
  const double seconds = std::chrono::duration<double>(now - start_).count();
  draw(done, double(items - first_items_) / seconds, seconds);
}

void Progress::draw(std::int64_t done, double items_per_second, double seconds) {
  const double fraction = total_ > 0 ? std::min(1.0, double(done) / double(total_)) : 0;
  std::string line = what_ + " ";
  if (total_ > 0) {
    const int filled = int(fraction * kBarWidth);
    if (terminal_)
      line += "[" + std::string(std::size_t(filled), '#') +
              std::string(std::size_t(kBarWidth - filled), '.') + "] ";
    line += fmt::format("{:3.0f}% ", 100 * fraction);
  }
  line += fmt::format("{} {}/s, {} gone", readable_count(items_per_second), rate_unit_,
                      readable_seconds(seconds));
  if (total_ > 0 && done > first_done_)
    line += fmt::format(
        ", {} left", readable_seconds(seconds * double(std::max<std::int64_t>(total_ - done, 0)) /
                                      double(done - first_done_)));
  if (terminal_)
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
  else
    log_line(line);
  drawn_ = true;
}

void Progress::finish() {
  if (drawn_ && terminal_) std::fprintf(stderr, "\r\033[K");
  drawn_ = false;
  quiet_ = true;
}

}  // namespace moe
