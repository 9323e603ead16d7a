"""Packs a step's description into one host buffer and uploads it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from llama_cu.batch import Batch, LogitEdits, LogitMasks, SamplingRows
from llama_cu.ops.base import Ops
from llama_cu.scheduler import Slice
from llama_cu.sequence import Sequence

Array = Any

# Nothing looks at the arrays where every row is greedy.
_ALL_GREEDY = SamplingRows(
    **dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "seeds", "positions"), np.empty(0, np.int32)
    ),
    all_greedy=True,
)

RopeRow = Callable[[int, int], int]
"""rope_row(position, prompt_len): the row of inv_freq that rotates a token."""


def build_batch(
    slices: Seq[Slice], ops: Ops, *, block_size: int, rope_row: RopeRow | None
) -> Batch:
    """The batch of these slices; logits are wanted of each slice that completes its sequence.

    `rope_row` None means one row for all. A
    slice with drafts is a sequence for each of its tokens, with the same blocks: K and V of all
    are there when the first attends, and each computes what it would in a step of its own.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    rope_rows: list[int] = []
    slots: list[int] = []
    cu_seqlens = [0]
    logit_rows: list[int] = []
    runs = list(chain.from_iterable(map(_runs, slices)))
    for run in runs:
        sequence, table, steps = run.sequence, run.sequence.block_table, run.positions
        token_ids += run.token_ids
        positions += steps
        if rope_row is not None:
            rope_rows += [rope_row(position, sequence.prompt_len) for position in steps]
        slots += [table[p // block_size] * block_size + p % block_size for p in steps]
        cu_seqlens.append(len(token_ids))
        if run.completes:
            logit_rows.append(len(token_ids) - 1)
    tables = tuple(tuple(run.sequence.block_table) for run in runs)
    width = max(map(len, tables))
    context_lens = tuple(run.positions.stop for run in runs)
    arrays = _upload_fields(
        ops,
        [
            token_ids,
            positions,
            rope_rows if rope_row is not None else [0] * len(token_ids),
            slots,
            cu_seqlens,
            list(context_lens),
            [block for table in tables for block in (*table, *(0,) * (width - len(table)))],
            logit_rows,
        ],
    )
    return Batch(
        token_ids=arrays[0],
        positions=arrays[1],
        rope_rows=arrays[2],
        slot_mapping=arrays[3],
        cu_seqlens_q=arrays[4],
        context_lens=arrays[5],
        block_tables=arrays[6].reshape(len(tables), width),
        logit_rows=arrays[7],
        query_lens=tuple(len(run.positions) for run in runs),
        host_context_lens=context_lens,
        host_block_tables=tables,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens that a step computes one behind the other."""

    sequence: Sequence
    token_ids: Seq[int]
    positions: range
    completes: bool


def _runs(piece: Slice) -> Iterator[_Run]:
    sequence, first = piece.sequence, piece.sequence.num_computed
    last = first + piece.num_tokens
    yield _Run(sequence, sequence.token_ids[first:last], range(first, last), piece.completes)
    for position, token_id in enumerate(piece.drafts, last):
        yield _Run(sequence, (token_id,), range(position, position + 1), True)


def _upload_fields(ops: Ops, fields: list[list[int]]) -> list[Array]:
    """Each list as an int32 array on the device, all of them views of one upload."""
    packed = ops.upload(np.array(list(chain.from_iterable(fields)), np.int32))
    arrays, start = [], 0
    for values in fields:
        arrays.append(packed[start : start + len(values)])
        start += len(values)
    return arrays


def build_sampling_rows(sequences: Seq[Sequence], positions: list[int], ops: Ops) -> SamplingRows:
    """The draws of tokens that will have these positions in these sequences."""
    if all(sequence.params.greedy for sequence in sequences):
        return _ALL_GREEDY
    columns = zip(*(sequence.sampling_words for sequence in sequences), strict=True)
    temperature, top_p, min_p, top_k, low, high = map(list, columns)
    seeds = [half for pair in zip(low, high, strict=True) for half in pair]
    arrays = _upload_fields(ops, [temperature, top_p, min_p, top_k, seeds, positions])
    return SamplingRows(
        temperature=arrays[0].view(np.float32),
        top_p=arrays[1].view(np.float32),
        min_p=arrays[2].view(np.float32),
        top_k=arrays[3],
        seeds=arrays[4].reshape(-1, 2),
        positions=arrays[5],
        all_greedy=False,
    )


def build_logit_edits(sequences: Seq[Sequence], ops: Ops) -> LogitEdits | None:
    """Penalties and biases of the next token's logits, or None where no sequence has any."""
    entries: list[tuple[int, int, int, int]] = []
    biases: list[float] = []
    for row, sequence in enumerate(sequences):
        banned = sequence.banned_ids()
        touched = set(sequence.params.logit_bias) | banned
        if sequence.params.counts_tokens:
            touched |= sequence.prompt_tokens | sequence.counts.keys()
        for token_id in sorted(touched):
            count = sequence.counts[token_id]
            seen = count > 0 or token_id in sequence.prompt_tokens
            entries.append((row, token_id, count, int(seen)))
            bias = sequence.params.logit_bias.get(token_id, 0.0)
            biases.append(-np.inf if token_id in banned else bias)
    if not entries:
        return None
    rows, token_ids, counts, seen_flags = (
        ops.upload(np.ascontiguousarray(column)) for column in np.array(entries, np.int32).T
    )
    penalties = [
        (p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
        for p in (sequence.params for sequence in sequences)
    ]
    return LogitEdits(
        rows=rows,
        token_ids=token_ids,
        counts=counts,
        seen=seen_flags,
        biases=ops.upload(np.array(biases, np.float32)),
        penalties=ops.upload(np.array(penalties, np.float32)),
    )


def build_logit_masks(sequences: Seq[Sequence], ops: Ops) -> LogitMasks | None:
    """What the sequences' constraints allow, or None where none has any.

    What is drawn for a sequence whose constraint gave up is of no use; `append` ends it.
    """
    if all(sequence.constraint is None for sequence in sequences):
        return None
    allowed = [sequence.allowed_words() for sequence in sequences]
    masks = [words for words in allowed if words is not None]
    if not masks:
        return None
    numbers = iter(range(len(masks)))
    mask_of = [-1 if words is None else next(numbers) for words in allowed]
    return LogitMasks(
        mask_of=ops.upload(np.array(mask_of, np.int32)), words=ops.upload(np.stack(masks))
    )
