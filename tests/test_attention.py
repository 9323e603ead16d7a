from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.attention_problem import Problem
from tests.backends import (
    BACKENDS,
    DEVICE_BACKENDS,
    OLD_DEVICE_BACKENDS,
    assert_close,
    got,
    huge,
    make_cpu_ops,
    make_ops,
    put,
    put_as,
)

# (head_dim, query heads, KV heads): groups of 1, 2, 3, 8, 9, 32 and in between. The first five in
# every dtype; the rest in float32, and those whose layout another does not have in float16.
HEADS = [(64, 6, 2), (128, 8, 1), (80, 32, 1), (128, 3, 3), (80, 4, 2)]
MORE_HEADS = {
    "float32": [
        (8, 2, 2),
        (16, 18, 2),
        (32, 3, 1),
        (96, 4, 4),
        (112, 6, 2),
        (192, 5, 1),
        (256, 11, 1),
    ],
    "float16": [(32, 9, 1), (96, 17, 1), (112, 6, 2), (192, 5, 1), (256, 11, 1)],
}

# Decode across the borders of tiles of 32 and partitions of 256; prefill whole and in part.
DECODES = ((1, 1), (1, 2), (1, 31), (1, 32), (1, 33), (1, 255), (1, 256), (1, 257), (1, 700))
PREFILLS = ((2, 2), (3, 300), (33, 33), (40, 77))
MIXED = (PREFILLS[0], DECODES[0], PREFILLS[2], DECODES[7], DECODES[5], PREFILLS[1])


@pytest.fixture(params=[*BACKENDS, *OLD_DEVICE_BACKENDS])
def ops(request):
    return make_ops(request.param)


@pytest.fixture(params=[*DEVICE_BACKENDS, *OLD_DEVICE_BACKENDS])
def device_ops(request):
    return make_ops(request.param)


@pytest.fixture(params=[backend for backend in DEVICE_BACKENDS if backend.id.endswith("-float16")])
def half_ops(request):
    return make_ops(request.param)


@pytest.mark.parametrize("window", [None, 1, 20, 300])
@pytest.mark.parametrize("lens", [DECODES, PREFILLS, MIXED], ids=["decode", "prefill", "mixed"])
def test_attention_of_a_ragged_batch(ops, lens, window):
    problem = Problem(ops, lens, HEADS[0])
    assert_close(ops, problem.result(window), problem.want(window))


@pytest.mark.parametrize("heads", HEADS[1:], ids=str)
@pytest.mark.parametrize("window", [None, 100])
def test_attention_of_groups_of_heads(ops, heads, window):
    problem = Problem(ops, MIXED, heads)
    assert_close(ops, problem.result(window), problem.want(window))


@pytest.mark.parametrize(
    ("backend", "heads"),
    [
        pytest.param(*backend.values, heads, id=f"{backend.id}-{heads}", marks=backend.marks)
        for backend in BACKENDS
        for heads in MORE_HEADS.get(backend.values[0][1], ())
    ],
)
def test_attention_of_other_head_sizes(backend, heads):
    ops = make_ops(backend)
    problem = Problem(ops, MIXED, heads)
    assert_close(ops, problem.result(100), problem.want(100))


@pytest.mark.parametrize("block_size", [1, 5, 64])
def test_attention_over_blocks_of_any_size(ops, block_size):
    problem = Problem(ops, MIXED, HEADS[0], block_size=block_size)
    assert_close(ops, problem.result(), problem.want())


@pytest.mark.parametrize("window", [None, 150])
def test_prefill_over_many_tiles_of_queries_and_keys(device_ops, window):
    problem = Problem(device_ops, ((300, 300), (1, 9), (150, 411), (129, 129)), (64, 4, 2))
    assert_close(device_ops, problem.result(window), problem.want(window))


@pytest.mark.parametrize(
    ("dtype", "head_dim", "arch", "on_tensor_cores"),
    [
        ("bfloat16", 128, 80, True),
        ("float16", 256, 90, True),
        ("float16", 64, 75, False),
        ("float32", 64, 90, False),
        ("float16", 72, 90, False),
    ],
)
def test_prefill_is_on_tensor_cores_where_there_are_some(dtype, head_dim, arch, on_tensor_cores):
    ops = make_cpu_ops(dtype, arch=arch)
    problem = Problem(ops, ((3, 5),), (head_dim, 2, 1))
    assert_close(ops, problem.result(), problem.want())
    name = "attention_prefill_mma" if on_tensor_cores else "attention_prefill"
    assert name in {request[1] for request in ops.device.requests}


@pytest.mark.parametrize(
    ("dtype", "head_dim", "arch", "on_tensor_cores"),
    [
        ("bfloat16", 128, 80, True),
        ("float16", 96, 90, True),
        ("float16", 64, 75, False),
        ("float32", 64, 90, False),
        ("float16", 80, 90, False),
        ("float16", 256, 90, False),
    ],
)
def test_decode_is_on_tensor_cores_where_there_are_some(dtype, head_dim, arch, on_tensor_cores):
    ops = make_cpu_ops(dtype, arch=arch)
    problem = Problem(ops, ((1, 300),), (head_dim, 2, 1))
    assert_close(ops, problem.result(), problem.want())
    name = "attention_decode_mma" if on_tensor_cores else "attention_decode"
    assert name in {request[1] for request in ops.device.requests}


@pytest.mark.parametrize("head_dim", [20, 100])
def test_attention_of_a_head_size_without_a_kernel_of_its_own(ops, head_dim):
    problem = Problem(ops, MIXED, (head_dim, 6, 2))
    assert_close(ops, problem.result(20), problem.want(20))


@pytest.mark.parametrize("window", [None, 20])
def test_the_unfused_path_computes_the_same(device_ops, window):
    problem = Problem(device_ops, MIXED, HEADS[0])
    assert_close(device_ops, problem.unfused_result(window), problem.want(window))


def test_the_unfused_path_bounds_its_memory_by_tiles_of_queries(device_ops, monkeypatch):
    problem = Problem(device_ops, PREFILLS, HEADS[0])
    monkeypatch.setattr("llama_cu.ops.cuda_unfused._MAX_SCORES", 7 * 77 * 6)
    assert_close(device_ops, problem.unfused_result(30), problem.want(30))


@pytest.mark.parametrize("limit", ["_MAX_PARTIALS", "MAX_GRID_YZ"])
def test_sequences_that_do_not_fit_one_launch_are_decoded_in_several(
    device_ops, monkeypatch, limit
):
    problem = Problem(device_ops, (*DECODES, *MIXED), HEADS[0])
    together = got(device_ops, problem.result(300))
    monkeypatch.setattr(f"llama_cu.ops.cuda_attention.{limit}", 2 if "GRID" in limit else 4000)
    np.testing.assert_array_equal(got(device_ops, problem.result(300)), together)
    assert_close(device_ops, problem.result(300), problem.want(300))


@pytest.mark.parametrize("head_dim", [64, 20])
def test_a_sequence_without_new_tokens_has_nothing_to_do(device_ops, head_dim):
    lens = ((0, 40), PREFILLS[2], (0, 0), DECODES[7], (0, 300))
    problem = Problem(device_ops, lens, (head_dim, 6, 2))
    assert_close(device_ops, problem.result(20), problem.want(20))


@pytest.mark.parametrize("window", [None, 20])
def test_neighbours_in_the_batch_change_no_bit(device_ops, window):
    problem = Problem(device_ops, (*MIXED, *DECODES, *PREFILLS), HEADS[0])
    together = got(device_ops, problem.result(window))
    start = 0
    for seq, query_len in enumerate(problem.query_lens):
        alone = got(device_ops, problem.only(seq).result(window))
        np.testing.assert_array_equal(alone, together[start : start + query_len])
        start += query_len


@pytest.mark.parametrize("window", [None, 20])
def test_chunks_of_a_prefill_change_no_bit(device_ops, window):
    problem = Problem(device_ops, ((90, 130),), HEADS[0])
    whole = got(device_ops, problem.result(window))
    for first, end in ((0, 7), (7, 50), (50, 90)):
        part = got(device_ops, problem.only(0, first, end).result(window))
        np.testing.assert_array_equal(part, whole[first:end])


@pytest.mark.parametrize("window", [None, 20])
def test_what_no_query_sees_is_never_looked_at(device_ops, window):
    problem = Problem(device_ops, MIXED, HEADS[0])
    want = problem.want(window)
    seen = np.zeros(problem.k_cache.shape[:2], bool)
    for i, table in enumerate(problem.tables):
        first = problem.context_lens[i] - problem.query_lens[i] + 1 - (window or 1000)
        for position in range(max(0, first), problem.context_lens[i]):
            seen[table[position // 16], position % 16] = True
    problem.k_cache[~seen] = problem.v_cache[~seen] = np.nan
    assert_close(device_ops, problem.result(window), want)


@pytest.mark.parametrize("query_len", [1, 2])
def test_one_key_may_outweigh_all_others_wherever_it_stands(half_ops, query_len):
    positions = (0, 31, 32, 64, 127, 128, 255, 256, 290, 298)
    problem = Problem(half_ops, ((query_len, 299 + query_len - 1),) * len(positions), (64, 2, 2))
    problem.qkv, problem.scale = np.round(problem.qkv), 1.0
    for seq, position in enumerate(positions):
        block, slot = problem.tables[seq][position // 16], position % 16
        problem.k_cache[block, slot] = 8 * problem.qkv[seq * query_len, :2]
    result = problem.result()
    assert_close(half_ops, result, problem.want())
    chosen = [
        problem.v_cache[t[p // 16], p % 16] for t, p in zip(problem.tables, positions, strict=True)
    ]
    np.testing.assert_array_equal(got(half_ops, result)[::query_len].reshape(-1, 2, 64), chosen)


def test_a_cache_may_hold_more_vectors_than_an_int_counts(half_ops):
    problem = Problem(half_ops, MIXED, HEADS[0])
    problem.v_cache = problem.k_cache  # one array of 32 GiB of addresses is enough
    want = problem.want()
    num_blocks, *block = problem.k_cache.shape
    first = 2**31 * 8 // (16 * 2 * 64)
    cache = huge(half_ops, first + num_blocks, *block)
    cache[first:] = put(half_ops, problem.k_cache)
    problem.tables = tuple(tuple(first + i for i in table) for table in problem.tables)
    q = problem.arrays()[0]
    result = half_ops.attention(q, cache, cache, problem.batch(), problem.scale, None)
    assert_close(half_ops, result, want)


@pytest.mark.parametrize("lens", [((1, 40), (1, 300)), ((2, 40),)], ids=["decode", "prefill"])
def test_queries_may_be_further_apart_than_an_int_counts(half_ops, lens):
    problem = Problem(half_ops, lens, HEADS[0])
    near, *caches = problem.arrays()
    q = huge(half_ops, 2, 2**31 + 64)[:, : 6 * 64].reshape(2, 6, 64)
    q[...] = near
    result = half_ops.attention(q, *caches, problem.batch(), problem.scale, None)
    assert_close(half_ops, result, problem.want())


def test_a_batch_that_does_not_fit_is_refused(device_ops):
    problem = Problem(device_ops, MIXED, HEADS[0])
    q, k_cache, v_cache = problem.arrays()
    batch = problem.batch()
    with pytest.raises(ValueError, match="attention: 5 query heads for 2 KV heads"):
        device_ops.attention(q[:, :5], k_cache, v_cache, batch, 1.0, None)
    with pytest.raises(ValueError, match=r"attention: \d+ queries, the batch has \d+"):
        device_ops.attention(q[1:], k_cache, v_cache, batch, 1.0, None)
    with pytest.raises(ValueError, match="attention: window must be at least 1, got 0"):
        device_ops.attention(q, k_cache, v_cache, batch, 1.0, 0)
    long = Problem(device_ops, ((1, 700),), HEADS[0])
    batch = replace(long.batch(), block_tables=put_as(device_ops, np.zeros((1, 3))))
    with pytest.raises(ValueError, match="attention: context 700 exceeds the block table"):
        device_ops.attention(*long.arrays(), batch, 1.0, None)
