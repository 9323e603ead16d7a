// What Python calls: a kernel's blocks one after another, in the order it asks for.
#pragma once
#include "schedule.h"
#include "signature.h"
#include <sys/mman.h>
#ifdef __linux__
#include <link.h>
#endif

namespace cuda_on_cpu {

struct Launch {
  unsigned grid[3], block[3];
  unsigned shared_bytes;
  int order;  // 0 forward, 1 reversed, 2 shuffled by seed
  uint64_t seed;
  void** args;
  void* arena;  // arena_bytes() of zeroed pages
  uint64_t page_bytes;
  char* message;
  uint64_t message_bytes;
  int overlaps;  // launched to overlap with the kernel before
  int num_withheld;
  const Withheld* withheld;
};

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

inline uint64_t next_random(uint64_t& state) {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

template <typename T>
void arrange(T* order, unsigned count, int how, uint64_t& random) {
  for (unsigned i = 0; i < count; ++i) order[i] = T(how == 1 ? count - 1 - i : i);
  for (unsigned i = count; how == 2 && i > 1; --i) {
    const unsigned k = next_random(random) % i;
    const T other = order[k];
    order[k] = order[i - 1];
    order[i - 1] = other;
  }
}

#ifdef __linux__
struct Range {
  unsigned char *begin, *end;
};
// This library's thread-local segment: its __shared__ variables and nothing else. Where it lies
// around `shared` is looked up once; each host thread has a segment of its own.
inline Range shared_segment() {
  static size_t ahead = 0, bytes_of_segment = 0;
  if (bytes_of_segment) return {shared - ahead, shared - ahead + bytes_of_segment};
  auto find = [](dl_phdr_info* info, size_t bytes, void* out) -> int {
    if (bytes < offsetof(dl_phdr_info, dlpi_tls_data) + sizeof(void*) || !info->dlpi_tls_data)
      return 0;
    auto* begin = static_cast<unsigned char*>(info->dlpi_tls_data);
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& header = info->dlpi_phdr[i];
      if (header.p_type != PT_TLS || shared < begin || shared >= begin + header.p_memsz) continue;
      *static_cast<Range*>(out) = {begin, begin + header.p_memsz};
      return 1;
    }
    return 0;
  };
  Range range = {nullptr, nullptr};
  dl_iterate_phdr(find, &range);
  if (range.begin) ahead = shared - range.begin, bytes_of_segment = range.end - range.begin;
  return range;
}

// Statically sized __shared__ variables hold garbage at the start of a block, as on a GPU.
inline void poison_static_shared(Range range) {
  if (range.begin < shared) memset(range.begin, 0xff, shared - range.begin);
  if (shared + sizeof(shared) < range.end)
    memset(shared + sizeof(shared), 0xff, range.end - (shared + sizeof(shared)));
}
#endif

inline uint64_t static_shared_bytes() {
  shared[0] = 0;  // the segment comes into being when it is first touched
#ifdef __linux__
  const Range segment = shared_segment();
  return segment.end - segment.begin - sizeof(shared);
#else
  return 0;
#endif
}

inline void prepare_threads(const Launch& launch) {
  const unsigned* size = launch.block;
  block->num_threads = size[0] * size[1] * size[2];
  block->num_warps = (block->num_threads + kWarpSize - 1) / kWarpSize;
  for (int i = 0; i < block->num_threads; ++i) {
    Thread& thread = block->threads[i];
    thread.index = {unsigned(i) % size[0], unsigned(i) / size[0] % size[1],
                    unsigned(i) / (size[0] * size[1])};
    thread.lane = i % kWarpSize;
    thread.warp = i / kWarpSize;
  }
}

inline void run_block(const Launch& launch, uint64_t& random) {
  arrange(block->warp_at, block->num_warps, launch.order, random);
  block->ready_warps = 0;
  for (int position = 0; position < block->num_warps; ++position) {
    const int w = block->warp_at[position];
    Warp& warp = block->warps[w];
    block->position_of[w] = position;
    const int left = block->num_threads - w * kWarpSize;
    const int num_lanes = left < kWarpSize ? left : kWarpSize;
    warp.lanes = num_lanes < kWarpSize ? (1u << num_lanes) - 1 : ~0u;
    arrange(warp.lane_at, num_lanes, launch.order, random);
    for (int i = 0; i < num_lanes; ++i) warp.position_of[warp.lane_at[i]] = i;
    warp.ready = warp.lanes;
    warp.num_meetings = warp.num_open = 0;
    warp.free_meeting = nullptr;
    block->ready_warps |= 1u << position;
  }
  for (int i = 0; i < block->num_threads; ++i) {
    block->threads[i].stack = nullptr;
    block->threads[i].ended = block->threads[i].waited = false;
    block->threads[i].copies.num_copies = block->threads[i].copies.num_groups = 0;
  }
  block->num_ended = block->num_waited = block->arrived = block->parity = 0;
  block->num_stacks = block->num_free_stacks = 0;
  resume(take_ready(block->warp_at[0]), &block->main_context, false);
}

inline void initialise_arena(const Launch& launch) {
  block->initialised = true;
  block->page_bytes = launch.page_bytes;
  const size_t head =
      (sizeof(Block) + launch.page_bytes - 1) / launch.page_bytes * launch.page_bytes;
  block->stacks = static_cast<unsigned char*>(launch.arena) + head;
  for (int i = 0; i < kMaxThreads; ++i)  // an overflowing stack stops at once
    mprotect(block->stacks + i * kStackBytes, launch.page_bytes, PROT_NONE);
}

// Runs all blocks; false when a fault was written to launch.message.
inline bool run(const Launch& launch, const KernelEntry& kernel) {
  block = static_cast<Block*>(launch.arena);
  if (!block->initialised) initialise_arena(launch);
  block->entry = kernel.entry;
  block->args = launch.args;
  block->message = launch.message;
  block->message_bytes = launch.message_bytes;
  block->faulted = false;
  block->main_stack = nullptr;
  block->overlaps = launch.overlaps;
  block->withheld = launch.withheld;
  block->num_withheld = launch.num_withheld;
  block->size = dim3(launch.block[0], launch.block[1], launch.block[2]);
  block->grid = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
  prepare_threads(launch);

  const unsigned num_blocks = launch.grid[0] * launch.grid[1] * launch.grid[2];
  uint64_t random = launch.seed;
  unsigned* order = nullptr;
  if (launch.order != 0) {
    order = static_cast<unsigned*>(__builtin_malloc(num_blocks * sizeof(unsigned)));
    arrange(order, num_blocks, launch.order, random);
  }
#ifdef __linux__
  const Range segment = shared_segment();
#endif
  unsigned char* const guard = shared + launch.shared_bytes;
  memset(guard, 0xa5, kSharedGuardBytes);
#ifdef CUDA_ON_CPU_ASAN
  __asan_poison_memory_region(guard, sizeof(shared) - launch.shared_bytes);
#endif
  for (unsigned i = 0; i < num_blocks && !block->faulted; ++i) {
    const unsigned b = order ? order[i] : i;
    block->index = {b % launch.grid[0], b / launch.grid[0] % launch.grid[1],
                    b / (launch.grid[0] * launch.grid[1])};
#ifdef __linux__
    poison_static_shared(segment);
#endif
    memset(shared, 0xff, launch.shared_bytes);
    if (launch.overlaps) withhold();
    run_block(launch, random);
    give_back_withheld();
#ifndef CUDA_ON_CPU_ASAN
    for (size_t k = 0; k < kSharedGuardBytes && !block->faulted; k += 8) {
      uint64_t word;
      memcpy(&word, guard + k, 8);
      if (word == 0xa5a5a5a5a5a5a5a5ull) continue;
      snprintf(launch.message, launch.message_bytes,
               "block (%u, %u, %u) wrote past the end of its %u bytes of dynamic shared memory",
               block->index.x, block->index.y, block->index.z, launch.shared_bytes);
      block->faulted = true;
    }
#endif
  }
#ifdef CUDA_ON_CPU_ASAN
  __asan_unpoison_memory_region(guard, sizeof(shared) - launch.shared_bytes);
#endif
  __builtin_free(order);
  return !block->faulted;
}

}  // namespace cuda_on_cpu
