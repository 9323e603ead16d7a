"""A KV cache in 8 bits: what is stored, what attention makes of it, and whole models over it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from llama_cu.kernel_plan import plan_kernels
from llama_cu.kv_cache import allocate_kv_cache, kv_bytes_per_token
from llama_cu.llm import LLM
from llama_cu.ops.base import HeadNorms
from llama_cu.ops.int8_cache import Int8Cache, quantize_rows
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.sampling_params import SamplingParams
from tests.attention_problem import Problem
from tests.backends import (
    BACKENDS,
    DEVICE_BACKENDS,
    OLD_DEVICE_BACKENDS,
    assert_close,
    got,
    make_cpu_ops,
    make_ops,
    normal,
    put,
    put_as,
)
from tests.tiny import make_engine, run, tiny_config

DECODES = ((1, 1), (1, 31), (1, 33), (1, 256), (1, 257), (1, 700))
PREFILLS = ((2, 2), (33, 33), (40, 77), (3, 300))
MIXED = (PREFILLS[0], DECODES[0], PREFILLS[2], DECODES[4], DECODES[3], PREFILLS[3])
# (head_dim, query heads, KV heads): 72 and 24 are no multiples of 16, 20 is none of 8.
HEADS = [(64, 6, 2), (128, 8, 1), (80, 4, 2), (72, 3, 3), (24, 9, 1), (20, 6, 2), (256, 2, 1)]
# Where numbers are expanded to the dtype, K and V are rounded to it too.
EXPANDED = 1.5
# What is stored: vectors of 1 to 8, more pairs than lanes, and less.
STORED = [(8, 2, 128), (9, 3, 64), (2, 1, 80), (3, 1, 6), (2, 2, 90), (1, 1, 256), (3, 2, 20)]


@pytest.fixture(params=[*BACKENDS, *OLD_DEVICE_BACKENDS])
def ops(request):
    return make_ops(request.param)


@pytest.fixture(params=[*DEVICE_BACKENDS, *OLD_DEVICE_BACKENDS])
def device_ops(request):
    return make_ops(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def test_a_row_is_its_scale_times_whole_numbers(rng):
    x = rng.standard_normal((50, 3, 64)).astype(np.float32) * np.float32(10) ** rng.integers(
        -30, 30, (50, 3, 1)
    ).astype(np.float32)
    numbers, scales = quantize_rows(x)
    assert numbers.dtype == np.int8 and scales.dtype == np.float32 and scales.shape == (50, 3)
    assert (np.abs(numbers.astype(int)).max(axis=-1) == 127).all()
    error = np.abs(numbers * scales.astype(np.float64)[..., None] - x)
    assert (error <= 0.5001 * scales[..., None]).all()


@pytest.mark.parametrize("highest", [0, 1e-45, 1e-44, 1e-40, np.inf, np.nan])
def test_a_row_without_a_scale_that_is_a_number_is_stored_all_the_same(highest):
    x = np.array([[highest, -highest, 0, highest / 2]], np.float32)
    with np.errstate(invalid="ignore"):
        numbers, scales = quantize_rows(x)
    if highest < 1e-43:
        assert scales[0] == 0 and not numbers.any()
    elif highest < 1:
        assert np.abs(numbers * scales.astype(np.float64) - x).max() <= scales[0]
    else:
        np.testing.assert_array_equal(scales, np.float32([highest]))


class Cache:
    """A cache of a backend, of random bytes and scales, and a copy of them on the host."""

    def __init__(self, ops, rng, shape):
        num_blocks, block_size, num_kv_heads, _ = shape
        self.ops = ops
        self.caches, self.before = [], []
        for _ in range(2):
            values = rng.integers(-127, 128, shape).astype(np.int8)
            scales = rng.uniform(1, 2, (num_blocks, num_kv_heads, block_size)).astype(np.float32)
            self.before.append((values, scales))
            self.caches.append(Int8Cache(ops.upload(values.copy()), ops.upload(scales.copy())))

    def check(self, rows, slots):
        """K and V of tokens are in their slots, by the rule; all else is as it was."""
        block_size = self.before[0][0].shape[1]
        for cache, (values, scales), own in zip(self.caches, self.before, rows, strict=True):
            values, scales = values.copy(), scales.copy()
            for token, slot in enumerate(slots):
                if slot >= 0:
                    block, offset = divmod(slot, block_size)
                    numbers, own_scales = quantize_rows(own[token].astype(np.float32))
                    values[block, offset], scales[block, :, offset] = numbers, own_scales
            np.testing.assert_array_equal(got(self.ops, cache.values), values)
            np.testing.assert_array_equal(self.ops.download(cache.scales), scales)


@pytest.mark.parametrize("shape", STORED)
@pytest.mark.parametrize("num_tokens", [1, 3, 40])
@pytest.mark.parametrize("normed", [False, True])
def test_what_rotate_and_store_leaves_in_qkv_is_what_it_stores(ops, rng, shape, num_tokens, normed):
    num_heads, num_kv_heads, head_dim = shape
    qkv = put(ops, normal(ops, rng, num_tokens, num_heads + 2 * num_kv_heads, head_dim))
    cos_sin = put_as(ops, rng.uniform(-1, 1, (num_tokens, head_dim)), np.float32)
    cache = Cache(ops, rng, (num_tokens // 4 + 2, 4, num_kv_heads, head_dim))
    slots = rng.permutation(num_tokens + 4)[:num_tokens]
    if num_tokens > 1:
        slots[1] = -3
    norms = None
    if normed:
        norms = HeadNorms(*(put(ops, normal(ops, rng, head_dim)) for _ in range(2)), 1e-6)
    ops.rotate_and_store(qkv, cos_sin, *cache.caches, put_as(ops, slots), norms)
    after = got(ops, qkv)
    cache.check((after[:, num_heads:-num_kv_heads], after[:, -num_kv_heads:]), slots)


@pytest.mark.parametrize(("num_kv_heads", "head_dim"), [(1, 16), (3, 80), (3, 5), (2, 6), (9, 128)])
@pytest.mark.parametrize("slots", [[0], [-1], [9, -1, 2, 0, 14]])
def test_store_kv_stores_by_the_rule(ops, rng, num_kv_heads, head_dim, slots):
    qkv = normal(ops, rng, len(slots), 2 * num_kv_heads + 1, head_dim)
    if len(slots) > 1:
        qkv[0, 1] = 0
    cache = Cache(ops, rng, (5, 3, num_kv_heads, head_dim))
    heads = put(ops, qkv)
    k, v = heads[:, 1 : num_kv_heads + 1], heads[:, num_kv_heads + 1 :]
    ops.store_kv(k, v, *cache.caches, put_as(ops, slots))
    cache.check((qkv[:, 1 : num_kv_heads + 1], qkv[:, num_kv_heads + 1 :]), slots)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("window", [None, 100])
def test_attention_is_over_what_the_numbers_are_worth(ops, heads, window):
    problem = Problem(ops, MIXED, heads, in_8_bits=True)
    assert_close(ops, problem.result(window), problem.want(window), EXPANDED)


@pytest.mark.parametrize("lens", [DECODES, PREFILLS], ids=["decode", "prefill"])
@pytest.mark.parametrize("block_size", [1, 5, 64])
def test_blocks_of_any_size(ops, lens, block_size):
    problem = Problem(ops, lens, HEADS[0], block_size=block_size, in_8_bits=True)
    assert_close(ops, problem.result(), problem.want())


@pytest.mark.parametrize("window", [None, 20])
def test_the_unfused_path_computes_the_same(device_ops, window):
    problem = Problem(device_ops, MIXED, HEADS[0], in_8_bits=True)
    assert_close(device_ops, problem.unfused_result(window), problem.want(window), EXPANDED)


@pytest.mark.parametrize("window", [None, 20])
def test_neighbours_in_the_batch_change_no_bit(device_ops, window):
    problem = Problem(device_ops, (*MIXED, *DECODES), HEADS[0], in_8_bits=True)
    together = got(device_ops, problem.result(window))
    start = 0
    for seq, query_len in enumerate(problem.query_lens):
        alone = got(device_ops, problem.only(seq).result(window))
        np.testing.assert_array_equal(alone, together[start : start + query_len])
        start += query_len


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("heads", [HEADS[0], HEADS[5]], ids=str)
def test_what_no_query_sees_is_never_looked_at(ops, heads, window):
    problem = Problem(ops, MIXED, heads, in_8_bits=True)
    want = problem.want(window)
    seen = np.zeros(problem.k_cache.shape[:2], bool)
    for i, table in enumerate(problem.tables):
        # The unfused path and NumPy look at all keys of a sequence and weigh them with 0.
        reach = window if window and ops.device is not None and heads[0] % 8 == 0 else 1000
        first = problem.context_lens[i] - problem.query_lens[i] + 1 - reach
        for position in range(max(0, first), problem.context_lens[i]):
            seen[table[position // 16], position % 16] = True
    for _, scales in problem.in_8_bits:
        scales[~seen] = np.nan
    assert_close(ops, problem.result(window), want, EXPANDED)


def test_caches_that_do_not_fit_are_refused_by_name(device_ops, rng):
    problem = Problem(device_ops, ((1, 20),), (16, 2, 2), in_8_bits=True)
    q, k_cache, v_cache = problem.arrays()
    plain = put(device_ops, problem.v_cache)
    attend = partial(device_ops.attention, q)
    with pytest.raises(ValueError, match="attention: one of the caches of k and v is in 8 bits"):
        attend(k_cache, plain, problem.batch(), 1.0, None)
    transposed = Int8Cache(v_cache.values, put_as(device_ops, np.ones((5, 16, 2)), np.float32))
    with pytest.raises(ValueError, match=r"attention: v_cache scales must be \(5, 2, 16\)"):
        attend(k_cache, transposed, problem.batch(), 1.0, None)
    wide = Int8Cache(put_as(device_ops, np.ones((5, 16, 2, 16)), np.int16), v_cache.scales)
    with pytest.raises(ValueError, match=r"attention: v_cache must be .* int8, got .* int16"):
        attend(k_cache, wide, problem.batch(), 1.0, None)
    one = put(device_ops, np.ones((1, 1, 16)))
    with pytest.raises(ValueError, match="store_kv: 1 KV heads for a cache of 2"):
        device_ops.store_kv(one, one, k_cache, v_cache, put_as(device_ops, [0]))


PROMPTS = ([1, 2, 3], [5] * 40, [7, 8, 9, 10, 11, 12, 13, 14, 15, 16])


def engine(ops, **options):
    return make_engine(ops, options.pop("config", None), kv_dtype="int8", **options)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_device_tells_what_numpy_tells(device_ops, qk_norm):
    config = tiny_config(qk_norm=qk_norm)
    params = SamplingParams(temperature=0, max_tokens=12)
    want = run(engine(NumpyOps(device_ops.dtype), config=config), PROMPTS, params)
    assert run(engine(device_ops, config=config), PROMPTS, params) == want
    eager = engine(device_ops, config=config, enforce_eager=True)
    assert run(eager, PROMPTS, params) == want


@pytest.mark.parametrize("temperature", [0, 1])
def test_chunks_company_and_preemption_change_no_answer(temperature):
    params = SamplingParams(temperature=temperature, max_tokens=20, seed=4)
    whole = run(engine(None), PROMPTS, params)
    for options in ({"max_batch_tokens": 7}, {"max_num_seqs": 1}, {"num_blocks": 18}):
        assert run(engine(None, **options), PROMPTS, params) == whole


@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_token_takes_a_byte_an_element_and_a_scale_a_head(itemsize):
    config = tiny_config(head_dim=16, num_key_value_heads=2, num_hidden_layers=2)
    assert kv_bytes_per_token(config, itemsize, "int8") == 2 * 2 * 2 * (16 + 4)
    assert kv_bytes_per_token(config, itemsize) == 2 * 2 * 2 * 16 * itemsize
    cache = allocate_kv_cache(
        NumpyOps(DTYPES["float32"]), config, num_blocks=3, block_size=4, kv_dtype="int8"
    )
    arrays = [a for layer in cache.layers for c in layer for a in (c.values, c.scales)]
    assert sum(a.nbytes for a in arrays) == 12 * kv_bytes_per_token(config, itemsize, "int8")


def test_the_plan_has_the_kernels_that_a_model_asks_for():
    ops = make_cpu_ops("float16")
    config = tiny_config()
    planned = set(plan_kernels(config, ops.dtype, ops.device, kv_dtype="int8"))
    params = SamplingParams(temperature=0, max_tokens=4)
    run(engine(ops, config=config), PROMPTS[:1], params)
    asked = set(ops.device.requests)
    assert asked <= planned
    names = {name: args for _, name, args in asked}
    assert names["rotate_and_store"][-1] == names["attention_prefill_mma"][-1] == 1


def test_an_llm_with_a_cache_in_8_bits_holds_more_and_answers_nearly_the_same():
    plain, small = (
        LLM("models/story", device="cpu", kv_dtype=kv_dtype, kv_cache_bytes=1 << 22)
        for kv_dtype in ("auto", "int8")
    )
    head_dim = plain.config.head_dim
    ratio = small.engine.capacity / plain.engine.capacity
    assert ratio == pytest.approx(4 * head_dim / (head_dim + 4), rel=0.05)
    text = "Once upon a time there was a little dog who had a red ball."
    difference = small.logprobs(text) - plain.logprobs(text)
    assert 0 < np.abs(difference).mean() < 0.03


def test_another_kv_dtype_is_refused():
    with pytest.raises(ValueError, match="kv_dtype must be one of auto, int8, got 'fp8'"):
        LLM("models/story", kv_dtype="fp8")
