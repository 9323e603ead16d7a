// The running block: its threads as fibers, its barriers, and the meetings of its warps.
//
// Threads run one at a time in a given order; each runs until it must wait. A warp primitive is a
// meeting: every lane of the mask leaves its value in a slot, the last to arrive wakes the others,
// every lane reads. When no thread can go on and not all have ended, the block is reported with
// the places where threads wait, and abandoned. A fault ends the launch; nothing ever hangs on a
// barrier.
#pragma once
#include "fiber.h"

namespace cuda_on_cpu {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;
constexpr size_t kStackBytes = 128 * 1024;

struct Place {
  const char* primitive;
  const char* file;
  int line;
};

struct Meeting {
  Place place;
  unsigned mask, arrived, unread, ballot;
  Meeting* next_free;
  uint64_t slot[kWarpSize];
};

// Copies in the background that a thread has begun and not waited for: shim/ptx.cuh.
struct AsyncCopies {
  static constexpr int kMost = 64;
  struct Copy {
    void* to;
    const void* from;  // null for zeros
  };
  int num_copies, num_groups;
  int group_end[kMost];  // behind a group's last copy; copies behind the last group have none yet
  Copy copy[kMost];
};

struct Thread {
  uint3 index;
  int lane, warp;
  void* context;         // where it stands, while it is suspended
  unsigned char* stack;  // null before its first suspension
  Place place;           // where it waits
  unsigned mask;         // the lanes it waits for there, 0 for the whole block
  bool waits, ended;
  bool waited;  // for the kernel before: shim/ptx.cuh
  AsyncCopies copies;
};

struct Warp {
  unsigned lanes;  // that exist, by lane
  unsigned ready;  // that can run, by position in the running order
  unsigned char lane_at[kWarpSize], position_of[kWarpSize];
  int num_meetings;  // ever taken from `meetings`
  Meeting* free_meeting;
  int num_open;
  Meeting* open[kWarpSize];
  Meeting meetings[kWarpSize + 1];
};

// Memory that the kernel before has written, for a kernel that is launched to overlap with it.
struct Withheld {
  unsigned char* at;
  uint64_t num_bytes;
  unsigned char* kept;  // as much, what was there while it is withheld
};

struct Block {
  uint3 index;
  dim3 size, grid;
  int num_threads, num_warps, num_ended;
  void (*entry)(void**);
  void** args;
  unsigned ready_warps;  // by position in the running order
  unsigned char warp_at[kMaxWarps], position_of[kMaxWarps];
  // __syncthreads: results of an even and an odd barrier, as a fast thread may be one ahead.
  int arrived, parity;
  Place barrier;
  int sum[2], all[2], any[2];
  // Stacks.
  unsigned char* stacks;
  size_t page_bytes;
  int num_stacks;  // ever taken in this block
  int num_free_stacks;
  unsigned char* free_stacks[kMaxThreads];
  // The caller of the launch.
  void* main_context;
  const void* main_stack;
  size_t main_stack_bytes;
  char* message;  // of a fault
  size_t message_bytes;
  bool faulted;
  bool initialised;
  bool overlaps, is_withheld;
  const Withheld* withheld;
  int num_withheld;
  int num_waited;  // threads
  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
};

static Block* block;
static Thread* current;

inline void withhold() {
  for (int i = 0; i < block->num_withheld; ++i) {
    const Withheld& range = block->withheld[i];
    memcpy(range.kept, range.at, range.num_bytes);
    memset(range.at, 0xff, range.num_bytes);
  }
  block->is_withheld = true;
}

inline void give_back_withheld() {
  for (int i = 0; block->is_withheld && i < block->num_withheld; ++i) {
    const Withheld& range = block->withheld[i];
    memcpy(range.at, range.kept, range.num_bytes);
  }
  block->is_withheld = false;
}

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

// Ends the launch with a message; the suspended fibers are dropped, they own nothing.
template <typename... Values>
[[noreturn]] __attribute__((noinline)) void fault(const char* format, Values... values) {
  const uint3 b = block->index, t = current->index;
  const int used =
      snprintf(block->message, block->message_bytes,
               "block (%u, %u, %u), thread (%u, %u, %u): ", b.x, b.y, b.z, t.x, t.y, t.z);
  snprintf(block->message + used, block->message_bytes - used, format, values...);
  block->faulted = true;
  leave_to_main();
}

inline const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
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

#define threadIdx (cuda_on_cpu::current->index)
#define blockIdx (cuda_on_cpu::block->index)
#define blockDim (cuda_on_cpu::block->size)
#define gridDim (cuda_on_cpu::block->grid)
#define warpSize (cuda_on_cpu::kWarpSize)
