// Barriers of a block, and meetings of a warp's lanes, on which every warp primitive is built.
#pragma once
#include "block.h"

namespace cuda_on_cpu {

// The block-wide barrier. Returns the parity under which its results stand.
inline int block_barrier(Place place, int predicate) {
  asm volatile("" ::: "memory");
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
    for (int w = 0; w < block->num_warps; ++w) {
      const unsigned self = w == current->warp ? 1u << current->lane : 0;
      make_ready(w, block->warps[w].lanes & ~self);
    }
  }
  asm volatile("" ::: "memory");
  return parity;
}

// All lanes of the mask, each with its value. The caller reads slots, then calls part().
inline Meeting* meet(Place place, unsigned mask, uint64_t value) {
  asm volatile("" ::: "memory");
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

inline void part(Meeting* meeting) {
  meeting->unread &= ~(1u << current->lane);
  if (!meeting->unread) {
    Warp& warp = block->warps[current->warp];
    meeting->next_free = warp.free_meeting;
    warp.free_meeting = meeting;
  }
  asm volatile("" ::: "memory");
}

}  // namespace cuda_on_cpu
