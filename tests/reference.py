"""float64 formulas of every op, one each, written from the papers and from nothing of ours.

Arrays are NumPy float64 (ids int). They are slow and plain on purpose.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def linear(x: Array, weight: Array, bias: Array | None, residual: Array | None) -> Array:
    """x weightᵀ + bias + residual."""
    out = np.einsum("ti,oi->to", x, weight)
    for addend in (bias, residual):
        if addend is not None:
            out = out + addend
    return out


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Zhang, Sennrich: Root Mean Square Layer Normalization (2019), equation 4."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def rope_angles(inv_freq: Array, rope_rows: Array, positions: Array, scaling: float) -> Array:
    """cos and sin of the angles; the product is of float32, as every checkpoint was trained."""
    product = positions.astype(np.float32)[:, None] * inv_freq[rope_rows].astype(np.float32)
    angles = product.astype(np.float64)
    return np.concatenate((np.cos(angles), np.sin(angles)), axis=1) * scaling


def rope(x: Array, cos_sin: Array) -> Array:
    """Su et al.: RoFormer (2021), section 3.2; element i is paired with i + head_dim / 2.

    A rotation of the plane is the product with a complex number of modulus one.
    """
    half = x.shape[-1] // 2
    turn = cos_sin[:, None, :half] + 1j * cos_sin[:, None, half:]
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate((turned.real, turned.imag), axis=-1)


def softmax(scores: Array, position: int, window: int | None) -> Array:
    """Softmax of each query's visible scores, one query at a time; 0 for the others."""
    out = np.zeros_like(scores)
    for i in range(scores.shape[1]):
        first = 0 if window is None else max(0, position + i - window + 1)
        seen = slice(first, position + i + 1)
        weights = np.exp(scores[:, i, seen])
        out[:, i, seen] = weights / weights.sum(axis=-1, keepdims=True)
    return out


def attention(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    query_lens: tuple[int, ...],
    context_lens: tuple[int, ...],
    block_tables: tuple[tuple[int, ...], ...],
    *,
    scale: float,
    window: int | None,
) -> Array:
    """Vaswani et al. (2017), equation 1, one query and one head at a time.

    Heads are shared as by Ainslie et al. (2023); the window is Mistral's (Jiang et al., 2023).
    """
    out = np.empty_like(q)
    block_size, num_kv_heads = k_cache.shape[1:3]
    group = q.shape[1] // num_kv_heads
    token = 0
    for query_len, context_len, table in zip(query_lens, context_lens, block_tables, strict=True):
        slots = [(table[p // block_size], p % block_size) for p in range(context_len)]
        k = np.array([k_cache[slot] for slot in slots])
        v = np.array([v_cache[slot] for slot in slots])
        for position in range(context_len - query_len, context_len):
            first = 0 if window is None else max(0, position - window + 1)
            seen = slice(first, position + 1)
            for head in range(q.shape[1]):
                scores = k[seen, head // group] @ q[token, head] * scale
                weights = np.exp(scores - scores.max())
                out[token, head] = weights @ v[seen, head // group] / weights.sum()
            token += 1
    return out.reshape(len(q), -1)


def in_8_bits(x: Array) -> tuple[Array, Array]:
    """Whole numbers of the shape of x [..., size], and float32 scales [...]: x is about both."""
    scales = (np.abs(x).max(axis=-1) / 127).astype(np.float32)
    return np.clip(np.rint(x / scales.astype(np.float64)[..., None]), -127, 127), scales


def swiglu(gate_up: Array) -> Array:
    """Shazeer: GLU Variants Improve Transformer (2020), with Swish of beta 1; gate first."""
    gate, up = np.split(gate_up, 2, axis=-1)
    return gate * up * (0.5 * (1 + np.tanh(gate / 2)))


def edit_logits(
    logits: Array,
    edits: list[tuple[int, int, int, bool, float]],
    penalties: Array,
) -> Array:
    """Edits are (row, token id, count, seen, bias); penalties repetition, presence, frequency.

    Repetition as in CTRL (Keskar et al., 2019), the other two as OpenAI's API documents them.
    """
    edited = logits.copy()
    for row, token_id, count, seen, bias in edits:
        repetition, presence, frequency = penalties[row]
        logit = logits[row, token_id]
        if seen:
            logit = logit / repetition if logit > 0 else logit * repetition
        edited[row, token_id] = logit - frequency * count - presence * (count > 0) + bias
    return edited


def token_probabilities(
    logits: Array, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> Array:
    """The distribution of a draw from one row, by sorting.

    top-k: Fan et al. (2018). top-p: Holtzman et al. (2020), of what top-k left. min-p: Nguyen et
    al. (2024). Logits that tie with the last one kept are kept as well.
    """
    scaled = logits / temperature
    falling = np.sort(scaled)[::-1]
    keep = scaled >= (falling[top_k - 1] if 0 < top_k < scaled.size else -np.inf)
    weights = np.where(keep, np.exp(scaled - falling[0]), 0)
    if top_p < 1:
        order = np.argsort(-weights, kind="stable")
        reached = np.cumsum(weights[order]) >= top_p * weights.sum()
        keep &= scaled >= scaled[order[np.argmax(reached)]]
    keep &= weights >= min_p
    weights = np.where(keep, weights, 0)
    return weights / weights.sum()


def logprobs(logits: Array) -> Array:
    """log softmax of each row."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
