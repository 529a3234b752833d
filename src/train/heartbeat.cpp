// SPDX-License-Identifier: Apache-2.0
#include "train/heartbeat.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/log.h"

namespace moe {

void Heartbeat::beat(std::int64_t step, std::string_view phase) {
  if (file_.empty()) return;
  std::array<char, 256> host = {};
  ::gethostname(host.data(), host.size() - 1);
  const std::chrono::duration<double> time = std::chrono::system_clock::now().time_since_epoch();
  const std::filesystem::path next = file_.string() + ".tmp";
  std::error_code failure;
  {
    std::ofstream out(next, std::ios::trunc);
    // Not synced: after a crash of the machine an old heartbeat is as good as none.
    out << nlohmann::ordered_json{{"time", time.count()},
                                  {"step", step},
                                  {"phase", phase},
                                  {"host", host.data()},
                                  {"pid", ::getpid()}}
               .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
        << "\n";
    if (!out.flush()) failure = std::make_error_code(std::errc::io_error);
  }
  if (!failure) std::filesystem::rename(next, file_, failure);
  if (failure && !warned_)
    log_warning("{}: cannot be written ({}): supervisors will take this run for stuck",
                file_.string(), failure.message());
  warned_ = bool(failure);
}

}  // namespace moe
