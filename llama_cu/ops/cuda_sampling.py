"""Launchers for what happens to logits: edits, masks, draws, log probabilities. All float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.batch import LogitEdits, LogitMasks, SamplingRows
from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch, whole_warps
from llama_cu.ops.device import Device

Array = Any

MAX_TOP = 64  # as in logits.cu
_MAX_VOCAB_SIZE = 1 << 23  # 2^40 times that fits 64 bits

_INT32 = np.dtype(np.int32)
_UINT64 = np.dtype(np.uint64)
_FLOAT32 = np.dtype(np.float32)


def _check_logits(logits: Array) -> tuple[int, int]:
    num_rows, vocab_size = logits.shape
    check_array("logits", logits, shape=(num_rows, vocab_size), dtype=_FLOAT32)
    fits = 1 <= vocab_size <= _MAX_VOCAB_SIZE
    check(fits, "vocab_size must be in [1, {}], got {}", _MAX_VOCAB_SIZE, vocab_size)
    return num_rows, vocab_size


# One block a row up to here; beyond it the launch of a second kernel is the smaller cost.
_MAX_ONE_BLOCK_ARGMAX = 32768
_MAX_ONE_BLOCK_SAMPLE = 8192
_SAMPLE_THREADS = 512
_TILE = 256  # this and the next as in wide_sampling.cu
_NUM_BINS = 2048
_MAX_SHARES = 1024


def _block(vocab_size: int) -> int:
    return whole_warps(ceil_div(vocab_size, 4), low=64)


def launch_edit_logits(device: Device, logits: Array, *, edits: LogitEdits) -> Array:
    """`Ops.edit_logits`; kernels/logits.cu."""
    num_rows, vocab_size = _check_logits(logits)
    num_edits = edits.rows.shape[0]
    for name in ("rows", "token_ids", "counts", "seen"):
        check_array(f"edits.{name}", getattr(edits, name), shape=(num_edits,), dtype=_INT32)
    check_array("edits.biases", edits.biases, shape=(num_edits,), dtype=_FLOAT32)
    check_array("edits.penalties", edits.penalties, shape=(num_rows, 3), dtype=_FLOAT32)
    edited = device.empty((num_rows, vocab_size), _FLOAT32)
    count = num_rows * vocab_size
    copy = device.kernel("logits", "copy_logits")
    launch(copy, (min(ceil_div(count, 256), 1024),), 256, logits, edited, np.int64(count))
    lists = (edits.rows, edits.token_ids, edits.counts, edits.seen, edits.biases, edits.penalties)
    sizes = (np.int32(num_edits), np.int32(vocab_size))
    edit = device.kernel("logits", "edit_logits")
    launch(edit, (ceil_div(num_edits, 128),), 128, logits, edited, *lists, *sizes)
    return edited


def launch_mask_logits(device: Device, logits: Array, *, masks: LogitMasks) -> Array:
    """`Ops.mask_logits`; kernels/logits.cu."""
    num_rows, vocab_size = _check_logits(logits)
    check_array("masks.mask_of", masks.mask_of, shape=(num_rows,), dtype=_INT32)
    words_shape = (masks.words.shape[0], ceil_div(vocab_size, 32))
    check_array("masks.words", masks.words, shape=words_shape, dtype=_INT32)
    masked = device.empty((num_rows, vocab_size), _FLOAT32)
    args = (logits, masked, masks.mask_of, masks.words, np.int32(vocab_size))
    kernel = device.kernel("logits", "mask_logits")
    launch(kernel, (num_rows, ceil_div(vocab_size, 256)), 256, *args)
    return masked


def launch_sample(
    device: Device, logits: Array, *, rows: SamplingRows, out: Array | None = None
) -> Array:
    """`Ops.sample`; kernels/sampling.cu."""
    num_rows, vocab_size = _check_logits(logits)
    out = device.empty((num_rows,), _INT32) if out is None else out
    check_array("sample: out", out, shape=(num_rows,), dtype=_INT32)
    if rows.all_greedy:
        _launch_argmax(device, logits, out)
        return out
    for name in ("temperature", "top_p", "min_p"):
        check_array(f"rows.{name}", getattr(rows, name), shape=(num_rows,), dtype=_FLOAT32)
    for name in ("top_k", "positions"):
        check_array(f"rows.{name}", getattr(rows, name), shape=(num_rows,), dtype=_INT32)
    check_array("rows.seeds", rows.seeds, shape=(num_rows, 2), dtype=_INT32)
    cuts = (rows.temperature, rows.top_k, rows.top_p, rows.min_p)
    args = (logits, *cuts, rows.seeds, rows.positions, out)
    if vocab_size <= _MAX_ONE_BLOCK_SAMPLE:
        block = min(_block(vocab_size), _SAMPLE_THREADS)
        kernel = device.kernel("sampling", "sample")
        launch(kernel, (num_rows,), block, *args, np.int32(vocab_size))
        return out
    _launch_wide_sample(device, logits, rows, out)
    return out


def _launch_argmax(device: Device, logits: Array, out: Array) -> None:
    num_rows, vocab_size = logits.shape
    if vocab_size <= _MAX_ONE_BLOCK_ARGMAX:
        kernel = device.kernel("sampling", "argmax")
        launch(kernel, (num_rows,), _block(vocab_size), logits, out, np.int32(vocab_size))
        return
    shares = _Shares(device, logits)
    shares.launch_maxima()
    kernel = device.kernel("wide_sampling", "argmax_of_shares")
    launch(kernel, (num_rows,), 256, logits, shares.maxima, out, *shares.sizes)


def _launch_wide_sample(device: Device, logits: Array, rows: SamplingRows, out: Array) -> None:
    num_rows, vocab_size = logits.shape
    shares = _Shares(device, logits)
    histogram = device.empty((num_rows, _NUM_BINS), _UINT64)
    words = device.empty((num_rows, ceil_div(vocab_size, 32)), _INT32)
    sums = device.empty((num_rows, shares.count), _UINT64)
    shares.launch_maxima(histogram)
    arrays = (out, shares.maxima, shares.state, histogram, words, sums, *shares.sizes)
    draws = (rows.top_p, rows.min_p, rows.seeds, rows.positions)
    grid = shares.grid(num_warps=_SAMPLE_THREADS // 32)
    sample_shares = device.kernel("wide_sampling", "sample_shares")
    first = (logits, rows.temperature, rows.top_k, *draws)
    launch(sample_shares, grid, _SAMPLE_THREADS, *first, *arrays)
    sample_flat = device.kernel("wide_sampling", "sample_flat")
    launch(sample_flat, grid, _SAMPLE_THREADS, logits, rows.temperature, *draws, *arrays)


class _Shares:
    """Rows cut into shares; kernels/wide_sampling.cu."""

    def __init__(self, device: Device, logits: Array) -> None:
        num_rows, vocab_size = logits.shape
        share_size = _TILE * ceil_div(vocab_size, _TILE * _MAX_SHARES)
        self.count = ceil_div(vocab_size, share_size)
        self.sizes = (np.int32(vocab_size), np.int32(share_size), np.int32(self.count))
        self.maxima = device.empty((num_rows, self.count), _INT32)
        self.state = device.empty((num_rows, 2), _INT32)
        self._device, self._logits = device, logits

    def launch_maxima(self, histogram: Array | None = None) -> None:
        """Find each share's largest logit, and set state and histogram to 0."""
        kernel = self._device.kernel("wide_sampling", "share_maxima")
        arrays = (self._logits, self.maxima, self.state, histogram)
        launch(kernel, self.grid(num_warps=8), 256, *arrays, *self.sizes)

    def grid(self, *, num_warps: int) -> tuple[int, int]:
        """Blocks to fill the chip, with no more warps than shares. No result depends on it."""
        num_rows = len(self.maxima)
        blocks = ceil_div(32 * self._device.num_multiprocessors, num_warps * max(1, num_rows))
        return num_rows, min(blocks, ceil_div(self.count, num_warps))


def launch_logprobs(
    device: Device, logits: Array, *, token_ids: Array, num_top: int
) -> tuple[Array, Array, Array]:
    """`Ops.logprobs`; kernels/logits.cu. num_top is at most 64."""
    num_rows, vocab_size = _check_logits(logits)
    check_array("logprobs: token_ids", token_ids, shape=(num_rows,), dtype=_INT32)
    highest = min(MAX_TOP, vocab_size)
    check(0 <= num_top <= highest, "logprobs: num_top must be in [0, {}], got {}", highest, num_top)
    token_logprobs = device.empty((num_rows,), _FLOAT32)
    top_ids = device.empty((num_rows, num_top), _INT32)
    top_logprobs = device.empty((num_rows, num_top), _FLOAT32)
    args = (logits, token_ids, token_logprobs, top_ids, top_logprobs)
    sizes = (np.int32(vocab_size), np.int32(num_top))
    kernel = device.kernel("logits", "logprobs")
    launch(kernel, (num_rows,), _block(vocab_size), *args, *sizes)
    return token_logprobs, top_ids, top_logprobs
