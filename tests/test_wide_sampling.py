"""Draws from large vocabularies, which the whole chip reads: the same tokens as NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llama_cu.ops import cuda_sampling
from llama_cu.ops.cuda_launch import ceil_div
from llama_cu.ops.cuda_ops import CudaOps
from tests.backends import got, make_ops, put_as
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler
from tests.draws import FLOAT32_DEVICES, NUMPY, random_filters, sample, sampling_rows

Array = Any

FLOAT32 = np.dtype(np.float32)
LARGEST_BELOW_ONE = 1 - 2.0**-24


@pytest.fixture(params=FLOAT32_DEVICES)
def device_ops(request: pytest.FixtureRequest) -> Any:
    return make_ops(request.param)


@pytest.fixture
def always_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies are cut into shares too."""
    monkeypatch.setattr(cuda_sampling, "_MAX_ONE_BLOCK_SAMPLE", 0)
    monkeypatch.setattr(cuda_sampling, "_MAX_ONE_BLOCK_ARGMAX", 0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(31)


class KeepingDevice(CpuDevice):
    """A CPU device whose new arrays hold old values, and can be looked at afterwards."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kept: list[Array] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = super().empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0x5B
        self.kept.append(array)
        return array


def make_cpu_ops(**options: Any) -> Any:
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    return CudaOps(KeepingDevice(**options), FLOAT32)


def assert_draws_as_numpy(ops: Any, logits: Array, **params: Any) -> Array:
    tokens = sample(ops, logits, **params)
    np.testing.assert_array_equal(tokens, sample(NUMPY, logits, **params))
    return tokens


def spread(rng: np.random.Generator, num_rows: int, vocab_size: int) -> Array:
    return rng.normal(0, 3, (num_rows, vocab_size)).astype(np.float32)


@pytest.mark.parametrize("vocab_size", [8193, 32000, 49152, 128256, 151936])
@pytest.mark.parametrize("kind", ["spread", "flat", "tied", "banned"])
def test_rows_of_every_kind_draw_the_same_tokens_as_numpy(
    device_ops: Any, rng: np.random.Generator, vocab_size: int, kind: str
) -> None:
    num_rows = 14 if vocab_size < 40000 else 6
    logits = spread(rng, num_rows, vocab_size)
    if kind == "flat":
        logits *= np.float32(0.2)
    if kind == "tied":
        logits = np.round(logits)
    if kind == "banned":
        logits[rng.random(logits.shape) < 0.9] = -np.inf
    params = random_filters(rng, num_rows)
    params["temperature"][:3] = 0.0, 0.8, 1.0
    params["top_k"][:3], params["top_p"][:3], params["min_p"][:3] = [0, 0, 40], [1, 0.95, 0.9], 0
    assert_draws_as_numpy(device_ops, logits, **params)


@pytest.mark.parametrize("vocab_size", [1, 2, 31, 33, 255, 256, 257, 2048, 5001])
@pytest.mark.usefixtures("always_wide")
def test_shares_may_be_few_and_the_last_one_short(
    device_ops: Any, rng: np.random.Generator, vocab_size: int
) -> None:
    logits = spread(rng, 40, vocab_size)
    logits[20:] = np.round(logits[20:])
    assert_draws_as_numpy(device_ops, logits, **random_filters(rng, 40))
    assert_draws_as_numpy(device_ops, logits, temperature=0.0)
    assert_draws_as_numpy(device_ops, logits[:20])


FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 400},
    {"top_k": 2999},
    {"top_k": 3000},
    {"top_p": 1e-9},
    {"top_p": 0.9},
    {"top_p": LARGEST_BELOW_ONE},
    {"min_p": 1e-12},
    {"min_p": 0.1},
    {"top_k": 100, "top_p": 0.7, "min_p": 0.01},
    {"top_p": 0.999, "min_p": 0.02},
]


def rows_of_every_shape(rng: np.random.Generator, vocab_size: int) -> Array:
    """Rows in which something is equal, ordered, extreme, or only one thing counts."""
    normal = rng.normal(0, 2, vocab_size)
    one_hot = np.full(vocab_size, -np.inf)
    one_hot[vocab_size // 3] = -5
    ladder = 1.6e7 + rng.permutation(vocab_size)  # division by 1.9 makes neighbours equal
    rows = [
        np.full(vocab_size, 0.25),
        one_hot,
        np.sort(normal),
        np.sort(normal)[::-1],
        normal.astype(np.float16),
        normal * 1e-40,
        normal * 1e30,
        np.where(np.arange(vocab_size) % 7, -0.0, 0.0),
        normal + np.where(np.arange(vocab_size) == 1234, 60, 0),
        normal - 40,
        ladder,
        np.where(rng.random(vocab_size) < 0.01, 7.5, -1e30),
    ]
    return np.stack(rows).astype(np.float32)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.usefixtures("always_wide")
def test_ties_orders_and_extremes_draw_the_same_tokens_as_numpy(
    device_ops: Any, rng: np.random.Generator, filters: dict[str, Any]
) -> None:
    logits = rows_of_every_shape(rng, 3000)
    for temperature in (1.0, 1.9, 0.02):
        assert_draws_as_numpy(device_ops, logits, temperature=temperature, **filters)


@pytest.mark.usefixtures("always_wide")
def test_logits_that_become_equal_by_the_division_stay_together(
    device_ops: Any, rng: np.random.Generator
) -> None:
    steps = rng.choice(4000, (100, 700))
    logits = (16777214 - steps).astype(np.float32)
    temperatures = rng.choice([1.5, 1.7, 1.9, 1.99], 100)
    top_ks = rng.integers(1, 4, 100)
    assert_draws_as_numpy(device_ops, logits, temperature=temperatures, top_k=top_ks)


@pytest.mark.parametrize(
    "filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 3, "top_p": 0.5}]
)
@pytest.mark.usefixtures("always_wide")
def test_what_is_no_number_ends_in_the_largest_of_its_order(
    device_ops: Any, rng: np.random.Generator, filters: dict[str, Any]
) -> None:
    logits = spread(rng, 6, 4000)
    logits[0] = np.nan
    logits[1, 77] = np.nan
    logits[2, 77] = np.copysign(np.nan, -1)
    logits[3] = -np.inf
    logits[4, 77] = np.inf
    logits[5, [77, 3000]] = np.inf
    tokens = sample(device_ops, logits, **filters)
    assert tokens[[0, 1, 3, 4, 5]].tolist() == [0, 77, 0, 77, 77]
    assert 0 <= tokens[2] < 4000 and tokens[2] != 77
    greedy = sample(device_ops, logits, temperature=[0, 0, 0, 0, 0, 1.0])
    assert greedy[[0, 1, 3, 4]].tolist() == [0, 77, 0, 77]


@pytest.mark.parametrize("order", ["forward", "reversed", 5])
@pytest.mark.parametrize("num_multiprocessors", [1, 3, 200])
def test_neither_the_order_of_blocks_nor_their_number_changes_a_token(
    rng: np.random.Generator, order: Any, num_multiprocessors: int
) -> None:
    ops = make_cpu_ops(order=order, num_multiprocessors=num_multiprocessors)
    logits = spread(rng, 5, 40000)
    logits[3:] /= 8
    filters = {"top_k": [0, 50, 0, 0, 0], "top_p": [1.0, 0.9, 0.9, 0.9, 0.6]}
    tokens = assert_draws_as_numpy(ops, logits, **filters)
    assert len(set(tokens.tolist())) == 5
    assert_draws_as_numpy(ops, logits, temperature=0.0)


def surveyed(ops: Any, logits: Array, **params: Any) -> tuple[Array, Array]:
    """After a draw: how many candidates each row had, and whether it was taken for flat."""
    ops.device.kept.clear()
    assert_draws_as_numpy(ops, logits, **params)
    num_rows, vocab_size = logits.shape
    kept = {array.shape: array for array in ops.device.kept if array.dtype == np.int32}
    words, state = kept[num_rows, ceil_div(vocab_size, 32)], kept[num_rows, 2]
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1)
    return bits.sum(axis=1), state[:, 1] != 0


def test_candidates_are_few_but_enough(rng: np.random.Generator) -> None:
    ops = make_cpu_ops()
    logits = spread(rng, 4, 128256)
    counts, flat = surveyed(ops, logits, top_k=[1, 40, 400, 1200], top_p=0.9)
    assert not flat.any()
    assert (counts >= [1, 40, 400, 1200]).all() and (counts <= [20, 80, 1200, 3072]).all()

    peaked = logits * np.float32([[1.2], [1.6], [0.2], [0.02]])
    counts, flat = surveyed(ops, peaked, top_p=0.9, temperature=0.8)
    assert flat.tolist() == [False, False, True, True]
    assert ((counts > 100) & (counts <= 3072)).tolist() == [True, True, True, False]


@pytest.mark.parametrize("spread_of_row", [1.0, 0.2, 0.02])
@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"top_k": 40, "top_p": 0.9}], ids=str)
def test_a_captured_draw_is_a_draw_each_time(
    rng: np.random.Generator, params: dict[str, Any], spread_of_row: float
) -> None:
    ops = make_cpu_ops()
    device = ops.device
    host = spread(rng, 3, 12000) * np.float32(spread_of_row)
    array, out = put_as(ops, host, np.float32), device.empty((3,), np.dtype(np.int32))
    rows = sampling_rows(ops, 3, **params)
    ops.sample(array, rows, out=out)
    graph = device.capture(lambda: ops.sample(array, rows, out=out))
    staged = device.pinned(host.shape, FLOAT32)
    drawn = set()
    for _ in range(3):
        staged[...] = host = rng.permuted(host, axis=1)
        device.copy_in(staged, array)
        graph.launch()
        tokens = got(ops, out)
        np.testing.assert_array_equal(tokens, sample(NUMPY, host, **params))
        drawn.update(tokens.tolist())
    assert len(drawn) > 4
