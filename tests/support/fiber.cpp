// SPDX-License-Identifier: Apache-2.0
#include "support/fiber.h"

#include <sys/mman.h>

#include <cstddef>
#include <vector>

#include "core/error.h"

// This file is built without the thread sanitizer, which must not see the switches; the macro says
// that the rest of the program has it.
#ifdef MOE_EMULATOR_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void* p);
void __tsan_release(void* p);
}
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a call must keep, changes the stack, restores. 8 ns; swapcontext() takes 40 times
// that.
extern "C" void moe_switch_stack(void** from, void* to);
asm(R"(
  .text
  .type moe_switch_stack, @function
moe_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size moe_switch_stack, .-moe_switch_stack
)");

namespace moe::emulator {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kStackBytes = 128 * 1024 + kPage;  // the lowest page may not be touched

struct Stack {
  char* bytes;
  void* sanitizer_fiber;
};
std::vector<Stack> stacks;

Fiber* running = nullptr;
void (*entry_of_all)() = nullptr;
void* outside = nullptr;  // the stack pointer of enter_fiber()
#ifdef __SANITIZE_ADDRESS__
const void* outside_bottom = nullptr;
std::size_t outside_size = 0;
#endif
#ifdef MOE_EMULATOR_TSAN
void* outside_fiber = nullptr;
#endif

Stack new_stack() {
  void* bytes = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  MOE_CHECK(bytes != MAP_FAILED && mprotect(bytes, kPage, PROT_NONE) == 0, "no stack for a fiber");
  Stack stack{static_cast<char*>(bytes), nullptr};
#ifdef MOE_EMULATOR_TSAN
  stack.sanitizer_fiber = __tsan_create_fiber(0);  // takes 0.5 ms, so it is kept
#endif
  return stack;
}

void first_frame() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &outside_bottom, &outside_size);
#endif
  entry_of_all();
  running->ended = true;
  leave_fiber(*running);
}

}  // namespace

Fiber make_fiber(unsigned slot, void (*entry)()) {
  while (stacks.size() <= slot) stacks.push_back(new_stack());
  entry_of_all = entry;
  // Shifted, so that the same frame of all threads does not lie in the same set of the cache.
  void** top =
      reinterpret_cast<void**>(stacks[slot].bytes + kStackBytes - std::size_t(slot % 32) * 128);
  *--top = nullptr;  // where first_frame() would return to, which it does not
  *--top = reinterpret_cast<void*>(&first_frame);
  top -= 6;  // the registers that moe_switch_stack() restores
  Fiber fiber;
  fiber.stack_pointer = top;
  fiber.slot = slot;
  return fiber;
}

void enter_fiber(Fiber& fiber) {
  running = &fiber;
#ifdef __SANITIZE_ADDRESS__
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stacks[fiber.slot].bytes, kStackBytes);
#endif
#ifdef MOE_EMULATOR_TSAN
  constexpr unsigned kNoOrder = 1;
  outside_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(stacks[fiber.slot].sanitizer_fiber, kNoOrder);
#endif
  moe_switch_stack(&outside, fiber.stack_pointer);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void leave_fiber(Fiber& fiber) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fiber.ended ? nullptr : &fiber.fake_stack, outside_bottom,
                                 outside_size);
#endif
#ifdef MOE_EMULATOR_TSAN
  __tsan_switch_to_fiber(outside_fiber, 1);
#endif
  moe_switch_stack(&fiber.stack_pointer, outside);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

void forget_fibers() {
  for (Stack& stack : stacks) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack.bytes, kStackBytes);
#endif
#ifdef MOE_EMULATOR_TSAN
    __tsan_destroy_fiber(stack.sanitizer_fiber);
    stack.sanitizer_fiber = __tsan_create_fiber(0);
#endif
    static_cast<void>(stack);
  }
}

#ifdef MOE_EMULATOR_TSAN
void release(void* p) { __tsan_release(p); }
void acquire(void* p) { __tsan_acquire(p); }
#else
void release(void*) {}
void acquire(void*) {}
#endif

}  // namespace moe::emulator
