"""Weights from a file to the device: through two pinned buffers, one read while the other goes up.

What the file holds in another dtype, or in blocks, is converted on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from llama_cu.ops.cuda_launch import ceil_div, launch
from llama_cu.ops.cuda_quantized import expand, repack, stacked
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device, Event
from llama_cu.weight_loading import BlockRows, WeightPiece

Array = Any

# One thread copies from the page cache at a fraction of what the bus takes.
_NUM_READERS = 4
_READ_BYTES = 4 << 20
_LANES = 8
_FLAGS = 1024
_INT32 = np.dtype(np.int32)


@dataclass
class _Buffer:
    host: np.ndarray  # pinned bytes
    raw: Array  # on the device, for what must be converted there
    sent: Event | None = None


class CudaLoader:
    """`WeightLoader` of a device; use it as a context. `chunk_bytes` is the size of a buffer."""

    def __init__(self, device: Device, dtype: np.dtype[Any], *, chunk_bytes: int) -> None:
        self.piece_bytes = chunk_bytes
        self._device = device
        self._dtype = dtype
        shape, byte = (chunk_bytes,), np.dtype(np.uint8)
        self._buffers = [
            _Buffer(device.pinned(shape, byte), device.empty(shape, byte)) for _ in range(2)
        ]
        self._readers = ThreadPoolExecutor(_NUM_READERS, "weights")
        self._converted: list[str] = []  # tensors; each has a flag
        self._flags: list[Array] = []

    def __enter__(self) -> CudaLoader:
        return self

    def __exit__(self, *reason: object) -> None:
        self._readers.shutdown(cancel_futures=True)
        self._device.synchronize()  # nothing reads the buffers any more

    def load(self, shape: tuple[int, ...], pieces: Iterable[WeightPiece]) -> Array:
        out = self._device.empty(shape, self._dtype)
        self._fill(out.reshape(-1), pieces)
        return out

    def load_blocks(self, tensors: Sequence[BlockRows]) -> Array:
        in_size = tensors[0].shape[1]
        out = self._device.empty((sum(t.shape[0] for t in tensors), in_size), self._dtype)
        first = 0
        for tensor in tensors:
            raw, flag = self._raw([tensor]), self._flag_of(tensor.name)
            block_type, rows = tensor.block_type, out[first : first + tensor.shape[0]]
            expand(self._device, raw, block_type=block_type, in_size=in_size, out=rows, flag=flag)
            first += tensor.shape[0]
        return out

    def keep_blocks(self, tensors: Sequence[BlockRows], *, paired: bool) -> Array:
        parts = []
        for block_type, group in groupby(tensors, lambda tensor: tensor.block_type):
            own = list(group)
            raw, flag = self._raw(own), self._flag_of(own[0].name)
            options = {"block_type": block_type, "in_size": own[0].shape[1], "paired": paired}
            parts.append(repack(self._device, raw, dtype=self._dtype, flag=flag, **options))
        return stacked(parts)

    def _raw(self, tensors: Sequence[BlockRows]) -> Array:
        """The bytes of tensors of one type and width: [rows, bytes of a row]."""
        rows = sum(tensor.shape[0] for tensor in tensors)
        raw = self._device.empty((rows, tensors[0].row_bytes), np.dtype(np.uint8))
        flat, first = raw.reshape(-1), 0
        for tensor in tensors:
            end = first + tensor.shape[0] * tensor.row_bytes
            self._fill(flat[first:end], tensor.pieces(self.piece_bytes))
            first = end
        return raw

    def _fill(self, flat: Array, pieces: Iterable[WeightPiece]) -> None:
        for piece in pieces:
            buffer = self._buffers.pop(0)
            self._buffers.append(buffer)
            if buffer.sent is not None:
                buffer.sent.wait()
            self._read(piece, buffer.host[: piece.num_bytes])
            self._send(piece, buffer, flat[piece.first : piece.first + piece.size])
            buffer.sent = self._device.record()

    def overflows(self) -> list[str]:
        flags = [flag for array in self._flags for flag in self._device.download(array)]
        return [name for name, flag in zip(self._converted, flags, strict=False) if flag]

    def _read(self, piece: WeightPiece, host: np.ndarray) -> None:
        starts = range(0, piece.num_bytes, _READ_BYTES)
        parts = [(host[start : start + _READ_BYTES], start) for start in starts]
        if len(parts) == 1:
            piece.read_into(*parts[0])
            return
        for _ in self._readers.map(lambda part: piece.read_into(*part), parts):
            pass  # raises what a reader raised

    def _send(self, piece: WeightPiece, buffer: _Buffer, target: Array) -> None:
        host = buffer.host[: piece.num_bytes].view(piece.dtype)
        if piece.dtype == target.dtype:
            self._device.copy_in(host, target)
            return
        raw = buffer.raw[: piece.num_bytes].view(piece.dtype)
        self._device.copy_in(host, raw)
        lanes = _LANES if piece.first % _LANES == 0 else 1
        types = (C_TYPES[piece.dtype.name], C_TYPES[self._dtype.name])
        kernel = self._device.kernel("convert", "convert", *types, lanes)
        grid = (ceil_div(piece.size, lanes * 256),)
        flag = self._flag_of(piece.name)
        launch(kernel, grid, 256, raw, target, flag, np.int64(piece.size))

    def _flag_of(self, name: str) -> Array:
        """The flag of a tensor, or of those packed with it; its pieces come one after the other."""
        if not self._converted or self._converted[-1] != name:
            if len(self._converted) % _FLAGS == 0:  # an upload may wait: not one for each
                self._flags.append(self._device.upload(np.zeros(_FLAGS, _INT32)))
            self._converted.append(name)
        index = (len(self._converted) - 1) % _FLAGS
        return self._flags[-1][index : index + 1]
