// Which thread runs when: threads as fibers on stacks of their own.
//
// Threads run one at a time in a given order; each runs until it must wait. A warp primitive is a
// meeting: every lane of the mask leaves its value in a slot, the last to arrive wakes the others,
// every lane reads. When no thread can go on and not all have ended, the block is reported with
// the places where threads wait, and abandoned. A fault ends the launch; nothing ever hangs on a
// barrier.
#pragma once
#include <stdarg.h>
#include <stdio.h>

#include "block.h"
#include "fiber.h"

namespace cuda_on_cpu {

Block* block;
Thread* current;

inline void switch_stack(void** save, void* to, const void* bottom, size_t bytes, bool dying) {
#ifdef CUDA_ON_CPU_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(dying ? nullptr : &fake_stack, bottom, bytes);
  switch_context(save, to);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  (void)bottom, (void)bytes, (void)dying;
  switch_context(save, to);
#endif
}

[[noreturn]] inline void leave_to_main() {
  void* nowhere;
  switch_stack(&nowhere, block->main_context, block->main_stack, block->main_stack_bytes, true);
  __builtin_unreachable();
}

// The suspended fibers are dropped, they own nothing.
void fault(const char* format, ...) {
  const uint3 b = block->index, t = current->index;
  const int used =
      snprintf(block->message, block->message_bytes,
               "block (%u, %u, %u), thread (%u, %u, %u): ", b.x, b.y, b.z, t.x, t.y, t.z);
  va_list values;
  va_start(values, format);
  vsnprintf(block->message + used, block->message_bytes - used, format, values);
  va_end(values);
  block->faulted = true;
  leave_to_main();
}

// No thread can run and some have not ended: say who waits where, one line a place.
[[noreturn]] __attribute__((noinline)) inline void report_missed_barrier() {
  char* out = block->message;
  char* const end = out + block->message_bytes;
  const uint3 b = block->index;
  out += snprintf(out, end - out, "block (%u, %u, %u) cannot go on:", b.x, b.y, b.z);
  bool told[kMaxThreads] = {};
  for (int i = 0; i < block->num_threads; ++i) {
    const Thread& first = block->threads[i];
    if (first.ended || told[i] || end - out < 200) continue;
    int count = 0;
    for (int k = i; k < block->num_threads; ++k) {
      const Thread& other = block->threads[k];
      const bool same = !other.ended && other.place.line == first.place.line &&
                        other.place.primitive == first.place.primitive && other.mask == first.mask;
      if (same) told[k] = true, ++count;
    }
    const uint3 t = first.index;
    out += snprintf(out, end - out, " thread (%u, %u, %u)", t.x, t.y, t.z);
    if (count > 1) out += snprintf(out, end - out, " and %d more", count - 1);
    out += snprintf(out, end - out, " wait%s at %s (%s:%d", count > 1 ? "" : "s",
                    first.place.primitive, base_name(first.place.file), first.place.line);
    if (first.mask) out += snprintf(out, end - out, ", mask 0x%08x", first.mask);
    out += snprintf(out, end - out, ");");
  }
  for (int i = 0; i < block->num_threads; ++i) {
    const Thread& thread = block->threads[i];
    if (!thread.ended) continue;
    const uint3 t = thread.index;
    out += snprintf(out, end - out, " thread (%u, %u, %u)", t.x, t.y, t.z);
    if (block->num_ended > 1) out += snprintf(out, end - out, " and %d more", block->num_ended - 1);
    out += snprintf(out, end - out, " ended");
    break;
  }
  block->faulted = true;
  leave_to_main();
}

inline void make_ready(int warp, unsigned lanes) {
  Warp& w = block->warps[warp];
  for (unsigned rest = lanes; rest; rest &= rest - 1)
    w.ready |= 1u << w.position_of[__builtin_ctz(rest)];
  if (w.ready) block->ready_warps |= 1u << block->position_of[warp];
}

// All threads of the block but the running one, which all wait for it.
inline void make_others_ready() {
  for (int w = 0; w < block->num_warps; ++w) {
    const unsigned self = w == current->warp ? 1u << current->lane : 0;
    make_ready(w, block->warps[w].lanes & ~self);
  }
}

// The next thread in the running order, the same warp first; null when none can run.
inline Thread* take_ready(int warp) {
  if (!block->warps[warp].ready) {
    if (!block->ready_warps) return nullptr;
    warp = block->warp_at[__builtin_ctz(block->ready_warps)];
  }
  Warp& w = block->warps[warp];
  const int position = __builtin_ctz(w.ready);
  w.ready &= w.ready - 1;
  if (!w.ready) block->ready_warps &= ~(1u << block->position_of[warp]);
  return &block->threads[warp * kWarpSize + w.lane_at[position]];
}

inline unsigned char* take_stack() {
  unsigned char* const stack = block->num_free_stacks
                                   ? block->free_stacks[--block->num_free_stacks]
                                   : block->stacks + size_t(block->num_stacks++) * kStackBytes;
  // Whoever had it before, in this block or another, has left it without unwinding.
#ifdef CUDA_ON_CPU_ASAN
  __asan_unpoison_memory_region(stack + block->page_bytes, kStackBytes - block->page_bytes);
#endif
  return stack;
}

void fiber_main();

// Enters `next`, which is suspended or has not begun. Returns when the caller is resumed.
inline void resume(Thread* next, void** save, bool dying) {
  current = next;
  if (!next->stack) {
    next->stack = take_stack();
    // Tops at one page offset would all fall into the same cache sets.
    const size_t stagger =
        size_t(next->stack - block->stacks) / kStackBytes * 1088 % 16384 / 16 * 16;
    next->context = new_context(next->stack + kStackBytes - stagger - 64, fiber_main);
  }
  switch_stack(save, next->context, next->stack + block->page_bytes,
               kStackBytes - block->page_bytes, dying);
}

// Runs threads from their beginning, one after another, on one stack as long as none waits.
inline void fiber_main() {
#ifdef CUDA_ON_CPU_ASAN
  const void* old_stack;
  size_t old_bytes;
  __sanitizer_finish_switch_fiber(nullptr, &old_stack, &old_bytes);
  if (!block->main_stack) block->main_stack = old_stack, block->main_stack_bytes = old_bytes;
#endif
  for (;;) {
    block->entry(block->args);
    Thread* const self = current;
    unsigned char* const stack = self->stack;
    if (block->overlaps && !self->waited)
      fault(
          "ended and has not called wait_for_previous(), which a kernel launched to overlap must");
    self->ended = true;
    ++block->num_ended;
    Thread* const next = take_ready(self->warp);
    if (!next) {
      if (block->num_ended < block->num_threads) report_missed_barrier();
      leave_to_main();
    }
    if (next->stack) {
      block->free_stacks[block->num_free_stacks++] = stack;
      void* nowhere;
      resume(next, &nowhere, true);
    }
    next->stack = stack;
    current = next;
  }
}

// Lets other threads run until this one is made ready again.
inline void wait(Place place, unsigned mask) {
  Thread* const self = current;
  self->place = place;
  self->mask = mask;
  Thread* const next = take_ready(self->warp);
  if (!next) report_missed_barrier();
  resume(next, &self->context, false);
}

}  // namespace cuda_on_cpu
