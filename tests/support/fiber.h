// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Functions that run on stacks of their own and take turns with the one that enters them, all on
/// one thread of the operating system; the sanitizers are told. x86-64 only.
namespace moe::emulator {

struct Fiber {
  void* stack_pointer = nullptr;
  unsigned slot = 0;
  void* fake_stack = nullptr;  // the address sanitizer's
  bool ended = false;
};

/// A fiber on stack number `slot` that runs `entry` once. Fibers of a slot follow each other.
Fiber make_fiber(unsigned slot, void (*entry)());

/// Runs the fiber until it leaves or its entry returns.
void enter_fiber(Fiber& fiber);

/// Back to enter_fiber(): called on the fiber.
void leave_fiber(Fiber& fiber);

/// Fibers that have not ended will never be entered again.
void forget_fibers();

/// What happened before release(p) happened before what follows acquire(p): told to the thread
/// sanitizer, to which each fiber is a thread and a switch orders nothing.
void release(void* p);
void acquire(void* p);

}  // namespace moe::emulator
