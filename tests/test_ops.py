from __future__ import annotations

import numpy as np
import pytest

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

NUM_TOKENS = [1, 3, 257]
HALF_DEVICES = [backend for backend in DEVICE_BACKENDS if backend.id.endswith("-float16")]


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
    return np.random.default_rng(20)


@pytest.mark.parametrize("num_rows", [0, *NUM_TOKENS])
@pytest.mark.parametrize("width", [1, 8, 100, 250, 4096])
def test_gather_copies_rows_bit_by_bit(ops, rng, num_rows, width):
    table = normal(ops, rng, 37, width)
    rows = rng.integers(0, 37, num_rows)
    result = got(ops, ops.gather(put(ops, table), put_as(ops, rows)))
    np.testing.assert_array_equal(result, table[rows])


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize(("in_size", "out_size"), [(8, 96), (12, 100), (100, 250), (515, 33)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_linear(ops, rng, num_tokens, in_size, out_size, with_bias, with_residual):
    x, weight = normal(ops, rng, num_tokens, in_size), normal(ops, rng, out_size, in_size)
    bias = normal(ops, rng, out_size) if with_bias else None
    residual = normal(ops, rng, num_tokens, out_size) if with_residual else None
    arrays = [None if a is None else put(ops, a) for a in (x, weight, bias, residual)]
    result = ops.linear(*arrays)
    if with_residual:
        assert result is arrays[3]
    assert_close(ops, result, reference.linear(x, weight, bias, residual))


@pytest.mark.parametrize("num_tokens", [0, 1, 3])
def test_logits_are_not_rounded(ops, rng, num_tokens):
    x, weight = normal(ops, rng, num_tokens, 96), normal(ops, rng, 515, 96)
    result = got(ops, ops.logits(put(ops, x), put(ops, weight)))
    want = reference.linear(x, weight, None, None)
    assert result.shape == want.shape
    # Rounding to 16 bits would make it 1e-4 at least; tensor cores truncate what they add.
    assert np.linalg.norm(result - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("hidden_size", [8, 33, 96, 100, 250, 4096])
def test_rms_norm(ops, rng, num_tokens, hidden_size):
    x, weight = normal(ops, rng, num_tokens, hidden_size) * 4, normal(ops, rng, hidden_size)
    result = ops.rms_norm(put(ops, x), put(ops, weight), 1e-5)
    assert_close(ops, result, reference.rms_norm(x, weight, 1e-5))


def test_rms_norm_of_large_values_does_not_overflow(ops, rng):
    x, weight = np.full((2, 96), 2.0**15), normal(ops, rng, 96)
    result = ops.rms_norm(put(ops, x), put(ops, weight), 1e-5)
    assert_close(ops, result, reference.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize(
    ("num_heads", "head_dim"), [(1, 16), (4, 10), (3, 33), (5, 80), (3, 100), (8, 128), (2, 256)]
)
def test_head_norm_changes_its_heads_and_no_others(ops, rng, num_tokens, num_heads, head_dim):
    qkv, weight = normal(ops, rng, num_tokens, num_heads + 3, head_dim), normal(ops, rng, head_dim)
    array = put(ops, qkv)
    ops.head_norm(array[:, 1 : num_heads + 1], put(ops, weight), 1e-6)
    want = qkv.copy()
    want[:, 1 : num_heads + 1] = reference.rms_norm(qkv[:, 1 : num_heads + 1], weight, 1e-6)
    assert_close(ops, array, want)
    np.testing.assert_array_equal(got(ops, array)[:, [0, -2, -1]], qkv[:, [0, -2, -1]])


@pytest.mark.parametrize("half_dim", [8, 40, 128])
def test_rope_angles_are_exact_at_any_position(ops, rng, half_dim):
    inv_freq = np.float32(500000.0) ** -rng.uniform(0, 1, (3, half_dim)).astype(np.float32)
    inv_freq[:, 0] = 1
    positions = np.array([0, 1, 2, 3, 4, 5, 4095, 65537, 131071, *rng.integers(0, 131072, 300)])
    rows = rng.integers(0, 3, positions.size)
    result = ops.rope_angles(
        put_as(ops, inv_freq, np.float32), put_as(ops, rows), put_as(ops, positions), 1.25
    )
    want = reference.rope_angles(inv_freq, rows, positions, 1.25)
    assert np.abs(got(ops, result) - want).max() < 3e-7


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("head_dim", [2, 4, 16, 72, 80, 128, 256])
def test_rope_turns_q_and_k_and_leaves_v(ops, rng, num_tokens, head_dim):
    qkv = normal(ops, rng, num_tokens, 7, head_dim)
    angles = rng.uniform(0, 7, (num_tokens, head_dim // 2))
    cos_sin = np.concatenate((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    array = put(ops, qkv)
    ops.rope(array[:, :5], put_as(ops, cos_sin, np.float32))
    want = np.concatenate((reference.rope(qkv[:, :5], cos_sin.astype(np.float64)), qkv[:, 5:]), 1)
    assert_close(ops, array, want)
    np.testing.assert_array_equal(got(ops, array)[:, 5:], qkv[:, 5:])


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize(
    ("num_kv_heads", "head_dim"), [(1, 16), (3, 80), (2, 20), (3, 5), (2, 6), (8, 128)]
)
@pytest.mark.parametrize("block_size", [1, 5, 16])
def test_store_kv_writes_its_slots_and_no_others(
    ops, rng, num_tokens, num_kv_heads, head_dim, block_size
):
    num_blocks = 300 // block_size + 1
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    qkv = normal(ops, rng, num_tokens, 4 + 2 * num_kv_heads, head_dim)
    k_cache, v_cache = normal(ops, rng, *shape), normal(ops, rng, *shape)
    slots = rng.permutation(num_blocks * block_size)[:num_tokens]
    array, k_array, v_array = put(ops, qkv), put(ops, k_cache), put(ops, v_cache)
    k, v = array[:, 4 : 4 + num_kv_heads], array[:, 4 + num_kv_heads :]
    ops.store_kv(k, v, k_array, v_array, put_as(ops, slots))
    for token, slot in enumerate(slots):
        k_cache[slot // block_size, slot % block_size] = qkv[token, 4 : 4 + num_kv_heads]
        v_cache[slot // block_size, slot % block_size] = qkv[token, 4 + num_kv_heads :]
    np.testing.assert_array_equal(got(ops, k_array), k_cache)
    np.testing.assert_array_equal(got(ops, v_array), v_cache)


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("size", [1, 8, 100, 250, 4096])
def test_swiglu(ops, rng, num_tokens, size):
    gate_up = normal(ops, rng, num_tokens, 2 * size) * 4
    assert_close(ops, ops.swiglu(put(ops, gate_up)), reference.swiglu(gate_up))


def test_swiglu_of_large_gates_has_the_right_limits(ops):
    gate_up = np.array([[-1e4, -100.0, 100.0, 1e4, 2.0, 2.0, 2.0, 2.0]])
    result = got(ops, ops.swiglu(put(ops, gate_up)))
    rounded = (gate_up[:, :4].astype(ops.dtype) * ops.dtype.type(2)).astype(np.float64)
    np.testing.assert_allclose(result, rounded * [0, 0, 1, 1], atol=1e-30)


def test_no_tokens_are_no_work(device_ops):
    ops, no_ids = device_ops, put_as(device_ops, np.empty(0))
    weight, cos_sin = put(ops, np.ones(16)), put_as(ops, np.empty((0, 16)), np.float32)
    x, heads = put(ops, np.empty((0, 16))), put(ops, np.empty((0, 5, 16)))
    cache, table = put(ops, np.ones((2, 4, 1, 16))), put_as(ops, np.ones((1, 8)), np.float32)
    ops.rope(heads[:, :4], cos_sin)
    ops.head_norm(heads[:, :4], weight, 1e-5)
    ops.store_kv(heads[:, 3:4], heads[:, 4:], cache, cache, no_ids)
    assert ops.rope_angles(table, no_ids, no_ids, 1.0).shape == (0, 16)
    assert ops.swiglu(x).shape == (0, 8)
    assert ops.rms_norm(x, weight, 1e-5).shape == (0, 16)
    square = put(ops, np.ones((16, 16)))
    assert ops.linear(x, square, weight).shape == (0, 16)
    assert ops.linear(x, square, weight, x) is x
    assert (got(ops, cache) == 1).all()


def test_a_wrong_argument_is_refused_by_name(device_ops):
    ops = device_ops
    x, other = put(ops, np.ones((3, 16))), np.dtype(np.int8)
    heads = put(ops, np.ones((3, 4, 8)))
    cos_sin = put_as(ops, np.ones((3, 8)), np.float32)
    rows = put_as(ops, [0, 1])
    with pytest.raises(ValueError, match=r"rms_norm: weight must be \(16,\)"):
        ops.rms_norm(x, put(ops, np.ones(8)), 1e-5)
    with pytest.raises(ValueError, match="rms_norm: x must be contiguous"):
        ops.rms_norm(x[:, :8], put(ops, np.ones(8)), 1e-5)
    with pytest.raises(ValueError, match=r"gather: rows must be .* int32, got .* int64"):
        ops.gather(x, put_as(ops, [0], np.int64))
    with pytest.raises(ValueError, match=r"gather: table must be .*, got .* int8"):
        ops.gather(ops.upload(np.ones((3, 16), other)), rows)
    with pytest.raises(ValueError, match="rope: x: heads must be contiguous"):
        ops.rope(heads[:, :, :4], cos_sin[:, :4])
    with pytest.raises(ValueError, match="rope: cos_sin must be"):
        ops.rope(heads, cos_sin[:2])
    with pytest.raises(ValueError, match=r"linear: x \(3, 16\) and weight \(4, 8\) do not fit"):
        ops.linear(x, put(ops, np.ones((4, 8))))
    with pytest.raises(ValueError, match=r"store_kv: k .* and v .* differ"):
        ops.store_kv(heads[:, :1], heads[:, :2], x, x, rows)


@pytest.mark.parametrize("num_tokens", [65536, 70000])
def test_there_may_be_more_tokens_than_a_grid_is_high(ops, rng, num_tokens):
    gate_up, bias = normal(ops, rng, num_tokens, 16), normal(ops, rng, 8)
    hidden = ops.swiglu(put(ops, gate_up))
    assert_close(ops, hidden, reference.swiglu(gate_up))
    weight = normal(ops, rng, 8, 8)
    want = reference.linear(got(ops, hidden), weight, bias, None)
    assert_close(ops, ops.linear(hidden, put(ops, weight), put(ops, bias)), want)


@pytest.mark.parametrize("window", [None, 1, 7, 300])
@pytest.mark.parametrize(
    ("num_queries", "position", "row_size"), [(1, 0, 4), (1, 299, 300), (5, 30, 40), (33, 0, 36)]
)
def test_softmax_is_causal_and_windowed(ops, num_queries, position, row_size, window):
    rng = np.random.default_rng(9)
    scores = (3 * rng.standard_normal((3, num_queries, row_size))).astype(np.float32)
    result = ops.softmax(put_as(ops, scores, np.float32), position, window)
    want = reference.softmax(scores.astype(np.float64), position, window)
    assert_close(ops, result, want)
    assert not got(ops, result)[want == 0].any()


def test_tokens_with_a_negative_slot_are_not_stored(ops, rng):
    kv, before = normal(ops, rng, 4, 4, 8), normal(ops, rng, 3, 2, 2, 8)
    array, k_cache, v_cache = put(ops, kv), put(ops, before), put(ops, before)
    ops.store_kv(array[:, :2], array[:, 2:], k_cache, v_cache, put_as(ops, [4, -1, 0, -1]))
    ops.store_kv(array[:1, :2], array[:1, 2:], k_cache, v_cache, put_as(ops, [-1]))
    for cache, new in ((k_cache, kv[:, :2]), (v_cache, kv[:, 2:])):
        want = before.reshape(6, 2, 8).copy()
        want[4], want[0] = new[0], new[2]
        np.testing.assert_array_equal(got(ops, cache).reshape(6, 2, 8), want)


@pytest.mark.parametrize("rope_from", [None, 4])
@pytest.mark.parametrize("num_rows", [1, 5, 300])
def test_a_step_of_decode_follows_from_the_lengths(ops, rng, num_rows, rope_from):
    block_size, width = 3, 4
    lengths = rng.integers(-1, block_size * width, num_rows)
    lengths[0] = block_size * width - 1
    tables = rng.integers(0, 99, (num_rows, width))
    device_lengths = put_as(ops, lengths)
    rows = ops.begin_decode(device_lengths, put_as(ops, tables), block_size, rope_from)

    for row, length in enumerate(lengths):
        position = max(length, 0)
        slot = tables[row, position // block_size] * block_size + position % block_size
        want = [position, slot if length >= 0 else -1, position + 1]
        want.append(0 if rope_from is None else max(0, position + 1 - rope_from))
        names = ("positions", "slot_mapping", "context_lens", "rope_rows")
        assert [got(ops, getattr(rows, name))[row] for name in names] == want
    np.testing.assert_array_equal(got(ops, device_lengths), lengths + (lengths >= 0))


# Where an index is counted in int, the rows below are not found. Widths are odd: with vectors of
# one element the least memory is enough.
def test_rows_of_a_table_of_more_elements_than_an_int_counts(half_ops, rng):
    table = huge(half_ops, 2**31 // 1001 + 5, 1001)
    values = normal(half_ops, rng, 3, 1001)
    table[-3:] = put(half_ops, values)
    rows = put_as(half_ops, np.array([-1, -3, -2]) + table.shape[0])
    np.testing.assert_array_equal(got(half_ops, half_ops.gather(table, rows)), values[[2, 0, 1]])


def test_slots_of_a_cache_of_more_elements_than_an_int_counts(half_ops, rng):
    shape = (2**31 // (16 * 3 * 5) + 2, 16, 3, 5)
    k_cache, v_cache = huge(half_ops, *shape), huge(half_ops, *shape)
    kv = normal(half_ops, rng, 32, 6, 5)
    array = put(half_ops, kv)
    slots = rng.permutation(32)
    rows = put_as(half_ops, slots + (shape[0] - 2) * 16)
    half_ops.store_kv(array[:, :3], array[:, 3:], k_cache, v_cache, rows)
    for cache, new in ((k_cache, kv[:, :3]), (v_cache, kv[:, 3:])):
        result = got(half_ops, cache[-2:]).reshape(32, 3, 5)
        np.testing.assert_array_equal(result[slots], new)


@pytest.mark.parametrize("op", ["rope", "head_norm", "store_kv"])
def test_tokens_may_be_further_apart_than_an_int_counts(half_ops, rng, op):
    x, weight = normal(half_ops, rng, 2, 3, 16), normal(half_ops, rng, 16)
    heads = huge(half_ops, 2, 2**31 + 64)[:, :48].reshape(2, 3, 16)
    heads[...] = put(half_ops, x)
    if op == "rope":
        cos_sin = rng.uniform(-1, 1, (2, 16)).astype(np.float32)
        half_ops.rope(heads, put_as(half_ops, cos_sin, np.float32))
        assert_rows_close(half_ops, heads, reference.rope(x, cos_sin.astype(np.float64)))
    elif op == "head_norm":
        half_ops.head_norm(heads, put(half_ops, weight), 1e-6)
        assert_rows_close(half_ops, heads, reference.rms_norm(x, weight, 1e-6))
    else:
        k_cache, v_cache = (put(half_ops, normal(half_ops, rng, 1, 2, 1, 16)) for _ in range(2))
        slots = put_as(half_ops, [1, 0])
        half_ops.store_kv(heads[:, :1], heads[:, 1:2], k_cache, v_cache, slots)
        np.testing.assert_array_equal(got(half_ops, k_cache)[0, ::-1, 0], x[:, 0])
        np.testing.assert_array_equal(got(half_ops, v_cache)[0, ::-1, 0], x[:, 1])
