"""Decode without the host in the way: captured steps, each queued before the last one is read.

What a step needs lies in device memory at fixed addresses. Drawn tokens stay there for the next
step, which counts the positions up by itself; the host reads them one step behind and sends only
what it alone decides: new blocks, and rows that ended. A token that was drawn for a sequence
behind its end is dropped, and nothing else remembers it.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.batch import Batch, SamplingRows
from llama_cu.decode_state import DecodeState
from llama_cu.kv_cache import KVCache
from llama_cu.model import Llama
from llama_cu.ops.device import Device, Event, Graph
from llama_cu.scheduler import Scheduler, Slice
from llama_cu.sequence import Sequence

Array = Any

# Rows that there is room for, however few sequences there may be: a draft is a row.
_LEAST_ROWS = 8
# Launches are shaped for so many tokens of context, times a power of two.
_LEAST_CONTEXT = 256


@dataclass(frozen=True)
class _Shape:
    """What the launches of a step depend on: there is a graph for each."""

    num_rows: int
    context: int  # no sequence is longer after the step
    draw: str  # "greedy", "sampled", or "none" where the host still changes the logits


@dataclass(frozen=True)
class _Step:
    """A step that was queued and not read yet."""

    rows: tuple[tuple[int, Sequence], ...]
    token_ids: np.ndarray  # pinned, one per row of the step's shape
    event: Event


class DecodeLoop:
    """Steps of decode for sequences that stay the same from step to step.

    The engine hands over scheduled slices by `start` and calls `go_on` while the loop is `active`.
    When the sequences must change (one waits to be admitted, blocks run out, half of the rows are
    empty) it reads what it has queued, and stops. With `use_graphs` False the launches are made
    one by one.
    """

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        *,
        device: Device,
        scheduler: Scheduler,
        use_graphs: bool = True,
    ) -> None:
        self._model = model
        self._cache = cache
        self._device = device
        self._scheduler = scheduler
        self._use_graphs = use_graphs
        self._max_rows = max(batch_bucket(scheduler.max_num_seqs), _LEAST_ROWS)
        longest = min(model.max_model_len, cache.num_blocks * cache.block_size)
        self._max_width = self._table_width(context_bucket(longest))
        rope, config = model.config.rope, model.config
        self._rope_from = config.max_position_embeddings if rope.rope_type == "dynamic" else None
        self._cu_seqlens = model.ops.upload(np.arange(self._max_rows + 1, dtype=np.int32))
        self._state: DecodeState | None = None
        self._shape = _Shape(0, 0, "none")
        self._rows: list[Sequence | None] = []
        self._in_flight: deque[_Step] = deque()
        self._graphs: dict[_Shape, tuple[Graph, Array | None]] = {}
        self._ran: set[_Shape] = set()
        self._too_large: set[_Shape] = set()  # for a graph

    @property
    def active(self) -> bool:
        """Whether a step is queued whose tokens nobody has read."""
        return bool(self._in_flight)

    @property
    def sequences(self) -> list[Sequence]:
        """Those in the loop."""
        return [sequence for sequence in self._rows if sequence is not None]

    def takes(self, slices: Seq[Slice]) -> bool:
        """Whether the loop can compute these: the last token of each sequence."""
        rows = sum(piece.num_draws for piece in slices)
        return batch_bucket(rows) <= self._max_rows and all(
            piece.num_tokens == 1 and piece.completes and not piece.sequence.lacks_prompt_logprobs
            for piece in slices
        )

    def draws(self, slices: Seq[Slice]) -> bool:
        """Whether it can draw their tokens too, without the host: nothing depends on the last."""
        sequences = [piece.sequence for piece in slices]
        return not any(s.needs_host or s.drafter is not None for s in sequences)

    def logits(self, slices: Seq[Slice]) -> Array:
        """Compute one step alone: float32 logits [num_rows, vocab_size], until the next one.

        A slice has a row, and behind it one for each of its drafts.
        """
        self._place(slices, draw="none")
        num_rows, self._rows = len(self._rows), []
        logits = self._launch()
        assert logits is not None
        return logits[:num_rows]

    def start(self, slices: Seq[Slice]) -> list[Sequence]:
        """Queue a step for each of these, and go on."""
        greedy = all(piece.sequence.params.greedy for piece in slices)
        self._place(slices, draw="greedy" if greedy else "sampled")
        self._queue_step()
        return self.go_on()

    def go_on(self) -> list[Sequence]:
        """Queue the next step if there may be one, then read the oldest.

        Returns the sequences that got a token.
        """
        if self._prepare_next():
            self._queue_step()
        return self._read_oldest()

    def stop(self) -> None:
        """Forget all sequences and what is queued for them."""
        self._in_flight.clear()
        self._rows = []

    def _place(self, slices: Seq[Slice], *, draw: str) -> None:
        """Lay the sequences out in rows, and send all that is known of them."""
        tokens = [
            (piece.sequence, ahead, token_id)
            for piece in slices
            for ahead, token_id in enumerate((piece.sequence.token_ids[-1], *piece.drafts))
        ]
        longest = max(len(sequence) + ahead for sequence, ahead, _ in tokens)
        self._shape = _Shape(batch_bucket(len(tokens)), context_bucket(longest), draw)
        self._rows = [sequence for sequence, _, _ in tokens]
        if self._state is None:
            self._state = DecodeState(self._device, self._max_rows, self._max_width)
        state = self._state
        state.lay_out(self._shape.num_rows, self._table_width(self._shape.context))
        for row, (sequence, ahead, token_id) in enumerate(tokens):
            self._fill(row, sequence, ahead=ahead)
            words = sequence.sampling_words
            state.host.token_ids[row] = token_id
            state.host.sampling[:, row], state.host.seeds[row] = words[:4], words[4:]
        state.send()

    def _fill(
        self, row: int, sequence: Sequence, *, ahead: int, num_new: int | None = None
    ) -> None:
        """What the host knows of a row when so many steps of it are queued.

        Of its blocks the last `num_new`, where the others are there already; None: all.
        """
        assert self._state is not None
        host, table = self._state.host, sequence.block_table
        host.lengths[row] = len(sequence) - 1 + ahead
        first = 0 if num_new is None else len(table) - num_new
        host.block_tables[row, first : len(table)] = table[first:]

    def _prepare_next(self) -> bool:
        """Make ready for a step behind the one in flight; False when the sequences must change."""
        state, ahead = self._state, len(self._in_flight)
        if state is None or self._scheduler.may_admit:
            return False
        ended = [
            row
            for row, sequence in enumerate(self._rows)
            if sequence is not None and (sequence.finished or sequence.ends_within(ahead))
        ]
        for row in ended:
            self._rows[row] = None
        live = self.sequences
        if not live or batch_bucket(len(live)) < self._shape.num_rows:
            return False
        grown = [self._scheduler.extend(sequence, len(sequence) + ahead) for sequence in live]
        if None in grown:
            return False
        context = context_bucket(max(map(len, live)) + ahead)
        widened = context != self._shape.context
        if widened:
            self._shape = _Shape(self._shape.num_rows, context, self._shape.draw)
            state.widen(self._table_width(context))
        if ended or widened or any(grown):
            state.host.lengths[:] = -1
            added = iter(grown)
            for row, sequence in enumerate(self._rows):
                if sequence is not None:
                    num_new = None if widened else next(added)
                    self._fill(row, sequence, ahead=ahead, num_new=num_new)
            state.send_all_but_tokens()
        return True

    def _queue_step(self) -> None:
        state = self._state
        assert state is not None
        self._launch()
        token_ids = state.receive_tokens()
        rows = tuple((row, seq) for row, seq in enumerate(self._rows) if seq is not None)
        self._in_flight.append(_Step(rows, token_ids, self._device.record()))

    def _read_oldest(self) -> list[Sequence]:
        step = self._in_flight.popleft()
        step.event.wait()
        token_ids = step.token_ids.tolist()
        advanced = []
        for row, sequence in step.rows:
            if sequence.finished:  # a step too many was queued for it
                continue
            self._scheduler.computed(Slice(sequence, 1))
            sequence.append(token_ids[row])
            if sequence.finished:
                self._scheduler.remove(sequence)
            advanced.append(sequence)
        return advanced

    def _launch(self) -> Array | None:
        """Queue the step's launches, and return the logits where the host asks for them.

        The first step of a shape is not captured: it compiles.
        """
        shape = self._shape
        if shape in self._graphs:
            graph, logits = self._graphs[shape]
            graph.launch()
            return logits
        if not self._use_graphs or shape in self._too_large or shape not in self._ran:
            self._ran.add(shape)
            return self._compute()
        return self._capture(shape)

    def _capture(self, shape: _Shape) -> Array | None:
        made: list[Array] = []
        try:
            graph = self._device.capture(lambda: made.append(self._compute()))
        except Exception as error:
            # Which errors a driver has here is not for us to list; the step itself is still sound.
            which = "decode steps"
            if isinstance(error, MemoryError):
                which += f" of {shape.num_rows} rows and {shape.context} tokens"
                self._too_large.add(shape)
            else:
                self._use_graphs = False
            message = f"{which} are launched one by one, a CUDA graph failed: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            return self._compute()
        # What nobody asks for goes back, for the graphs of other shapes.
        logits = made[-1] if shape.draw == "none" else None
        self._graphs[shape] = graph, logits
        graph.launch()
        return logits

    def _compute(self) -> Array:
        """One step: its launches read and write nothing but what the loop keeps in place."""
        state, shape, ops = self._state, self._shape, self._model.ops
        assert state is not None
        arrays = state.on_device
        rows = ops.begin_decode(
            arrays.lengths, arrays.block_tables, self._cache.block_size, self._rope_from
        )
        batch = Batch(
            token_ids=arrays.token_ids,
            positions=rows.positions,
            rope_rows=rows.rope_rows,
            slot_mapping=rows.slot_mapping,
            cu_seqlens_q=self._cu_seqlens[: shape.num_rows + 1],
            context_lens=rows.context_lens,
            block_tables=arrays.block_tables,
            logit_rows=None,
            query_lens=(1,) * shape.num_rows,
            host_context_lens=(shape.context,) * shape.num_rows,
            host_block_tables=(),
        )
        logits = self._model.logits(self._model.forward(batch, self._cache), None)
        if shape.draw != "none":
            temperature, top_p, min_p = arrays.sampling[:3].view(np.float32)
            draws = SamplingRows(
                temperature=temperature,
                top_p=top_p,
                min_p=min_p,
                top_k=arrays.sampling[3],
                seeds=arrays.seeds,
                positions=rows.context_lens,
                all_greedy=shape.draw == "greedy",
            )
            ops.sample(logits, draws, out=arrays.token_ids)
        return logits

    def _table_width(self, context: int) -> int:
        return -(-context // self._cache.block_size)


def batch_bucket(num_rows: int) -> int:
    """The rows of a captured step that serves so many sequences: 1, 2, 4, then multiples of 8."""
    return next((rows for rows in (1, 2, 4) if rows >= num_rows), -(-num_rows // 8) * 8)


def context_bucket(num_tokens: int) -> int:
    """The context that the launches of a captured step are shaped for."""
    context = _LEAST_CONTEXT
    while context < num_tokens:
        context *= 2
    return context
