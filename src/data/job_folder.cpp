// SPDX-License-Identifier: Apache-2.0
#include "data/job_folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/durable_files.h"
#include "core/error.h"
#include "core/log.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kProgress = "progress.json";
constexpr const char* kLock = "lock";

int open_lock(const fs::path& folder) {
  std::error_code failed;
  fs::create_directory(folder, failed);
  const int fd = ::open((folder / kLock).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  MOE_REQUIRE(fd >= 0, folder.string(), ": cannot be made: ", std::strerror(errno));
  return fd;
}

/// Everything but the lock; the saved state last, so that a removal that is cut short can go on.
void clear(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename() != kProgress && entry.path().filename() != kLock)
      fs::remove_all(entry.path());
  fs::remove(folder / kProgress);
}

/// The first key whose values differ.
std::string difference(const json& a, const json& b) {
  for (const auto& [key, value] : a.items())
    if (!b.contains(key) || b[key] != value) return key;
  for (const auto& [key, value] : b.items())
    if (!a.contains(key)) return key;
  return {};
}

}  // namespace

JobFolder::JobFolder(fs::path folder, std::string job, bool restart)
    : folder_(std::move(folder)), job_(std::move(job)), lock_(open_lock(folder_)) {
  // File systems without locks are trusted.
  MOE_REQUIRE(::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK,
              folder_.string(), ": another process works there; wait for it, or end it");
  std::ifstream in(folder_ / kProgress, std::ios::binary);
  if (!in.is_open()) {
    clear(folder_);
    return;
  }
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const json progress = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool readable =
      progress.is_object() && progress.contains("job") && progress.contains("state");
  const std::string other =
      readable ? difference(json::parse(job_), progress["job"]) : std::string("progress.json");
  if (other.empty()) {
    state_ = progress["state"].dump();
    return;
  }
  MOE_REQUIRE(restart, folder_.string(), ": unfinished work of a command with another '", other,
              "'; finish it by that command, or begin anew with --force");
  clear(folder_);
}

JobFolder::~JobFolder() {
  if (!state_.empty()) {
    log_info("{} keeps what is done: the same command goes on from there", folder_.string());
    return;
  }
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void JobFolder::save(const std::string& state) {
  const fs::path next = folder_ / "progress.json.next";
  write_synced(next, "{\"job\":" + job_ + ",\"state\":" + state + "}\n");
  rename_path(next, folder_ / kProgress);
  sync_path(folder_);
  state_ = state;
}

void JobFolder::finish() {
  clear(folder_);
  fs::remove_all(folder_);
  state_.clear();
}

}  // namespace moe
