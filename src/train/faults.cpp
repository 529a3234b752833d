// SPDX-License-Identifier: Apache-2.0
#include "train/faults.h"

#include <charconv>
#include <chrono>
#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <string_view>
#include <system_error>
#include <thread>

#include "comm/watchdog.h"
#include "core/error.h"
#include "core/log.h"
#include "core/write_fault.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Kind = Fault::Kind;

/// What a kind of fault takes; * marks what it needs.
struct KindText {
  Kind kind;
  std::string_view keys;
};
const std::map<std::string, KindText, std::less<>> kKinds = {
    {"late", {Kind::late, "rank*, step*, seconds*, rollbacks, stage"}},
    {"dead", {Kind::dead, "rank*, step*, rollbacks, stage"}},
    {"stopped", {Kind::stopped, "rank*, step*, rollbacks, stage"}},
    {"hot-expert", {Kind::hot_expert, "expert*, step*, share, rollbacks, stage"}},
    {"nan", {Kind::nan, "rank*, step*, rollbacks, stage"}},
    {"flipped-byte", {Kind::flipped_byte, "step*, stage"}},
    {"full-disk", {Kind::full_disk, "rank*, step*, stage"}},
    {"failing-disk", {Kind::failing_disk, "rank*, step*, stage"}},
};

/// The next part of `text` up to `separator`, taken off it.
std::string_view cut(std::string_view& text, std::string_view separator) {
  const std::size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + separator.size());
  return part;
}

template <class T>
bool read(std::string_view text, T& value) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size() && value >= 0;
}

/// "7" or "7-9".
bool read_steps(std::string_view text, Fault& fault) {
  if (text.ends_with('-')) return false;
  const std::string_view first = cut(text, "-");
  if (!read(first, fault.first_step) || fault.first_step < 1) return false;
  return read(text.empty() ? first : text, fault.last_step) && fault.last_step >= fault.first_step;
}

bool read_key(std::string_view key, std::string_view value, Fault& fault) {
  if (key == "stage") {
    fault.stage = value;
    return !value.empty();
  }
  if (key == "rank") return read(value, fault.rank);
  if (key == "step") return read_steps(value, fault);
  if (key == "seconds") return read(value, fault.seconds) && fault.seconds <= 1e6;
  if (key == "expert") return read(value, fault.expert);
  if (key == "share") return read(value, fault.share) && fault.share <= 1;
  return read(value, fault.rollbacks);
}

void announce(const Fault& fault, const std::string& what) {
  log_line(str("DRILL (rank ", log_rank(), ", --inject ", fault.text, "): ", what));
}

/// Time for the watchdog to hear where this rank is before it falls silent.
void let_a_heartbeat_out() { std::this_thread::sleep_for(std::chrono::milliseconds(1200)); }

void flip_byte(const fs::path& file) {
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  const auto middle = std::streamoff(fs::file_size(file) / 2);
  f.seekg(middle);
  const int byte = f.get();
  f.seekp(middle);
  f.put(char(byte ^ 1));
  f.close();
  if (!f) throw Error(str(file.string(), ": a byte of it could not be flipped"));
}

}  // namespace

Fault parse_fault(const std::string& text) {
  std::string_view rest = text;
  const std::string_view name = cut(rest, ":");
  const auto known = kKinds.find(name);
  std::string names;
  for (const auto& [n, kind] : kKinds) names += (names.empty() ? "" : ", ") + n;
  MOE_REQUIRE(known != kKinds.end(), "--inject ", text, ": no fault is called '", name,
              "': use one of ", names);
  const auto& [kind, keys] = known->second;
  const auto fail = [&](const auto&... why) {
    throw InputError(
        str("--inject ", text, ": ", why..., ": ", name, " takes ", keys, " (* is needed)"));
  };

  std::set<std::string_view> wanted, allowed;
  for (std::string_view list = keys; !list.empty();) {
    std::string_view key = cut(list, ", ");
    if (key.ends_with('*')) {
      key.remove_suffix(1);
      wanted.insert(key);
    }
    allowed.insert(key);
  }
  Fault fault;
  fault.kind = kind;
  fault.text = text;
  while (!rest.empty()) {
    std::string_view value = cut(rest, ",");
    const std::string_view key = cut(value, "=");
    if (!allowed.contains(key)) fail("unknown key or a second '", key, "'");
    allowed.erase(key);
    wanted.erase(key);
    if (!read_key(key, value, fault)) fail("'", value, "' is no value of ", key);
  }
  if (!wanted.empty()) fail(*wanted.begin(), " is missing");
  return fault;
}

FaultDrills::FaultDrills(std::vector<Fault> faults, int rank, int ranks, std::int64_t experts)
    : faults_(std::move(faults)), rank_(rank) {
  for (const Fault& f : faults_) {
    MOE_REQUIRE(f.rank < ranks, "--inject ", f.text, ": the run has ", ranks, " ranks");
    MOE_REQUIRE(f.kind != Kind::hot_expert || f.expert < experts, "--inject ", f.text,
                ": the model has ", experts, " experts");
    if (rank == 0) announce(f, "this run will suffer it");
  }
}

template <class Act>
void FaultDrills::at(std::int64_t step, std::int64_t rollbacks, Act&& act) const {
  for (const Fault& f : faults_)
    if (step >= f.first_step && step <= f.last_step && rollbacks == f.rollbacks) act(f);
}

void FaultDrills::begin_step(std::int64_t step, std::int64_t rollbacks) const {
  at(step, rollbacks, [&](const Fault& f) {
    if (f.rank != rank_) return;
    if (f.kind == Kind::late) {
      set_phase("late by a drill");
      announce(f, str("step ", step, " begins ", f.seconds, " s late"));
      std::this_thread::sleep_for(std::chrono::duration<double>(f.seconds));
    } else if (f.kind == Kind::dead) {
      set_phase("killed by a drill");
      announce(f, str("dies at the beginning of step ", step));
      let_a_heartbeat_out();
      std::raise(SIGKILL);
    } else if (f.kind == Kind::stopped) {
      set_phase("stopped by a drill");
      announce(f, str("stops at the beginning of step ", step));
      let_a_heartbeat_out();
      std::raise(SIGSTOP);
    }
  });
}

StepFaults FaultDrills::faults_of(std::int64_t step, std::int64_t rollbacks) const {
  StepFaults faults;
  at(step, rollbacks, [&](const Fault& f) {
    if (f.kind == Kind::hot_expert) {
      faults.hot_expert = {f.expert, f.share};
      if (rank_ == 0 && step == f.first_step)
        announce(f, str("from step ", step, " on, expert ", f.expert, " is hot"));
    } else if (f.kind == Kind::nan && f.rank == rank_) {
      faults.nan_gradient = true;
      announce(f, str("its gradients of step ", step, " are NaN"));
    }
  });
  return faults;
}

void FaultDrills::before_save(std::int64_t step) const {
  for (const Fault& f : faults_) {
    const bool full = f.kind == Kind::full_disk;
    if (!(full || f.kind == Kind::failing_disk) || f.rank != rank_ || step < f.first_step ||
        step > f.last_step)
      continue;
    announce(f, str("its writes of the checkpoint of step ", step, " fail"));
    plant_write_fault(fmt::format("step-{:08}", step), full ? ENOSPC : EIO);
  }
}

void FaultDrills::after_save(std::int64_t step, const fs::path& folder) const {
  for (const Fault& f : faults_) {
    if (f.kind != Kind::flipped_byte || rank_ != 0 || step < f.first_step || step > f.last_step)
      continue;
    const fs::path file = folder / "rank-00000.h5";
    announce(f, str("a byte of ", file.string(), " is flipped"));
    flip_byte(file);
  }
}

}  // namespace moe
