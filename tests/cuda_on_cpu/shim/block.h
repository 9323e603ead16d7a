// The running block: its threads, its barriers, and the meetings of its warps. Kernels see this;
// what moves it is compiled once, in runtime.cpp.
#pragma once
#include "vectors.h"

#pragma GCC visibility push(hidden)

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

extern Block* block;
extern Thread* current;

// Ends the launch with a message.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The block-wide barrier. Returns the parity under which its results stand.
int block_barrier(Place place, int predicate);

// All lanes of the mask, each with its value. The caller reads slots, then calls part().
Meeting* meet(Place place, unsigned mask, uint64_t value);
void part(Meeting* meeting);

// Where a launch overlaps, what the kernels before have written is not there until all threads of
// the block wait for it.
void wait_for_previous(Place place);

inline const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

}  // namespace cuda_on_cpu

#pragma GCC visibility pop

#define threadIdx (cuda_on_cpu::current->index)
#define blockIdx (cuda_on_cpu::block->index)
#define blockDim (cuda_on_cpu::block->size)
#define gridDim (cuda_on_cpu::block->grid)
#define warpSize (cuda_on_cpu::kWarpSize)
