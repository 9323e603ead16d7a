"""The arrays that a captured decode step lives on: at fixed addresses, written by few copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.ops.device import Device, Event

Array = Any

_INT32 = np.dtype(np.int32)
_WORDS_PER_ROW = 8  # besides the block table


@dataclass(frozen=True)
class DecodeArrays:
    """One row per sequence; the same views of host and of device memory, all int32."""

    token_ids: Array  # [num_rows], the token to compute; a step puts the drawn one in its place
    lengths: Array  # [num_rows], tokens in the cache before the step; -1 in empty rows
    sampling: Array  # [4, num_rows]: temperature, top_p, min_p (bits of float32), top_k
    seeds: Array  # [num_rows, 2]
    block_tables: Array  # [num_rows, width]


class DecodeState:
    """`host` is what the host knows, `on_device` what the steps see after it was sent.

    Copies go through pinned memory and are queued like all work. The layout depends on the
    number of rows and the width of the tables alone, so that a graph finds its arrays again.
    """

    def __init__(self, device: Device, max_rows: int, max_width: int) -> None:
        size = max_rows * (_WORDS_PER_ROW + max_width)
        self._device = device
        self._words = device.empty((size,), _INT32)
        self._host_words = np.zeros(size, np.int32)
        self._staged = [device.pinned((size,), _INT32) for _ in range(2)]
        self._sent: list[Event | None] = [None, None]
        self._received = [device.pinned((max_rows,), _INT32) for _ in range(2)]
        self._turn = 0
        self.lay_out(max_rows, max_width)

    def lay_out(self, num_rows: int, width: int) -> None:
        """All rows empty, with tables of `width` blocks."""
        self.num_rows = num_rows
        self._host_words[: num_rows * _WORDS_PER_ROW] = 0
        self.widen(width)
        self.host.lengths[:] = -1

    def widen(self, width: int) -> None:
        """Other tables, empty ones; the rows stay as they are."""
        self._end = self.num_rows * (_WORDS_PER_ROW + width)
        self._host_words[self.num_rows * _WORDS_PER_ROW : self._end] = 0
        self.host = _views(self._host_words, self.num_rows, width)
        self.on_device = _views(self._words, self.num_rows, width)

    def send(self) -> None:
        """Queue a copy of all that the host knows."""
        self._send(0)

    def send_all_but_tokens(self) -> None:
        """Queue a copy of everything else: the tokens are known on the device alone."""
        self._send(self.num_rows)

    def _send(self, begin: int) -> None:
        self._turn = 1 - self._turn
        sent = self._sent[self._turn]
        if sent is not None:
            sent.wait()  # two copies ago: done long since, unless something went wrong
        staged = self._staged[self._turn][begin : self._end]
        staged[:] = self._host_words[begin : self._end]
        self._device.copy_in(staged, self._words[begin : self._end])
        self._sent[self._turn] = self._device.record()

    def receive_tokens(self) -> np.ndarray:
        """Queue a copy of the drawn tokens; they are there at an event recorded after this.

        The array is used again two calls later.
        """
        self._received.reverse()
        received = self._received[0][: self.num_rows]
        self._device.copy_out(self.on_device.token_ids, received)
        return received


def _views(words: Array, num_rows: int, width: int) -> DecodeArrays:
    fields = words[: num_rows * _WORDS_PER_ROW].reshape(_WORDS_PER_ROW, num_rows)
    tables = words[num_rows * _WORDS_PER_ROW : num_rows * (_WORDS_PER_ROW + width)]
    return DecodeArrays(
        token_ids=fields[0],
        lengths=fields[1],
        sampling=fields[2:6],
        seeds=fields[6:8].reshape(num_rows, 2),
        block_tables=tables.reshape(num_rows, width),
    )
