"""A checkpoint as a GGUF file: metadata, tensors by GGUF's names, matrices in fewer bits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.gguf_tensors import LAYER_NAMES, NAMES, PERMUTED, ROPE_FACTORS
from llama_cu.checkpoint.gguf_tokenizer_export import tokenizer_metadata
from llama_cu.checkpoint.gguf_writer import OutTensor, write_gguf
from llama_cu.checkpoint.rope import inv_freq_table
from llama_cu.checkpoint.tensor_set import TensorSet, ignored, open_tensors
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.convert import BFLOAT16, FLOAT16, FLOAT32
from llama_cu.errors import ModelError
from llama_cu.gguf_quants import BLOCK_TYPES, BlockType
from llama_cu.quantized import INT4, INT8, Quants, Scheme, can_quantize, quantize

Array = Any
Progress = Callable[[int, int], None]

_SCHEMES = {"Q8_0": INT8, "Q4_1": INT4}
_TYPES = {block_type.name: block_type for block_type in BLOCK_TYPES}
_OUT_NAMES = {ours: theirs for theirs, ours in NAMES.items()}
_OUT_LAYER_NAMES = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def export_gguf(
    source: str | Path, path: Path, scheme: Scheme, *, progress: Progress | None = None
) -> None:
    """Write a checkpoint as GGUF, its matrices in the numbers of a scheme.

    int4 becomes Q4_1 and int8 Q8_0, with the values that `quantized.dequantize` gives for float32.
    The embedding table, and what has rows of no whole groups, keeps its dtype; norms and biases are
    float32. `progress` gets tensors done and tensors in all. ModelError for what GGUF cannot say,
    or a weight that cannot be quantized.
    """
    checkpoint = open_checkpoint(source)
    config, tensors = checkpoint.config, open_tensors(checkpoint.path)
    metadata = {**_metadata(config), **_tokenizer(checkpoint.tokenizer, config)}
    names = [name for name in sorted(tensors.files) if not ignored(name)]
    if config.tie_word_embeddings:
        names = [name for name in names if name != "lm_head.weight"]
    writing = [_tensor(tensors, name, config, scheme) for name in names]
    writing += _rope_factors(config)

    def counted() -> Iterator[tuple[OutTensor, Iterator[bytes]]]:
        for done, (tensor, data) in enumerate(writing):
            yield tensor, _told(data, done, len(writing), progress)

    write_gguf(path, metadata, counted())


def _told(
    data: Iterator[bytes], done: int, total: int, progress: Progress | None
) -> Iterator[bytes]:
    if progress is not None:
        progress(done, total)
    yield from data


def _metadata(config: ModelConfig) -> dict[str, Any]:
    arch = "llama" if config.model_type == "mistral" else config.model_type
    windows = set(config.sliding_windows)
    if len(windows) > 1 or (windows != {None} and config.model_type != "mistral"):
        raise ModelError("GGUF cannot say which layers have a sliding window")
    values: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope.rope_theta),
        "vocab_size": config.vocab_size,
        **_rope(config),
    }
    window = next(iter(windows))
    if window is not None:
        values["attention.sliding_window"] = window
    general = {"general.architecture": arch, "general.quantization_version": 2}
    return {**general, **{f"{arch}.{name}": value for name, value in values.items()}}


def _rope(config: ModelConfig) -> dict[str, Any]:
    rope = config.rope
    if rope.rope_type in ("default", "llama3", "factors"):
        return {}
    if rope.rope_type == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope.factor)}
    raise ModelError(f"RoPE of type {rope.rope_type} is not written as GGUF")


def _rope_factors(config: ModelConfig) -> list[tuple[OutTensor, Iterator[bytes]]]:
    """What llama3's rule divides each frequency by: GGUF has it as a tensor."""
    if config.rope.rope_type not in ("llama3", "factors"):
        return []
    half = config.head_dim // 2
    plain = 1.0 / config.rope.rope_theta ** (np.arange(half, dtype=np.float64) / half)
    scaled = inv_freq_table(config, config.max_position_embeddings)[0].astype(np.float64)
    factors = (plain / scaled).astype("<f4")
    return [(OutTensor(ROPE_FACTORS, (half,), _TYPES["F32"]), iter([factors.tobytes()]))]


def _tokenizer(tokenizer: Tokenizer | None, config: ModelConfig) -> dict[str, Any]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    found = tokenizer_metadata(tokenizer, config.vocab_size)
    if config.eos_token_ids:
        eos, *others = config.eos_token_ids
        found["tokenizer.ggml.eos_token_id"] = eos
        keys = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
        found |= dict(zip(keys, others, strict=False))  # there are no names for more
    if config.bos_token_id is not None:
        found["tokenizer.ggml.bos_token_id"] = config.bos_token_id
    return found


def _tensor(
    tensors: TensorSet, name: str, config: ModelConfig, scheme: Scheme
) -> tuple[OutTensor, Iterator[bytes]]:
    entry = tensors.entry(name)
    shape, own = entry.shape, _TYPES[entry.dtype]
    if len(shape) == 1:
        kind = _TYPES["F32"]
    elif name == "model.embed_tokens.weight" or not can_quantize(shape):
        kind = own
    else:
        bits = scheme.of("lm_head" if name == "lm_head.weight" else name).form.bits
        kind = _TYPES["Q8_0" if bits == 8 else "Q4_1"]
    return OutTensor(_gguf_name(name), shape, kind), _data(tensors, name, kind, config)


def _data(tensors: TensorSet, name: str, kind: BlockType, config: ModelConfig) -> Iterator[bytes]:
    weight = tensors.stack((name,), dtype=FLOAT32, storage_dtype=FLOAT32)
    weight = _turned(weight, name, config)
    if kind.dtype in (FLOAT16, BFLOAT16):
        yield weight.astype(kind.dtype).tobytes()
    elif kind.dtype is not None:
        yield weight.tobytes()
    else:
        scheme = _SCHEMES[kind.name]
        try:
            quants = quantize(weight, scheme, FLOAT32)
        except ValueError as error:
            raise ModelError(f"tensor {name}: cannot be quantized: {error}") from error
        yield (_q8_0 if kind.name == "Q8_0" else _q4_1)(quants)


def _turned(weight: Array, name: str, config: ModelConfig) -> Array:
    """q and k of llama with rows i and i + half of a head side by side."""
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    match = re.search(r"self_attn\.([qk])_proj", name)
    arch = "llama" if config.model_type == "mistral" else config.model_type
    if match is None or arch != PERMUTED:
        return weight
    halves = weight.reshape(heads[match[1]], 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _q8_0(quants: Quants) -> bytes:
    values = quants.values.reshape(-1, 32)
    groups = quants.values.shape[1] // 32
    scales = np.repeat(quants.scales.astype("<f2"), groups, axis=1).reshape(-1, 1)
    return np.concatenate([scales.view(np.uint8), values.view(np.uint8)], axis=1).tobytes()


def _q4_1(quants: Quants) -> bytes:
    assert quants.minima is not None
    values = quants.values.reshape(-1, 32)
    packed = values[:, :16] | (values[:, 16:] << np.uint8(4))
    ends = np.stack([quants.scales, quants.minima], axis=-1).astype("<f2").reshape(-1, 2)
    return np.concatenate([ends.view(np.uint8), packed], axis=1).tobytes()


def _gguf_name(name: str) -> str:
    match = _LAYER.fullmatch(name)
    if match:
        return f"blk.{match[1]}.{_OUT_LAYER_NAMES[match[2]]}.{match[3]}"
    return _OUT_NAMES[name]
