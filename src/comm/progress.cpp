// SPDX-License-Identifier: Apache-2.0
#include "comm/progress.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace moe {
namespace {

constexpr std::chrono::microseconds kShortest{50}, kLongest{250};

/// All unfinished tasks of this process, in the order in which they were started.
class Engine {
 public:
  void start(const std::shared_ptr<Task>& task) {
    std::lock_guard lock(mutex_);
    if (task->advance()) return;
    tasks_.push_back(task);
    if (!thread_.joinable())
      thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
    pause_ = kShortest;
    changed_.notify_one();
  }

  void advance() {
    std::lock_guard lock(mutex_);
    advance_all();
  }

  bool advance(const Task& task) {
    std::lock_guard lock(mutex_);
    advance_all();
    return task.done();
  }

  void wait(const Task& task) {
    {
      std::lock_guard lock(mutex_);
      ++waiters_;
    }
    // Gives the core to ranks that compute: there may be more ranks than cores.
    while (!advance(task)) std::this_thread::yield();
    std::lock_guard lock(mutex_);
    if (--waiters_ == 0 && !tasks_.empty()) changed_.notify_one();
  }

  std::size_t unfinished() {
    std::lock_guard lock(mutex_);
    return tasks_.size();
  }

 private:
  void advance_all() {
    if (advancing_) return;  // a task that tests a task of its own
    advancing_ = true;
    // A task that proceeds may start others, which join the list behind it.
    for (auto task = tasks_.begin(); task != tasks_.end();) {
      if (!(*task)->advance()) {
        ++task;
        continue;
      }
      task = tasks_.erase(task);
      pause_ = kShortest;
    }
    advancing_ = false;
  }

  void run(const std::stop_token& stop) {
    omp_set_num_threads(1);  // what tasks add up on this thread runs beside the rank's own work
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [this] { return !tasks_.empty() && waiters_ == 0; })) {
      advance_all();
      const std::chrono::microseconds pause = pause_;
      pause_ = std::min(2 * pause, kLongest);
      lock.unlock();
      std::this_thread::sleep_for(pause);
      lock.lock();
    }
  }

  std::recursive_mutex mutex_;  // a task that proceeds may start another
  std::condition_variable_any changed_;
  std::list<std::shared_ptr<Task>> tasks_;
  int waiters_ = 0;
  // Of the thread, between two looks: short where a new message is likely to be answered soon.
  std::chrono::microseconds pause_ = kShortest;
  bool advancing_ = false;
  std::jthread thread_;  // the last member: it uses the others
};

Engine& engine() {
  static Engine instance;
  return instance;
}

class TaskOperation final : public Pending::Operation {
 public:
  explicit TaskOperation(std::shared_ptr<Task> task) : task_(std::move(task)) {}

  bool test() override {
    if (!engine().advance(*task_)) return false;
    task_->check();
    return true;
  }

  void wait() override {
    const WaitingScope waiting;
    engine().wait(*task_);
    task_->check();
  }

 private:
  std::shared_ptr<Task> task_;
};

}  // namespace

bool Task::advance() {
  if (done_) return true;
  try {
    done_ = proceed();
  } catch (const Error&) {
    failure_ = std::current_exception();
    done_ = true;
  }
  if (done_) {
    tensors_.clear();
    ticket_.finish();
  }
  return done_;
}

void Task::check() const {
  if (failure_ != nullptr) std::rethrow_exception(failure_);
}

Pending start_task(std::shared_ptr<Task> task) {
  engine().start(task);
  return Pending(std::make_unique<TaskOperation>(std::move(task)));
}

void watch_task(const std::shared_ptr<Task>& task) { engine().start(task); }

void progress_tasks() { engine().advance(); }

std::size_t unfinished_tasks() { return engine().unfinished(); }

}  // namespace moe
