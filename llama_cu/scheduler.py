"""Which sequences compute how many tokens in the next step. Host data only, no arrays."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from llama_cu.kv_cache import BlockAllocator
from llama_cu.sequence import Sequence

# An answer may become long, and seldom does: room is held for no more than this part of the cache.
_SHARES = 16


@dataclass(frozen=True, slots=True)
class Slice:
    """The step computes sequence.token_ids[num_computed : num_computed + num_tokens].

    With drafts, guesses at the tokens that come next, it computes these too, each as if it were
    the sequence's newest; it then is the slice that completes, of one token.
    """

    sequence: Sequence
    num_tokens: int
    drafts: tuple[int, ...] = ()

    @property
    def completes(self) -> bool:
        """Whether the slice reaches the last token, so that the next one can be drawn."""
        return self.sequence.num_computed + self.num_tokens == len(self.sequence)

    @property
    def num_draws(self) -> int:
        """Tokens that are drawn where the slice completes: behind its last, and each draft."""
        return 1 + len(self.drafts)


class Scheduler:
    """First come, first served, under a token budget, with preemption by recompute.

    Running sequences go first, in the order of their arrival; then waiting ones are admitted
    while budget, blocks and `max_num_seqs` allow. When blocks run out, the youngest running
    sequence gives its blocks back and waits at the head of the queue. `Engine.submit` refuses
    what cannot fit alone, so the oldest sequence always gets on.
    """

    def __init__(
        self, allocator: BlockAllocator, *, max_batch_tokens: int, max_num_seqs: int
    ) -> None:
        self.allocator = allocator
        self.max_batch_tokens = max_batch_tokens
        self.max_num_seqs = max_num_seqs
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Slice]:
        """The next step's slices, with blocks for all their tokens; empty without work."""
        budget = self.max_batch_tokens
        slices: list[Slice] = []
        i = 0
        # A long prompt leaves a token of the budget to each decode that comes after it.
        reserved = sum(len(s) - s.num_computed == 1 for s in self.running)
        while i < len(self.running) and budget > 0:
            sequence = self.running[i]
            remaining = len(sequence) - sequence.num_computed
            reserved -= remaining == 1
            num_tokens = min(remaining, max(1, budget - reserved))
            if not self._make_room(sequence, num_tokens):
                break  # it was the youngest itself, and waits now
            slices.append(Slice(sequence, num_tokens))
            budget -= num_tokens
            i += 1
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            admitted = self._admit(self.waiting[0], budget)
            if admitted is None:
                break
            self.waiting.popleft()
            self.running.append(admitted.sequence)
            slices.append(admitted)
            budget -= admitted.num_tokens
        return slices

    @property
    def may_admit(self) -> bool:
        """Whether the first of those that wait could start now."""
        if not self.waiting or len(self.running) >= self.max_num_seqs:
            return False
        budget = self.max_batch_tokens - len(self.running)
        return budget > 0 and self._first_chunk(self.waiting[0], budget) is not None

    def extend(self, sequence: Sequence, num_tokens: int) -> int | None:
        """Blocks for so many tokens of a running sequence, without taking any from others.

        Returns how many were added, None if there are not enough.
        """
        needed = self._num_missing(num_tokens, len(sequence.block_table))
        if self.allocator.num_free < needed:
            return None
        self._give(sequence, needed)
        return needed

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for the next tokens of a running sequence; False if it had to give way itself."""
        needed = self._num_missing(sequence.num_computed + num_tokens, len(sequence.block_table))
        while self.allocator.num_free < needed:
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        self._give(sequence, needed)
        return True

    def _give(self, sequence: Sequence, num_blocks: int) -> None:
        """Add blocks; the allocator is told how many there will be, if not by far too many."""
        if num_blocks == 0:  # as in most steps
            return
        table, most = sequence.block_table, self.allocator.num_blocks // _SHARES
        longest = self._num_missing(len(sequence) + sequence.num_missing, len(table))
        known = self._num_missing(len(sequence), len(table))
        self.allocator.extend(table, num_blocks, max(num_blocks, known, min(longest, most)))

    def _num_missing(self, num_tokens: int, num_blocks: int) -> int:
        return max(0, -(-num_tokens // self.allocator.block_size) - num_blocks)

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.appendleft(sequence)

    def _first_chunk(self, sequence: Sequence, budget: int) -> tuple[list[int], int, int] | None:
        """Cached blocks of the sequence, tokens of its first chunk, and blocks that those need.

        None where there are not enough.
        """
        found = []
        if not sequence.lacks_prompt_logprobs:
            found = self.allocator.find(sequence.token_ids, sequence.cache_salt)
        num_cached = len(found) * self.allocator.block_size
        num_tokens = min(len(sequence) - num_cached, budget)
        needed = self._num_missing(num_cached + num_tokens, len(found))
        if self.allocator.num_free - self.allocator.num_unused(found) < needed:
            return None
        return found, num_tokens, needed

    def _admit(self, sequence: Sequence, budget: int) -> Slice | None:
        """Reuse what is cached of the sequence, and find blocks for its first chunk."""
        chunk = self._first_chunk(sequence, budget)
        if chunk is None:
            return None
        found, num_tokens, needed = chunk
        num_cached = len(found) * self.allocator.block_size
        self.allocator.claim(found)
        sequence.block_table = found
        sequence.num_computed = num_cached
        sequence.num_registered = len(found)
        self._give(sequence, needed)
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = min(num_cached, sequence.prompt_len)
        return Slice(sequence, num_tokens)

    def computed(self, piece: Slice) -> None:
        """Count a slice's tokens as computed, and make the blocks they filled findable."""
        sequence, size = piece.sequence, self.allocator.block_size
        sequence.num_computed += piece.num_tokens
        while (sequence.num_registered + 1) * size <= sequence.num_computed:
            start = sequence.num_registered * size
            tokens = tuple(sequence.token_ids[start : start + size])
            self.allocator.register(
                sequence.block_table, sequence.num_registered, tokens, sequence.cache_salt
            )
            sequence.num_registered += 1

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence; its blocks come back."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._give_back(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self.allocator.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = sequence.num_registered = 0
