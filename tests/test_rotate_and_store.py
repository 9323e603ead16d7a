"""From the product of q, k and v to the cache, in one op, on every backend."""

from __future__ import annotations

import numpy as np
import pytest

from llama_cu.ops.base import HeadNorms, Ops
from tests import reference
from tests.backends import (
    BACKENDS,
    DEVICE_BACKENDS,
    assert_close,
    assert_rows_close,
    got,
    huge,
    make_ops,
    normal,
    put,
    put_as,
)

HALF_DEVICES = [backend for backend in DEVICE_BACKENDS if backend.id.endswith("-float16")]
# num_heads, num_kv_heads, head_dim: Llama, Qwen3, SmolLM2; odd ones, in vectors of 1 to 8, with
# more pairs than lanes, and with less.
SHAPES = [(8, 2, 128), (4, 4, 64), (9, 3, 64), (2, 1, 80), (3, 1, 6), (1, 1, 2), (2, 2, 90)]
SHAPES += [(1, 1, 256), (3, 2, 20)]


@pytest.fixture(params=BACKENDS)
def ops(request):
    return make_ops(request.param)


@pytest.fixture(params=DEVICE_BACKENDS)
def device_ops(request):
    return make_ops(request.param)


@pytest.fixture(params=HALF_DEVICES)
def half_ops(request):
    return make_ops(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(45)


class Step:
    """Heads of some tokens, and a cache with room for them."""

    def __init__(self, ops, rng, shape, *, num_tokens, normed, block_size=4):
        self.ops = ops
        self.num_heads, self.num_kv_heads, head_dim = shape
        self.qkv = normal(ops, rng, num_tokens, self.num_heads + 2 * self.num_kv_heads, head_dim)
        angles = rng.uniform(0, 7, (num_tokens, head_dim // 2))
        self.cos_sin = np.concatenate((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
        num_blocks = num_tokens // block_size + 2
        cache_shape = (num_blocks, block_size, self.num_kv_heads, head_dim)
        self.caches = [normal(ops, rng, *cache_shape) for _ in range(2)]
        self.slots = rng.permutation(num_blocks * block_size)[:num_tokens]
        self.norms = [normal(ops, rng, head_dim) for _ in range(2)] if normed else None

    def run(self, rotate_and_store):
        """What the op makes of copies: qkv, k_cache, v_cache."""
        ops = self.ops
        arrays = [put(ops, a) for a in (self.qkv, *self.caches)]
        norms = self.norms and HeadNorms(*(put(ops, weight) for weight in self.norms), 1e-6)
        cos_sin, slots = put_as(ops, self.cos_sin, np.float32), put_as(ops, self.slots)
        rotate_and_store(arrays[0], cos_sin, *arrays[1:], slots, norms)
        return arrays

    def wanted(self):
        """The same in float64."""
        q_heads, heads = self.num_heads, self.num_heads + self.num_kv_heads
        qkv, (k_cache, v_cache) = self.qkv.copy(), (cache.copy() for cache in self.caches)
        if self.norms:
            qkv[:, :q_heads] = reference.rms_norm(qkv[:, :q_heads], self.norms[0], 1e-6)
            qkv[:, q_heads:heads] = reference.rms_norm(qkv[:, q_heads:heads], self.norms[1], 1e-6)
            qkv = qkv.astype(self.ops.dtype).astype(np.float64)
        qkv[:, :heads] = reference.rope(qkv[:, :heads], self.cos_sin.astype(np.float64))
        for token, slot in enumerate(self.slots):
            if slot >= 0:
                place = divmod(slot, k_cache.shape[1])
                k_cache[place], v_cache[place] = qkv[token, q_heads:heads], qkv[token, heads:]
        return qkv, k_cache, v_cache

    def check(self, arrays):
        """Rotated heads are close, copied ones and all that nobody touched the same bits."""
        for array, want in zip(arrays, self.wanted(), strict=True):
            assert_close(self.ops, array, want)
        qkv, k_cache, v_cache = (got(self.ops, array) for array in arrays)
        heads = self.num_heads + self.num_kv_heads
        np.testing.assert_array_equal(qkv[:, heads:], self.qkv[:, heads:])
        np.testing.assert_array_equal(v_cache, self.wanted()[2])
        stored = [divmod(slot, k_cache.shape[1]) for slot in self.slots if slot >= 0]
        others = np.ones(k_cache.shape[:2], bool)
        others[tuple(zip(*stored, strict=True)) if stored else ([], [])] = False
        np.testing.assert_array_equal(k_cache[others], self.caches[0][others])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_tokens", [1, 3, 70])
@pytest.mark.parametrize("normed", [False, True])
def test_q_and_k_are_turned_and_k_and_v_stored(ops, rng, shape, num_tokens, normed):
    step = Step(ops, rng, shape, num_tokens=num_tokens, normed=normed)
    step.check(step.run(ops.rotate_and_store))


@pytest.mark.parametrize("stored", [[], [1], [0, 2, 3]])
@pytest.mark.parametrize("normed", [False, True])
def test_tokens_with_a_negative_slot_are_turned_and_not_stored(ops, rng, stored, normed):
    step = Step(ops, rng, (4, 2, 32), num_tokens=5, normed=normed)
    step.slots = np.array([slot if i in stored else -1 - i for i, slot in enumerate(step.slots)])
    step.check(step.run(ops.rotate_and_store))


@pytest.mark.parametrize("slots", [[-1], [-1, -7, -1], [3, -1, 0]])
def test_store_kv_passes_over_negative_slots(ops, rng, slots):
    caches = [normal(ops, rng, 2, 3, 2, 16) for _ in range(2)]
    kv = normal(ops, rng, len(slots), 4, 16)
    array, arrays = put(ops, kv), [put(ops, cache) for cache in caches]
    ops.store_kv(array[:, :2], array[:, 2:], *arrays, put_as(ops, slots))
    for token, slot in enumerate(slots):
        if slot >= 0:
            caches[0][divmod(slot, 3)], caches[1][divmod(slot, 3)] = kv[token, :2], kv[token, 2:]
    for cache, want in zip(arrays, caches, strict=True):
        np.testing.assert_array_equal(got(ops, cache), want)


# Where head_dim is a power of two, the sums of the norms have one order.
@pytest.mark.parametrize("shape", [(8, 2, 128), (9, 3, 64), (1, 1, 256)])
@pytest.mark.parametrize("normed", [False, True])
def test_the_kernel_gives_the_bits_of_the_verbs(device_ops, rng, shape, normed):
    ops = device_ops
    step = Step(ops, rng, shape, num_tokens=6, normed=normed)
    step.slots[2] = -1
    composed = step.run(lambda *args: Ops.rotate_and_store(ops, *args))
    for fused, want in zip(step.run(ops.rotate_and_store), composed, strict=True):
        np.testing.assert_array_equal(got(ops, fused), got(ops, want))


# With vectors of one element the least memory is enough for an int not to count them.
def test_slots_and_tokens_may_be_further_apart_than_an_int_counts(half_ops, rng):
    step = Step(half_ops, rng, (2, 1, 10), num_tokens=2, normed=True)
    step.slots = np.array([1, 0])
    wanted, qkv = step.wanted(), huge(half_ops, 2, 2**31 + 65)[:, :40].reshape(2, 4, 10)
    qkv[...] = put(half_ops, step.qkv)
    caches = [huge(half_ops, 2**31 // 40 + 2, 4, 1, 10) for _ in range(2)]
    for cache, want in zip(caches, step.caches, strict=True):
        cache[-2:] = put(half_ops, want[:2])
    slots = put_as(half_ops, step.slots + (caches[0].shape[0] - 2) * 4)
    norms = HeadNorms(*(put(half_ops, weight) for weight in step.norms), 1e-6)
    cos_sin = put_as(half_ops, step.cos_sin, np.float32)
    half_ops.rotate_and_store(qkv, cos_sin, *caches, slots, norms)
    assert_rows_close(half_ops, qkv, wanted[0])
    for cache, want in zip(caches, wanted[1:], strict=True):
        assert_close(half_ops, cache[-2:], want[:2])


def test_no_tokens_are_no_work(device_ops, rng):
    step = Step(device_ops, rng, (2, 1, 16), num_tokens=0, normed=False)
    for array, before in zip(
        step.run(device_ops.rotate_and_store), (step.qkv, *step.caches), strict=True
    ):
        np.testing.assert_array_equal(got(device_ops, array), before)


def test_a_wrong_operand_is_refused_by_name(device_ops, rng):
    ops = device_ops
    step = Step(ops, rng, (2, 1, 16), num_tokens=3, normed=True)
    qkv, k_cache, v_cache = (put(ops, a) for a in (step.qkv, *step.caches))
    cos_sin, slots = put_as(ops, step.cos_sin, np.float32), put_as(ops, step.slots)
    weight, narrow = put(ops, step.norms[0]), put(ops, step.norms[0][:8])
    good = [qkv, cos_sin, k_cache, v_cache, slots, None]
    for at, bad, message in (
        (0, qkv[:, :, :8], "qkv: heads must be contiguous"),
        (0, qkv[:, :2], "2 heads hold no q"),
        (1, cos_sin[:2], "cos_sin must be"),
        (2, put(ops, step.caches[0][..., :8]), "k_cache must be"),
        (3, v_cache[1:], "v_cache must be"),
        (4, put_as(ops, step.slots, np.int64), "slot_mapping must be .* int32, got .* int64"),
        (5, HeadNorms(narrow, weight, 1e-6), r"q norm must be \(16,\)"),
        (5, HeadNorms(weight, narrow, 1e-6), r"k norm must be \(16,\)"),
    ):
        with pytest.raises(ValueError, match=f"rotate_and_store: {message}"):
            ops.rotate_and_store(*good[:at], bad, *good[at + 1 :])
