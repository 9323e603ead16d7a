"""Weights, from the tensors of a file: every tensor accounted for, q/k/v and gate/up fused once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.tensor_file import FLOAT_DTYPES
from llama_cu.checkpoint.tensor_set import TensorSet, ignored, open_tensors
from llama_cu.errors import BackendUnavailable, ModelError
from llama_cu.gguf_quants import BlockType
from llama_cu.quantized import can_quantize
from llama_cu.weight_loading import WeightLoader

Array = Any
Progress = Callable[[int, int], None]
Shapes = dict[str, tuple[int, ...]]
BlockTypes = dict[str, tuple[BlockType, ...]]
Quantize = Callable[[Array, str], Array]
"""quantize(weight, field); ValueError for a weight that has no numbers of fewer bits."""

EMBED_TOKENS, NORM, LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One decoder layer. Matrices are [out_size, in_size]; None: the model has no such part."""

    input_layernorm: Array  # [hidden_size]
    qkv_proj: Array  # [(num_heads + 2 num_kv_heads) * head_dim, hidden_size]: q, then k, then v
    qkv_bias: Array | None
    q_norm: Array | None  # [head_dim]
    k_norm: Array | None  # [head_dim]
    o_proj: Array  # [hidden_size, num_heads * head_dim]
    o_bias: Array | None
    post_attention_layernorm: Array  # [hidden_size]
    gate_up_proj: Array  # [2 * intermediate_size, hidden_size]: gate, then up
    gate_up_bias: Array | None
    down_proj: Array  # [hidden_size, intermediate_size]
    down_bias: Array | None


# The checkpoint's tensors that make each field of LayerWeights, stacked along the first axis.
LAYER_PARTS = {
    "input_layernorm": ("input_layernorm.weight",),
    "qkv_proj": tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
    "qkv_bias": tuple(f"self_attn.{name}_proj.bias" for name in "qkv"),
    "q_norm": ("self_attn.q_norm.weight",),
    "k_norm": ("self_attn.k_norm.weight",),
    "o_proj": ("self_attn.o_proj.weight",),
    "o_bias": ("self_attn.o_proj.bias",),
    "post_attention_layernorm": ("post_attention_layernorm.weight",),
    "gate_up_proj": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "gate_up_bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "down_proj": ("mlp.down_proj.weight",),
    "down_bias": ("mlp.down_proj.bias",),
}


# Of these, gate and up are paired in every product.
MATRICES = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
PAIRED = "gate_up_proj"
HEAD, TABLE = "lm_head", "embed_tokens"  # of Weights


@dataclass(frozen=True, eq=False)
class Weights:
    """All weights of a model; `lm_head` is the same array as `embed_tokens` where they are tied."""

    embed_tokens: Array  # [vocab_size, hidden_size]
    layers: tuple[LayerWeights, ...]
    norm: Array  # [hidden_size]
    lm_head: Array  # [vocab_size, hidden_size]


def layer_shapes(config: ModelConfig) -> Shapes:
    """Shapes of one layer's tensors as they are in a checkpoint, without `model.layers.N.`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    shapes: Shapes = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = (config.head_dim,)
        shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    for name, out_size, in_size, has_bias in (
        ("self_attn.q_proj", q_size, hidden, config.qkv_bias),
        ("self_attn.k_proj", kv_size, hidden, config.qkv_bias),
        ("self_attn.v_proj", kv_size, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, q_size, config.o_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    ):
        shapes[f"{name}.weight"] = (out_size, in_size)
        if has_bias:
            shapes[f"{name}.bias"] = (out_size,)
    return shapes


def layer_matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices of LayerWeights."""
    shapes = layer_shapes(config)
    return {
        field: (
            sum(shapes[part][0] for part in LAYER_PARTS[field]),
            shapes[LAYER_PARTS[field][0]][1],
        )
        for field in MATRICES
    }


def weight_bytes(config: ModelConfig, dtype: np.dtype[Any]) -> int:
    """Bytes of all weights held in `dtype`; tied embeddings count once."""
    vocab = config.vocab_size * config.hidden_size
    layer = sum(math.prod(shape) for shape in layer_shapes(config).values())
    tables = vocab if config.tie_word_embeddings else 2 * vocab
    total = tables + config.hidden_size + config.num_hidden_layers * layer
    return total * dtype.itemsize


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
    total_bytes = weight_bytes(config, storage_dtype)
    done_bytes = 0
    packed_with: dict[str, tuple[str, ...]] = {}  # what one flag of a loader stands for

    def make(names: tuple[str, ...], field: str) -> Array:
        shape, blocks = tensors.stacked_shape(names), tensors.blocks(names)
        packed = keep_blocks and blocks is not None and keeps(field, [b.block_type for b in blocks])
        if loader is None and packed:
            weight = stack_packed(names)
        elif loader is None:
            weight = tensors.stack(names, dtype=dtype, storage_dtype=storage_dtype)
        elif blocks is not None and packed:
            packed_with[names[0]] = names
            return loader.keep_blocks(blocks, paired=field == PAIRED)
        elif blocks is not None:
            weight = loader.load_blocks(blocks)
        else:
            weight = loader.load(shape, tensors.pieces(names, loader.piece_bytes))
        if quantize is not None and field in (*MATRICES, HEAD) and can_quantize(shape):
            return fewer_bits(weight, field, names)
        return place(weight) if loader is None else weight

    def stack_packed(names: tuple[str, ...]) -> Array:
        return tensors.stack(names, dtype=dtype, storage_dtype=storage_dtype, packed=True)

    def fewer_bits(weight: Array, field: str, names: tuple[str, ...]) -> Array:
        assert quantize is not None
        try:
            return quantize(weight, field)
        except ValueError as error:
            what = f"{tensors.source}: tensor {', '.join(names)}"
            raise ModelError(f"{what}: cannot be quantized: {error}") from error

    def load(*names: str, field: str = "") -> Array:
        nonlocal done_bytes
        try:
            placed = make(names, field)
        except MemoryError as error:
            raise BackendUnavailable(
                f"{tensors.source}: no memory for the weights, {total_bytes} bytes as "
                f"{storage_dtype}, of which {done_bytes} found room"
            ) from error
        done_bytes += math.prod(placed.shape) * storage_dtype.itemsize
        if progress is not None:
            progress(done_bytes, total_bytes)
        return placed

    embed_tokens = load(tied_name or EMBED_TOKENS)
    layers = tuple(_load_layer(load, config, layer) for layer in range(config.num_hidden_layers))
    norm = load(NORM)
    lm_head = embed_tokens if tied_name else load(LM_HEAD, field=HEAD)
    if tied_name and quantize is not None and can_quantize(embed_tokens.shape):
        lm_head = fewer_bits(embed_tokens, HEAD, (tied_name,))
    elif tied_name and keep_blocks and tensors.blocks((tied_name,)) is not None:
        lm_head = make((tied_name,), HEAD)
    for name in loader.overflows() if loader is not None else ():
        # On the host again, where the value is found that did not fit.
        tensors.stack((name,), dtype=dtype, storage_dtype=storage_dtype)
        if name in packed_with:
            stack_packed(packed_with[name])
    return Weights(embed_tokens, layers, norm, lm_head)


def keeps(field: str, types: Sequence[BlockType]) -> bool:
    """Whether a field of LayerWeights or Weights can be held in its blocks.

    The table that rows are gathered from cannot, nor gate and up of two types.
    """
    same = len(set(types)) == 1
    return field in (*MATRICES, HEAD) and (same or field != PAIRED)


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


def _load_layer(load: Callable[..., Array], config: ModelConfig, layer: int) -> LayerWeights:
    present, prefix = layer_shapes(config), f"model.layers.{layer}."
    return LayerWeights(
        **{
            field: load(*(prefix + part for part in parts), field=field)
            if parts[0] in present
            else None
            for field, parts in LAYER_PARTS.items()
        }
    )


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
