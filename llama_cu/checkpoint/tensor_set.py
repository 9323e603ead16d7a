"""All tensors of a checkpoint: of a GGUF file, or of a folder's one file or indexed shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llama_cu.checkpoint.fields import read_json_object
from llama_cu.checkpoint.gguf import GgufFile, is_gguf
from llama_cu.checkpoint.gguf_tensors import GgufTensors
from llama_cu.checkpoint.tensor_file import FLOAT_DTYPES, PIECE_BYTES, TensorEntry, TensorFile
from llama_cu.errors import ModelError
from llama_cu.weight_loading import BlockRows, WeightPiece

Array = Any

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensors(Protocol):
    """A file of tensors that have the dtype, the shape and the bytes that `entries` says."""

    path: Path
    entries: dict[str, TensorEntry]

    def read_into(self, name: str, out: np.ndarray, offset: int, *, start: int) -> None: ...

    def copy(self, name: str, out: Array, *, dtype: np.dtype[Any]) -> None: ...


@dataclass(frozen=True)
class TensorSet:
    """The file of every tensor, and the path that lists them: the one file, or the index."""

    source: Path
    files: Mapping[str, Tensors]

    def entry(self, name: str) -> TensorEntry:
        return self.files[name].entries[name]

    def pieces(self, names: tuple[str, ...], piece_bytes: int) -> Iterator[WeightPiece]:
        """Tensors one after the other along the first axis, piece by piece as files hold them."""
        first = 0
        for name in names:
            entry = self.entry(name)
            dtype, read = FLOAT_DTYPES[entry.dtype], self.files[name].read_into
            for start in range(0, entry.num_bytes, piece_bytes):
                size = min(piece_bytes, entry.num_bytes - start) // dtype.itemsize
                yield WeightPiece(name, dtype, first, size, partial(read, name, start=start))
                first += size

    def blocks(self, names: tuple[str, ...]) -> list[BlockRows] | None:
        """The tensors, if each is a matrix in blocks of a GGUF file."""
        found = [
            file.block_rows(name) if isinstance(file := self.files[name], GgufTensors) else None
            for name in names
        ]
        return None if None in found else [rows for rows in found if rows is not None]

    def stacked_shape(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Of tensors one after the other along the first axis."""
        shapes = [self.entry(name).shape for name in names]
        return sum(shape[0] for shape in shapes), *shapes[0][1:]

    def stack(
        self,
        names: tuple[str, ...],
        *,
        dtype: np.dtype[Any],
        storage_dtype: np.dtype[Any],
        packed: bool = False,
    ) -> Array:
        """Tensors one after the other along the first axis, rounded to `dtype`.

        `packed`: of blocks, what a device that keeps them has.
        """
        stacked = np.empty(self.stacked_shape(names), storage_dtype)
        first = 0
        for name in names:
            rows = self.entry(name).shape[0]
            file, out = self.files[name], stacked[first : first + rows]
            if isinstance(file, GgufTensors):
                file.copy(name, out, dtype=dtype, packed=packed)
            else:
                file.copy(name, out, dtype=dtype)
            first += rows
        return stacked

    def same(self, name: str, other: str) -> bool:
        """Whether two tensors hold the same dtype, shape and bits."""
        mine, theirs = self.entry(name), self.entry(other)
        if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            return False
        pairs = zip(self._bytes(name), self._bytes(other), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)

    def _bytes(self, name: str) -> Iterator[Array]:
        for piece in self.pieces((name,), PIECE_BYTES):
            out = np.empty(piece.num_bytes, np.uint8)
            piece.read_into(out, 0)
            yield out


def has_tensors(folder: Path) -> bool:
    """Whether a folder has weights beside its config.json."""
    return (folder / SINGLE).exists() or (folder / INDEX).exists()


def open_tensors(folder: str | Path) -> TensorSet:
    """The tensors of a folder or a GGUF file.

    ModelError for a damaged file, or an index that does not fit.
    """
    if is_gguf(Path(folder)):
        gguf = GgufTensors(Path(folder))
        return TensorSet(gguf.path, dict.fromkeys(gguf.entries, gguf))
    single, index = Path(folder) / SINGLE, Path(folder) / INDEX
    if single.exists():
        file = TensorFile(single)
        return TensorSet(single, dict.fromkeys(file.entries, file))
    if not index.exists():
        raise ModelError(f"{folder}: expected {SINGLE} or {INDEX}, found {_other_weights(folder)}")
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{index}: weight_map must be a JSON object, got {weight_map!r}")
    shards = {str(name): _open_shard(index, name) for name in weight_map.values()}
    return TensorSet(index, _match(weight_map, shards))


def _other_weights(folder: str | Path) -> str:
    """What a folder without safetensors has instead, in words."""
    patterns = ("*.safetensors*", "*.bin", "*.pth", "*.pt", "*.gguf")
    names = sorted(path.name for pattern in patterns for path in Path(folder).glob(pattern))
    if not names:
        return "neither"
    if names[0] in (SINGLE, INDEX):
        return f"{names[0]}, a link to nothing"
    if names[0].endswith(".gguf"):
        return f"{names[0]}, which is not read as part of a folder: give its own path"
    return f"{names[0]}, which is not read"


def stored_dtype(folder: str | Path) -> str | None:
    """The dtype of the first float tensor of a folder, None where there are no weights."""
    if not any((Path(folder) / name).exists() for name in (SINGLE, INDEX)):
        return None
    tensors = open_tensors(folder)
    dtypes = (tensors.entry(name).dtype for name in tensors.files)
    return next((FLOAT_DTYPES[dtype].name for dtype in dtypes if dtype in FLOAT_DTYPES), None)


def stored_bytes(path: str | Path) -> dict[str, int]:
    """Bytes of a checkpoint's tensors by the type that they are stored as, most bytes first."""
    found: Counter[str] = Counter()
    if is_gguf(Path(path)):
        for tensor in GgufFile(path).tensors.values():
            found[tensor.block_type.name] += tensor.num_bytes
    else:
        tensors = open_tensors(path)
        for entry in map(tensors.entry, tensors.files):
            found[entry.dtype] += entry.num_bytes
    return dict(found.most_common())


def ignored(name: str) -> bool:
    """Whether a tensor, found in old checkpoints, only repeats what config.json says."""
    return name.endswith("rotary_emb.inv_freq")


def _open_shard(index: Path, name: Any) -> TensorFile:
    # A plain name: an index must not lead out of its folder.
    if not isinstance(name, str) or Path(name).name != name:
        raise ModelError(f"{index}: weight_map must name files in its folder, got {name!r}")
    path = index.parent / name
    if not path.exists():
        raise ModelError(f"{path}: expected by {index.name}, not found")
    return TensorFile(path)


def _match(weight_map: dict[str, str], shards: dict[str, TensorFile]) -> dict[str, TensorFile]:
    """The file of each tensor; index and shards must name the same tensors."""
    files = {name: shards[shard] for name, shard in weight_map.items()}
    for name, file in files.items():
        if name not in file.entries:
            raise ModelError(f"{file.path}: tensor {name}: expected by {INDEX}, not found")
    for file in shards.values():
        for name in file.entries:
            if files.get(name) is not file and not ignored(name):
                raise ModelError(f"{file.path}: tensor {name}: found, but {INDEX} does not say so")
    return files
