// The part of the shim that knows no kernel: compiled once, linked to every library of kernels.
#include "launch.h"
#include "schedule.h"

thread_local unsigned char shared[cuda_on_cpu::kMaxSharedBytes + cuda_on_cpu::kSharedGuardBytes];

namespace cuda_on_cpu {

int block_barrier(Place place, int predicate) {
  const int parity = block->parity;
  if (block->arrived == 0) {
    block->barrier = place;
    block->sum[parity] = block->any[parity] = 0;
    block->all[parity] = 1;
  } else if (place.line != block->barrier.line || place.primitive != block->barrier.primitive) {
    fault("is at %s (%s:%d) while others wait at %s (%s:%d)", place.primitive,
          base_name(place.file), place.line, block->barrier.primitive,
          base_name(block->barrier.file), block->barrier.line);
  }
  block->sum[parity] += predicate != 0;
  block->any[parity] |= predicate != 0;
  block->all[parity] &= predicate != 0;
  if (++block->arrived < block->num_threads) {
    wait(place, 0);
  } else {
    block->arrived = 0;
    block->parity ^= 1;
    make_others_ready();
  }
  return parity;
}

Meeting* meet(Place place, unsigned mask, uint64_t value) {
  Thread* const self = current;
  Warp& warp = block->warps[self->warp];
  const unsigned bit = 1u << self->lane;
  if (!(mask & bit))
    fault("%s (%s:%d): lane %d calls it with mask 0x%08x, which does not name that lane",
          place.primitive, base_name(place.file), place.line, self->lane, mask);
  mask &= warp.lanes;
  Meeting* meeting = nullptr;
  int at = 0;
  for (; at < warp.num_open; ++at)
    if (warp.open[at]->mask == mask) {
      meeting = warp.open[at];
      break;
    }
  if (!meeting) {
    meeting = warp.free_meeting;
    if (meeting)
      warp.free_meeting = meeting->next_free;
    else
      meeting = &warp.meetings[warp.num_meetings++];
    meeting->place = place;
    meeting->mask = mask;
    meeting->arrived = meeting->ballot = 0;
    meeting->unread = mask;
    warp.open[warp.num_open++] = meeting;
  } else if (meeting->place.primitive != place.primitive &&
             strcmp(meeting->place.primitive, place.primitive) != 0) {
    fault("is at %s (%s:%d) while lanes of its warp wait for it at %s (%s:%d)", place.primitive,
          base_name(place.file), place.line, meeting->place.primitive,
          base_name(meeting->place.file), meeting->place.line);
  }
  meeting->slot[self->lane] = value;
  meeting->arrived |= bit;
  if (value) meeting->ballot |= bit;
  if (meeting->arrived != mask) {
    wait(place, mask);
  } else {
    warp.open[at] = warp.open[--warp.num_open];
    make_ready(self->warp, mask & ~bit);
  }
  return meeting;
}

void part(Meeting* meeting) {
  meeting->unread &= ~(1u << current->lane);
  if (!meeting->unread) {
    Warp& warp = block->warps[current->warp];
    meeting->next_free = warp.free_meeting;
    warp.free_meeting = meeting;
  }
}

void wait_for_previous(Place place) {
  current->waited = true;
  if (!block->overlaps) return;
  if (++block->num_waited < block->num_threads) {
    wait(place, 0);
    return;
  }
  give_back_withheld();
  make_others_ready();
}

}  // namespace cuda_on_cpu

// What the compiler calls when an address is not a multiple of what its type asks for: on a GPU
// the launch would fail. Left to UBSan's own library where that is linked.
#ifndef CUDA_ON_CPU_ASAN
namespace cuda_on_cpu {
struct TypeMismatch {
  const char* file;
  unsigned line, column;
  const void* type;
  unsigned char log_alignment, access;
};

[[noreturn]] static void report_misalignment(const TypeMismatch* where, size_t address) {
  fault("misaligned address: %s:%u needs a multiple of %u bytes, got one %u bytes above",
        base_name(where->file), where->line, 1u << where->log_alignment,
        unsigned(address & ((1u << where->log_alignment) - 1)));
}
}  // namespace cuda_on_cpu

extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_type_mismatch_v1_abort(
    const cuda_on_cpu::TypeMismatch* where, size_t address) {
  cuda_on_cpu::report_misalignment(where, address);
}
#endif

// What Python calls.
#pragma GCC visibility push(default)
extern "C" {
int cuda_on_cpu_num_kernels() { return cuda_on_cpu::num_kernels; }
const cuda_on_cpu::KernelEntry* cuda_on_cpu_kernels() { return cuda_on_cpu::kernels; }
uint64_t cuda_on_cpu_arena_bytes() {
  return sizeof(cuda_on_cpu::Block) + 65536 + cuda_on_cpu::kMaxThreads * cuda_on_cpu::kStackBytes;
}
uint64_t cuda_on_cpu_static_shared_bytes() { return cuda_on_cpu::static_shared_bytes(); }
int cuda_on_cpu_launch(const cuda_on_cpu::Launch* launch, int kernel) {
  return cuda_on_cpu::run(*launch, cuda_on_cpu::kernels[kernel]);
}
}
#pragma GCC visibility pop
