"""Weights, from the tensors of a file: every tensor accounted for, q/k/v and gate/up fused once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.tensor_file import FLOAT_DTYPES
from llama_cu.checkpoint.tensor_set import TensorSet, ignored, open_tensors
from llama_cu.checkpoint.weights import (
    EMBED_TOKENS,
    HEAD,
    LAYER_PARTS,
    LM_HEAD,
    MATRICES,
    NORM,
    PAIRED,
    TABLE,
    BlockTypes,
    LayerWeights,
    Shapes,
    Weights,
    keeps,
    layer_shapes,
    weight_bytes,
)
from llama_cu.errors import BackendUnavailable, ModelError
from llama_cu.quantized import can_quantize
from llama_cu.weight_loading import WeightLoader

Array = Any
Progress = Callable[[int, int], None]
Quantize = Callable[[Array, str], Array]
"""quantize(weight, field); ValueError for a weight that has no numbers of fewer bits."""


def load_weights(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: np.dtype[Any],
    storage_dtype: np.dtype[Any],
    place: Callable[[Array], Array],
    loader: WeightLoader | None = None,
    quantize: Quantize | None = None,
    keep_blocks: bool = False,
    progress: Progress | None = None,
) -> Weights:
    """All weights of a folder or a GGUF file, rounded to `dtype` and held in `storage_dtype`.

    A loader takes them where they shall stay by itself; without one they are made on the host,
    and `place` takes each finished array. `quantize` takes those matrices of the layers, and the LM
    head, whose rows are whole groups instead, and what it returns is held; `keep_blocks` has a
    loader hold those that a GGUF file has in blocks (`keeps` tells which) in as many bits.
    `progress` gets bytes done and bytes in all, as they would be without either. ModelError names
    file, tensor, expected and found; BackendUnavailable says how much memory is missing.
    """
    tensors = open_tensors(folder)
    tied_name = _check_tensors(tensors, config)
    reader = _Reader(
        tensors,
        dtype=dtype,
        storage_dtype=storage_dtype,
        place=place,
        loader=loader,
        quantize=quantize,
        keep_blocks=keep_blocks,
        progress=progress,
        total_bytes=weight_bytes(config, storage_dtype),
    )
    embed_tokens = reader.load(tied_name or EMBED_TOKENS)
    layers = tuple(reader.load_layer(config, layer) for layer in range(config.num_hidden_layers))
    norm = reader.load(NORM)
    if tied_name:
        lm_head = reader.tied_head(tied_name, embed_tokens)
    else:
        lm_head = reader.load(LM_HEAD, field=HEAD)
    reader.check_overflows()
    return Weights(embed_tokens, layers, norm, lm_head)


@dataclass(kw_only=True)
class _Reader:
    """Makes one weight after the other, and counts their bytes."""

    tensors: TensorSet = field(kw_only=False)
    dtype: np.dtype[Any]
    storage_dtype: np.dtype[Any]
    place: Callable[[Array], Array]
    loader: WeightLoader | None
    quantize: Quantize | None
    keep_blocks: bool
    progress: Progress | None
    total_bytes: int
    done_bytes: int = 0
    # What one flag of a loader stands for
    packed_with: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def load_layer(self, config: ModelConfig, layer: int) -> LayerWeights:
        present, prefix = layer_shapes(config), f"model.layers.{layer}."
        return LayerWeights(
            **{
                name: self.load(*(prefix + part for part in parts), field=name)
                if parts[0] in present
                else None
                for name, parts in LAYER_PARTS.items()
            }
        )

    def load(self, *names: str, field: str = "") -> Array:
        try:
            placed = self._make(names, field)
        except MemoryError as error:
            raise BackendUnavailable(
                f"{self.tensors.source}: no memory for the weights, {self.total_bytes} bytes as "
                f"{self.storage_dtype}, of which {self.done_bytes} found room"
            ) from error
        self.done_bytes += math.prod(placed.shape) * self.storage_dtype.itemsize
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)
        return placed

    def tied_head(self, name: str, table: Array) -> Array:
        """The LM head of a model that has only a table: the same array, or one of fewer bits."""
        if self.quantize is not None and can_quantize(table.shape):
            return self._fewer_bits(table, HEAD, (name,))
        if self.keep_blocks and self.tensors.blocks((name,)) is not None:
            return self._make((name,), HEAD)
        return table

    def check_overflows(self) -> None:
        """Find what a loader met that did not fit again on the host, which names it."""
        for name in self.loader.overflows() if self.loader is not None else ():
            self._stack((name,))
            if name in self.packed_with:
                self._stack(self.packed_with[name], packed=True)

    def _make(self, names: tuple[str, ...], field: str) -> Array:
        loader, blocks = self.loader, self.tensors.blocks(names)
        shape = self.tensors.stacked_shape(names)
        packed = (
            self.keep_blocks
            and blocks is not None
            and keeps(field, [own.block_type for own in blocks])
        )
        if loader is None:
            weight = self._stack(names, packed=packed)
        elif blocks is not None and packed:
            self.packed_with[names[0]] = names
            return loader.keep_blocks(blocks, paired=field == PAIRED)
        elif blocks is not None:
            weight = loader.load_blocks(blocks)
        else:
            pieces = self.tensors.pieces(names, loader.piece_bytes)
            weight = loader.load(shape, pieces)
        if self.quantize is not None and field in (*MATRICES, HEAD) and can_quantize(shape):
            return self._fewer_bits(weight, field, names)
        return self.place(weight) if loader is None else weight

    def _stack(self, names: tuple[str, ...], *, packed: bool = False) -> Array:
        dtypes = {"dtype": self.dtype, "storage_dtype": self.storage_dtype}
        return self.tensors.stack(names, **dtypes, packed=packed)

    def _fewer_bits(self, weight: Array, field: str, names: tuple[str, ...]) -> Array:
        assert self.quantize is not None
        try:
            return self.quantize(weight, field)
        except ValueError as error:
            what = f"{self.tensors.source}: tensor {', '.join(names)}"
            raise ModelError(f"{what}: cannot be quantized: {error}") from error


def block_types(folder: str | Path, config: ModelConfig) -> list[BlockTypes]:
    """What a GGUF file's matrices are in, by field: of each kind of layer, with table and LM head.

    Fields that are not in blocks are left out; for a folder nothing is found.
    """
    tensors = open_tensors(folder)

    def found(fields: dict[str, tuple[str, ...]]) -> BlockTypes:
        blocks = {field: tensors.blocks(names) for field, names in fields.items()}
        return {field: tuple(b.block_type for b in own) for field, own in blocks.items() if own}

    tied_name = _check_tensors(tensors, config)
    table = tied_name or EMBED_TOKENS
    tables = found({TABLE: (table,), HEAD: (tied_name or LM_HEAD,)})
    kinds: dict[tuple[Any, ...], BlockTypes] = {}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        names = {f: tuple(prefix + part for part in LAYER_PARTS[f]) for f in MATRICES}
        own = found(names)
        kinds.setdefault(tuple(own.items()), {**own, **tables})
    return [kind for kind in kinds.values() if kind]


def _check_tensors(tensors: TensorSet, config: ModelConfig) -> str | None:
    """Compare names, shapes and dtypes with the model; the tied table's name where it is tied."""
    expected: Shapes = {NORM: (config.hidden_size,)}
    for i in range(config.num_hidden_layers):
        expected |= {f"model.layers.{i}.{n}": shape for n, shape in layer_shapes(config).items()}
    table = (config.vocab_size, config.hidden_size)
    if config.tie_word_embeddings:
        present = [name for name in (EMBED_TOKENS, LM_HEAD) if name in tensors.files]
        expected |= dict.fromkeys(present or [EMBED_TOKENS], table)
    else:
        expected |= {EMBED_TOKENS: table, LM_HEAD: table}
    problems = list(_problems(tensors, expected))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ModelError(problems[0] + more)
    if not config.tie_word_embeddings:
        return None
    if len(present) == 2:
        _check_tied(tensors)
    return present[0]


def _problems(tensors: TensorSet, expected: Shapes) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in tensors.files:
            yield f"{tensors.source}: tensor {name}: expected shape {list(shape)}, not found"
            continue
        entry, path = tensors.entry(name), tensors.files[name].path
        if entry.shape != shape:
            yield f"{path}: tensor {name}: expected shape {list(shape)}, found {list(entry.shape)}"
        elif entry.dtype not in FLOAT_DTYPES:
            known = ", ".join(FLOAT_DTYPES)
            yield f"{path}: tensor {name}: expected dtype {known}, found {entry.dtype}"
    for name, file in tensors.files.items():
        if name not in expected and not ignored(name):
            found = f"{file.entries[name].dtype} {list(file.entries[name].shape)}"
            yield f"{file.path}: tensor {name}: not a part of this model, found {found}"


def _check_tied(tensors: TensorSet) -> None:
    # transformers 4 ties them all the same and 5 does not: no reading of it is safe.
    if not tensors.same(EMBED_TOKENS, LM_HEAD):
        raise ModelError(
            f"{tensors.source}: tensor {LM_HEAD}: expected the same values as {EMBED_TOKENS} "
            f"because tie_word_embeddings is true, found others"
        )
