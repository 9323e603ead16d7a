"""Requests in, tokens out, one step at a time. The only room that runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from llama_cu.batch import Batch
from llama_cu.block_rows import RowAllocator
from llama_cu.checkpoint.rope import rope_row
from llama_cu.decode_loop import DecodeLoop
from llama_cu.errors import RequestError
from llama_cu.kv_cache import BlockAllocator, KVCache
from llama_cu.model import Llama
from llama_cu.scheduler import Scheduler, Slice
from llama_cu.scoring import Scorer
from llama_cu.sequence import Sequence
from llama_cu.step_input import (
    build_batch,
    build_logit_edits,
    build_logit_masks,
    build_sampling_rows,
)

Array = Any

# Tokens of one step: enough to fill the device, few enough that a long prompt does not hold up
# the answers beside it for long.
_DEVICE_BATCH_TOKENS, _CPU_BATCH_TOKENS = 2048, 512
# Rows of a step that checks guesses. On a device the weights are read once up to here; on a CPU 8
# rows cost 2.3 times as much as one, and 6 or 10 cost 3.5 times (OpenBLAS, 135M parameters).
_MAX_CHECKED_ROWS = 8


class Engine:
    """Continuous batching over a paged KV cache.

    `submit` sequences, then call `step` until `has_work` is false. A sequence's tokens do not
    depend on what else is in the batch. Where the device can, steps of decode run ahead of the
    host (`DecodeLoop`), unless `enforce_eager`. `max_batch_tokens` bounds a step; None: 2048 on
    a device, 512 on a CPU.
    """

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        *,
        max_num_seqs: int,
        max_batch_tokens: int | None = None,
        enforce_eager: bool = False,
    ) -> None:
        self.model = model
        self.cache = cache
        device = model.ops.device
        if max_batch_tokens is None:
            max_batch_tokens = _CPU_BATCH_TOKENS if device is None else _DEVICE_BATCH_TOKENS
        # The kernels read blocks wherever they lie.
        allocator = RowAllocator if device is None else BlockAllocator
        self.scheduler = Scheduler(
            allocator(cache.num_blocks, cache.block_size),
            max_batch_tokens=max_batch_tokens,
            max_num_seqs=max_num_seqs,
        )
        self._scorer = Scorer(model)
        is_dynamic = model.config.rope.rope_type == "dynamic"
        self._rope_row = partial(rope_row, model.config) if is_dynamic else None
        self._loop: DecodeLoop | None = None
        if device is not None and not enforce_eager and model.ops.captures(model.config.head_dim):
            self._loop = DecodeLoop(model, cache, device=device, scheduler=self.scheduler)

    @property
    def capacity(self) -> int:
        """Tokens that the KV cache holds."""
        return self.cache.num_blocks * self.cache.block_size

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def check_fits(self, sequence: Sequence) -> None:
        """Raises RequestError when a sequence could never run, even alone."""
        sequence.max_len = min(sequence.max_len, self.capacity)
        if sequence.prompt_len >= sequence.max_len:
            raise RequestError(
                f"the prompt has {sequence.prompt_len} tokens, but at most "
                f"{sequence.max_len - 1} fit before one generated token"
            )

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises RequestError when it could never run, even alone."""
        self.check_fits(sequence)
        if self._rope_row is not None:
            sequence.cache_salt = self._rope_row(0, sequence.prompt_len)
        self.scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence where it stands; the others go on."""
        self._end(sequence, "abort")

    def _end(self, sequence: Sequence, reason: str) -> None:
        if not sequence.finished:
            sequence.finish(reason)
            self.scheduler.remove(sequence)

    def step(self) -> list[Sequence]:
        """Compute one batch; returns the sequences that got a token.

        Where it raises, the batch's sequences have ended with "error", and the others can go on.
        """
        loop = self._loop
        if loop is not None and loop.active:
            return self._run(loop.go_on, loop.sequences)
        slices = self._with_drafts(self.scheduler.schedule())
        return self._run(partial(self._compute, slices), [piece.sequence for piece in slices])

    def _run(self, work: Callable[[], list[Sequence]], sequences: list[Sequence]) -> list[Sequence]:
        """What work returns; where it raises, its sequences end."""
        try:
            return work()
        except BaseException:
            if self._loop is not None:
                self._loop.stop()
            for sequence in sequences:
                self._end(sequence, "error")
            raise

    def _compute(self, slices: list[Slice]) -> list[Sequence]:
        if not slices:
            return []
        loop = self._loop
        if loop is not None and loop.takes(slices):
            if loop.draws(slices):
                return loop.start(slices)
            logits = loop.logits(slices)
        else:
            logits = self._chunk_logits(slices)
        drawing = [piece for piece in slices if piece.completes]
        token_ids = iter(self._draw(logits, drawing) if drawing else [])
        for piece in slices:
            self.scheduler.computed(piece)
        for piece in drawing:
            self._take(piece, list(islice(token_ids, piece.num_draws)))
        return [piece.sequence for piece in drawing]

    def _take(self, piece: Slice, token_ids: list[int]) -> None:
        """Append what was drawn behind a slice's token and behind each draft that was right."""
        sequence, num_accepted = piece.sequence, 0
        for token_id, draft in zip_longest(token_ids, piece.drafts):
            sequence.append(token_id)
            if token_id != draft or sequence.finished:
                break
            num_accepted += 1
            self.scheduler.computed(Slice(sequence, 1))
        if piece.drafts and sequence.drafter is not None:
            sequence.drafter.judge(len(piece.drafts), num_accepted)
        if sequence.finished:
            self.scheduler.remove(sequence)

    def _with_drafts(self, slices: list[Slice]) -> list[Slice]:
        """Let those that guess add what they guess, as long as a step has few rows."""
        rows = sum(piece.num_tokens for piece in slices)
        found = []
        for piece in slices:
            drafts = self._drafts(piece, _MAX_CHECKED_ROWS - rows)
            rows += len(drafts)
            found.append(replace(piece, drafts=drafts) if drafts else piece)
        return found

    def _drafts(self, piece: Slice, most: int) -> tuple[int, ...]:
        sequence = piece.sequence
        newest_alone = piece.completes and piece.num_tokens == 1
        if sequence.drafter is None or sequence.needs_host or not newest_alone:
            return ()
        most = min(most, sequence.num_missing - 1)
        drafts = sequence.drafter.propose(sequence.token_ids, most) if most > 0 else []
        if self.scheduler.extend(sequence, len(sequence) + len(drafts)) is None:
            return ()
        return tuple(drafts)

    def _chunk_logits(self, slices: list[Slice]) -> Array:
        """Logits of the slices that complete their sequences."""
        hidden, batch = self._forward(slices)
        if any(piece.sequence.lacks_prompt_logprobs for piece in slices):
            self._scorer.record_prompts(hidden, slices)
        if not any(piece.completes for piece in slices):
            return None
        wants_all = len(batch.logit_rows) == len(hidden)
        return self.model.logits(hidden, None if wants_all else batch.logit_rows)

    def _forward(self, slices: list[Slice]) -> tuple[Array, Batch]:
        batch = build_batch(
            slices,
            self.model.ops,
            block_size=self.cache.block_size,
            rope_row=self._rope_row,
        )
        return self.model.forward(batch, self.cache), batch

    def _draw(self, logits: Array, slices: list[Slice]) -> list[int]:
        """A token behind each slice, and behind each of its drafts."""
        ops = self.model.ops
        drawn_at = [(p.sequence, len(p.sequence) + i) for p in slices for i in range(p.num_draws)]
        sequences, positions = [s for s, _ in drawn_at], [position for _, position in drawn_at]
        edited = logits
        if any(sequence.params.edits_logits for sequence in sequences):
            edits = build_logit_edits(sequences, ops)
            edited = logits if edits is None else ops.edit_logits(logits, edits)
        # The device is still at work on the logits while the host makes the masks.
        masks = build_logit_masks(sequences, ops)
        if masks is not None:
            edited = ops.mask_logits(edited, masks)
        token_ids = ops.sample(edited, build_sampling_rows(sequences, positions, ops))
        if any(sequence.params.logprobs is not None for sequence in sequences):
            counts = [sequence.params.logprobs or 0 for sequence in sequences]
            entries = self._scorer.entries(logits, token_ids, counts)
            for sequence, entry in zip(sequences, entries, strict=True):
                if sequence.params.logprobs is not None:
                    sequence.logprobs.append(entry)
        drawn: list[int] = ops.download(token_ids).tolist()
        return drawn

    def score(self, sequence: Sequence) -> np.ndarray:
        """Logits at every position of a sequence: float32 [num_tokens, vocab_size].

        It is computed alone, in chunks, and leaves nothing in the cache. Raises RequestError when
        it does not fit beside what is running.
        """
        ops = self.model.ops
        chunks = [
            ops.download(self.model.logits(hidden, None)) for hidden, _ in self._alone(sequence)
        ]
        return np.concatenate(chunks)

    def logprobs(self, sequence: Sequence, first: int = 1) -> np.ndarray:
        """Log softmax of each token from number `first` on, given those before it.

        float32 [num_tokens - first], natural logarithms; computed as by `score`.
        """
        found = [np.empty(0, np.float32)]
        for hidden, positions in self._alone(sequence):
            begin = max(positions.start, first - 1)
            end = min(positions.stop, len(sequence) - 1)
            if begin < end:
                following = sequence.token_ids[begin + 1 : end + 1]
                found.append(self._scorer.logprobs(hidden, begin - positions.start, following))
        return np.concatenate(found)

    def _alone(self, sequence: Sequence) -> Iterator[tuple[Array, range]]:
        """`model.forward` of a sequence's chunks, and the positions of each."""
        allocator = self.scheduler.allocator
        needed = -(-len(sequence) // allocator.block_size)
        if needed > allocator.num_free:
            raise RequestError(
                f"{len(sequence)} tokens need {needed} KV-cache blocks, "
                f"but {allocator.num_free} are free"
            )
        sequence.block_table = []
        allocator.extend(sequence.block_table, needed, needed)
        chunk_size = min(self._scorer.max_rows, self.scheduler.max_batch_tokens)
        try:
            for start in range(0, len(sequence), chunk_size):
                sequence.num_computed = start
                piece = Slice(sequence, min(len(sequence) - start, chunk_size))
                yield self._forward([piece])[0], range(start, start + piece.num_tokens)
        finally:
            allocator.release(sequence.block_table)
