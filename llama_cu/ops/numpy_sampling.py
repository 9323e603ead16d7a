"""What happens to logits, in NumPy: edits, the draw, log probabilities. The rule of the draw."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.batch import LogitEdits, LogitMasks, SamplingRows
from llama_cu.philox import random_bits

Array = Any

_WEIGHT_ONE = np.float32(2**40)
_WEIGHTLESS = np.float32(-28)  # e^-28 * 2^40 is 0.76
_LOG2_E = np.float32(1.44269504)
# 2^r is 1 + r (f4 + r (f3 + ...)), for r from -1/2 to 1/2 as near as five factors come to it.
_FACTORS = tuple(
    np.float32(factor) * _WEIGHT_ONE
    for factor in (0.0013202982, 0.0096749524, 0.055510473, 0.24022166, 0.6931466)
)
_LARGEST_KEPT = np.float32(1e30)


def edit(logits: Array, edits: LogitEdits) -> Array:
    """`Ops.edit_logits`."""
    edited = logits.copy()
    rows, ids = edits.rows, edits.token_ids
    repetition, presence, frequency = edits.penalties[rows].T
    value = logits[rows, ids]
    divided = np.where(value > 0, value / repetition, value * repetition)
    value = np.where(edits.seen != 0, divided, value)
    value = value - frequency * edits.counts.astype(np.float32)
    value = value - np.where(edits.counts > 0, presence, np.float32(0))
    edited[rows, ids] = value + edits.biases
    return edited


def mask(logits: Array, masks: LogitMasks) -> Array:
    """`Ops.mask_logits`."""
    masked = logits.copy()
    rows = (masks.mask_of >= 0).nonzero()[0]
    words = masks.words[masks.mask_of[rows]].astype("<i4")
    bits = np.unpackbits(words.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
    held = np.fmin(np.fmax(logits[rows], -_LARGEST_KEPT), _LARGEST_KEPT)
    masked[rows] = np.where(bits, held, np.float32(-np.inf))
    return masked


def draw(logits: Array, rows: SamplingRows, i: int) -> int:
    """The token of row i, whose logits these are.

    Weights are exp(logit / temperature) relative to the largest, as 40-bit fixed point: integer
    sums do not depend on their order, so every backend and every batch draws the same token.
    top-k keeps the logits that are not below the k-th largest; of these top-p keeps the fewest
    largest whose weights reach its share; of these min-p keeps weights of at least its share of
    the largest. Tied logits are kept together. The draw is the first id, in id order, whose
    prefix sum exceeds a uniform 64-bit fraction of the total.
    """
    temperature = rows.temperature[i]
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits / temperature
    highest = scaled.max()
    if not np.isfinite(highest):
        return int(logits.argmax())
    top_k, top_p, min_p = int(rows.top_k[i]), rows.top_p[i], rows.min_p[i]
    lowest = np.float32(-np.inf)
    if 0 < top_k < scaled.size:
        lowest = np.partition(scaled, scaled.size - top_k)[scaled.size - top_k]
    ids = None if lowest == -np.inf else (scaled >= lowest).nonzero()[0]
    if ids is not None:
        scaled = scaled[ids]
    if top_p < 1:
        falling = np.sort(scaled)[::-1]
        sums = _weights(falling, highest).cumsum()
        needed = max(1, int(np.float64(top_p) * np.float64(sums[-1])))
        kept = (scaled >= falling[sums.searchsorted(np.uint64(needed))]).nonzero()[0]
        scaled, ids = scaled[kept], kept if ids is None else ids[kept]
    weights = _weights(scaled, highest)
    if min_p > 0:
        kept = (weights >= np.uint64(np.float64(min_p) * 2.0**40)).nonzero()[0]
        weights, ids = weights[kept], kept if ids is None else ids[kept]
    sums = weights.cumsum()
    bits = random_bits(int(rows.seeds[i, 0]), int(rows.seeds[i, 1]), int(rows.positions[i]))
    target = (bits * int(sums[-1])) >> 64
    chosen = int(sums.searchsorted(np.uint64(target), side="right"))
    return chosen if ids is None else int(ids[chosen])


def _weights(scaled: Array, highest: Any) -> Array:
    """floor(2^40 e^x) of x = scaled - highest, but for some 2^-22 of it; 0 of NaN.

    No library's exp, since no two round alike: draw.cuh has the same operations, which do.
    """
    power = np.fmax(scaled - highest, _WEIGHTLESS)
    power *= _LOG2_E
    whole = np.rint(power)
    power -= whole
    weights = power * _FACTORS[0]
    for factor in _FACTORS[1:]:
        weights += factor
        weights *= power
    weights += _WEIGHT_ONE
    exponents = weights.view(np.int32)
    exponents += whole.astype(np.int32) << 23
    return weights.astype(np.uint64)


def logprobs(logits: Array, token_ids: Array, num_top: int) -> tuple[Array, Array, Array]:
    """`Ops.logprobs`."""
    highest = logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True)) + highest
    chosen = (np.take_along_axis(logits, token_ids[:, None], axis=-1) - log_sum)[:, 0]
    top_ids = np.array([_top(row, num_top) for row in logits], np.int32)
    top_ids = top_ids.reshape(len(logits), num_top)
    return chosen, top_ids, np.take_along_axis(logits, top_ids, axis=-1) - log_sum


def _top(logits: Array, count: int) -> Array:
    if count == 0:
        return np.empty(0, np.int32)
    border = np.partition(logits, logits.size - count)[logits.size - count]
    candidates = np.flatnonzero(logits >= border)
    return candidates[np.lexsort((candidates, -logits[candidates]))][:count]
