// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace moe {

/// Threads of a pipeline: as many as asked for; 0: as many as there are cores.
inline std::size_t pipeline_threads(int asked) {
  return asked > 0 ? std::size_t(asked)
                   : std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

/// Moves items through three stages: `bool produce(In&)` on a thread of its own until it gives
/// false, `Out work(In&&)` on `threads` threads at once, `void consume(Out&&)` on the calling
/// thread in the order in which items were produced. So results do not depend on the number of
/// threads. At most a few items for each thread are under way. The first exception, in that same
/// order, stops everything and is thrown here; items before it have been consumed.
template <class In, class Out, class Produce, class Work, class Consume>
void ordered_pipeline(std::size_t threads, Produce&& produce, Work&& work, Consume&& consume) {
  struct Item {
    In in;
    std::optional<Out> out;
    std::exception_ptr error;
    bool taken = false;
    bool done() const { return out.has_value() || error != nullptr; }
  };
  std::mutex mutex;
  std::condition_variable room, todo, ready;
  std::deque<std::shared_ptr<Item>> items;  // in order; the front is consumed next
  bool ended = false, stopped = false;
  const std::size_t most = 2 * threads + 2;

  const auto run_producer = [&] {
    for (bool more = true; more;) {
      auto item = std::make_shared<Item>();
      try {
        more = produce(item->in);
      } catch (...) {
        item->error = std::current_exception();
        item->taken = true;
        more = false;
      }
      std::unique_lock lock(mutex);
      if (more || item->error) {
        room.wait(lock, [&] { return stopped || items.size() < most; });
        items.push_back(std::move(item));
      }
      ended = !more;
      if (stopped) return;
      todo.notify_one();
      if (ended) todo.notify_all();
      ready.notify_one();
    }
  };
  const auto run_worker = [&] {
    std::unique_lock lock(mutex);
    while (true) {
      const auto next =
          std::find_if(items.begin(), items.end(), [](const auto& i) { return !i->taken; });
      if (stopped || (ended && next == items.end())) return;
      if (next == items.end()) {
        todo.wait(lock);
        continue;
      }
      const std::shared_ptr<Item> item = *next;
      item->taken = true;
      lock.unlock();
      std::optional<Out> out;
      std::exception_ptr error;
      try {
        out.emplace(work(std::move(item->in)));
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      item->out = std::move(out);
      item->error = error;
      ready.notify_one();
    }
  };

  std::vector<std::jthread> pool;
  // Declared behind the pool, so it lets the threads go before they are joined.
  struct Stop {
    std::mutex& mutex;
    bool& stopped;
    std::condition_variable &room, &todo;
    ~Stop() {
      const std::lock_guard lock(mutex);
      stopped = true;
      room.notify_all();
      todo.notify_all();
    }
  } stop{mutex, stopped, room, todo};
  pool.emplace_back(run_producer);
  for (std::size_t i = 0; i < threads; ++i) pool.emplace_back(run_worker);
  while (true) {
    std::shared_ptr<Item> item;
    {
      std::unique_lock lock(mutex);
      ready.wait(lock, [&] { return items.empty() ? ended : items.front()->done(); });
      if (items.empty()) return;
      item = std::move(items.front());
      items.pop_front();
      room.notify_one();
    }
    if (item->error) std::rethrow_exception(item->error);
    consume(std::move(*item->out));
  }
}

}  // namespace moe
