// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <utility>

#include "comm/communicator.h"
#include "core/log.h"

namespace moe {

Pending& Pending::operator=(Pending&& other) {
  if (this != &other) {
    wait();
    operation_ = std::move(other.operation_);
  }
  return *this;
}

Pending::~Pending() {
  // While an exception takes this rank out of the group, its peers may never join: to wait here
  // could hang. The transport keeps the tensors of what is under way alive.
  if (operation_ == nullptr || std::uncaught_exceptions() > 0) return;
  try {
    wait();
  } catch (const std::exception& failure) {
    log_warning("a collective that nobody waited for failed: {}", failure.what());
  }
}

void Pending::wait() {
  if (operation_ == nullptr) return;
  const auto operation = std::move(operation_);
  operation->wait();
}

bool Pending::test() {
  if (operation_ == nullptr) return true;
  auto operation = std::move(operation_);
  if (operation->test()) return true;
  operation_ = std::move(operation);
  return false;
}

}  // namespace moe
