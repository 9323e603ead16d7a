"""Rotary position embedding: from a model's parameters to its table of inverse frequencies.

All arithmetic on frequencies is float32 in the order in which Hugging Face transformers does it, so
that angles agree to the last bits even far into a long context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llama_cu.checkpoint.config import ModelConfig

Array = Any


@dataclass(frozen=True)
class RopeConfig:
    """RoPE parameters, named as in transformers' `rope_parameters`; unused ones keep a default.

    Type "factors" is GGUF's alone: its file has the outcome of llama3's rule as a tensor.
    """

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float = 1.0
    original_max_position_embeddings: int = 0  # llama3 and yarn: the length before the extension
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    freq_factors: tuple[float, ...] = ()  # factors: what each inverse frequency is divided by


def default_max_model_len(config: ModelConfig) -> int:
    """The longest sequence, in tokens, that the checkpoint is meant for.

    max_position_embeddings is that length for types default, llama3 and factors. Types linear and
    dynamic multiply it by their factor. For yarn it is original_max_position_embeddings * factor,
    because max_position_embeddings may or may not hold the extended length already (vLLM's rule).
    """
    rope = config.rope
    if rope.rope_type in ("linear", "dynamic"):
        return int(config.max_position_embeddings * rope.factor)
    if rope.rope_type == "yarn":
        return int(rope.original_max_position_embeddings * rope.factor)
    return config.max_position_embeddings


def rope_row(config: ModelConfig, position: int, prompt_len: int) -> int:
    """The row of the table that rotates the token at `position` of a sequence.

    0 for every type but dynamic. There the base grows with the length of the sequence at the time
    the token is computed: the prompt's length for a prompt token, position + 1 for a generated one.
    """
    if config.rope.rope_type != "dynamic":
        return 0
    return max(0, max(prompt_len, position + 1) - config.max_position_embeddings)


def attention_scaling(config: ModelConfig) -> float:
    """What cos and sin are multiplied by: 1 but for yarn (section 3.4 of arXiv 2309.00071)."""
    rope = config.rope
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def inv_freq_table(config: ModelConfig, max_model_len: int) -> Array:
    """Inverse frequencies [num_rows, head_dim / 2] float32, one row for each value of `rope_row`.

    Static types have one row, dynamic has one more for every length beyond
    max_position_embeddings up to max_model_len.
    """
    rope = config.rope
    if rope.rope_type == "dynamic":
        return _dynamic_rows(config, max_model_len)
    wavelengths = _powers(np.float32(rope.rope_theta), config.head_dim)
    if rope.rope_type == "yarn":
        return _yarn(rope, wavelengths, config.head_dim)[None]
    inv_freq = np.float32(1) / wavelengths
    if rope.rope_type == "linear":
        inv_freq = inv_freq / np.float32(rope.factor)
    elif rope.rope_type == "llama3":
        inv_freq = _llama3(rope, inv_freq)
    elif rope.rope_type == "factors":
        inv_freq = inv_freq / np.asarray(rope.freq_factors, np.float32)
    return inv_freq[None]


def _powers(base: Array, head_dim: int) -> Array:
    """base ** (2 i / head_dim) for i below head_dim / 2: float32, along a new last axis."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return _power(base[..., None], exponents)


def _power(base: Array, exponent: Array) -> Array:
    """base ** exponent of float32s, rounded once: NumPy's float32 power differs by machine."""
    wide = np.power(np.asarray(base, np.float64), np.asarray(exponent, np.float64))
    return wide.astype(np.float32)


def _dynamic_rows(config: ModelConfig, max_model_len: int) -> Array:
    """NTK-aware scaling: theta grows by (factor length / trained - factor + 1) ** (d / (d - 2))."""
    rope, head_dim, trained = config.rope, config.head_dim, config.max_position_embeddings
    lengths = np.arange(trained, max(trained, max_model_len) + 1, dtype=np.float32)
    factor = np.float32(rope.factor)
    stretch = factor * lengths / np.float32(trained) - np.float32(rope.factor - 1)
    growth = _power(stretch, np.float32(head_dim / (head_dim - 2)))
    return np.float32(1) / _powers(np.float32(rope.rope_theta) * growth, head_dim)


def _llama3(rope: RopeConfig, inv_freq: Array) -> Array:
    """Long wavelengths are divided by the factor, short ones kept, those between blended."""
    original, low, high = (
        np.float32(value)
        for value in (
            rope.original_max_position_embeddings,
            rope.low_freq_factor,
            rope.high_freq_factor,
        )
    )
    factor = np.float32(rope.factor)
    wavelengths = np.float32(2 * math.pi) / inv_freq
    scaled = np.where(wavelengths > original / low, inv_freq / factor, inv_freq)
    blend = (original / wavelengths - low) / (high - low)
    blended = (np.float32(1) - blend) * scaled / factor + blend * scaled
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return np.where(between, blended, scaled)


def _yarn(rope: RopeConfig, wavelengths: Array, head_dim: int) -> Array:
    """Section 3.2 of arXiv 2309.00071: interpolate slow dimensions, keep fast ones, or blend."""

    def dimension(num_rotations: float) -> float:
        turns = rope.original_max_position_embeddings / (num_rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.rope_theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    if low == high:
        high += 0.001  # a step instead of a ramp
    index = np.arange(head_dim // 2, dtype=np.float32)
    ramp = np.clip((index - np.float32(low)) / np.float32(high - low), 0, 1)
    keep = np.float32(1) - ramp
    interpolated = np.float32(1) / (np.float32(rope.factor) * wavelengths)
    return interpolated * (np.float32(1) - keep) + np.float32(1) / wavelengths * keep
