from __future__ import annotations

import numpy as np
import pytest

from llama_cu.batch import LogitEdits, LogitMasks, SamplingRows
from llama_cu.ops.cuda_launch import ceil_div
from llama_cu.philox import philox4x32, random_bits
from tests import reference
from tests.backends import got, make_ops, put_as
from tests.draws import (
    FLOAT32_BACKENDS,
    FLOAT32_DEVICES,
    NUMPY,
    random_filters,
    sample,
    sampling_rows,
)

# Random123's kat_vectors: counter, key, words of philox4x32-10.
KNOWN_WORDS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.fixture(params=FLOAT32_BACKENDS)
def ops(request):
    return make_ops(request.param)


@pytest.fixture(params=FLOAT32_DEVICES)
def device_ops(request):
    return make_ops(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(30)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_WORDS)
def test_philox_gives_the_known_words_of_its_authors(counter, key, words):
    assert philox4x32(counter, key) == words


def test_the_kernels_philox_gives_the_known_words_too(device_ops):
    counters, keys, words = (np.array(rows, np.uint32) for rows in zip(*KNOWN_WORDS, strict=True))
    out = device_ops.device.empty((3, 4), np.dtype(np.int32))
    args = (
        put_as(device_ops, counters.view(np.int32)),
        put_as(device_ops, keys.view(np.int32)),
        out,
    )
    kernel = device_ops.device.kernel("sampling", "random_words")
    kernel((ceil_div(3, 128),), (128,), (*args, np.int32(3)), 0)
    np.testing.assert_array_equal(got(device_ops, out).view(np.uint32), words)


def test_random_bits_depend_on_both_halves_of_the_seed():
    assert len({random_bits(1, 2, 3), random_bits(2, 2, 3), random_bits(1, 3, 3)}) == 3
    assert random_bits(-1, 2, 3) == random_bits(0xFFFFFFFF, 2, 3)


@pytest.mark.parametrize("vocab_size", [1, 2, 31, 33, 1000, 32003, 151937])
def test_greedy_takes_the_largest_and_of_equals_the_first(ops, rng, vocab_size):
    logits = rng.standard_normal((3, vocab_size)).astype(np.float32)
    logits[1] = np.round(logits[1])
    logits[2] = -np.inf
    logits[2, vocab_size // 2 :] = np.where(np.arange(vocab_size - vocab_size // 2) % 2, 0.0, -0.0)
    want = np.argmax(logits, axis=1)
    np.testing.assert_array_equal(sample(ops, logits, temperature=0.0), want)
    np.testing.assert_array_equal(sample(ops, logits, temperature=[0.0, 0.0, 1e-3])[:2], want[:2])


@pytest.mark.parametrize(("vocab_size", "num_rows"), [(40, 400), (1000, 150), (32003, 12)])
@pytest.mark.parametrize("kind", ["spread", "tied", "banned"])
def test_the_device_draws_the_same_tokens_as_numpy(device_ops, rng, vocab_size, num_rows, kind):
    logits = rng.normal(0, 3, (num_rows, vocab_size)).astype(np.float32)
    if kind == "tied":
        logits = np.round(logits)
    if kind == "banned":
        logits[rng.random(logits.shape) < 0.9] = -np.inf
        logits[:, vocab_size // 3] = 0.5
        logits[0, np.arange(vocab_size) != vocab_size // 3] = -np.inf
    params = random_filters(rng, num_rows)
    want = sample(NUMPY, logits, **params)
    np.testing.assert_array_equal(sample(device_ops, logits, **params), want)
    assert len(set(want.tolist())) > 5


@pytest.mark.parametrize(
    "params", [{"top_k": 1}, {"top_p": 1e-9}, {"top_p": 1e-30}, {"min_p": 1.0}], ids=str
)
def test_the_strictest_filters_keep_the_largest_and_its_equals(ops, rng, params):
    logits = rng.permuted(np.tile(np.float32([2, 2, 1.99, 1.5, 0, -3]), (200, 1)), axis=1)
    tokens = sample(ops, logits, **params)
    first, second = np.nonzero(logits == 2)[1].reshape(-1, 2).T
    assert ((tokens == first) | (tokens == second)).all()
    assert 70 < (tokens == first).sum() < 130


def test_a_row_draws_the_same_token_alone(device_ops, rng):
    logits = rng.normal(0, 3, (20, 500)).astype(np.float32)
    together = sample(device_ops, logits, temperature=0.9, top_p=0.9)
    rows = sampling_rows(device_ops, 20, temperature=0.9, top_p=0.9)
    parts = {name: getattr(rows, name) for name in SamplingRows.__dataclass_fields__}
    for i in range(20):
        one = {k: v[i : i + 1] if hasattr(v, "shape") else v for k, v in parts.items()}
        row = put_as(device_ops, logits[i : i + 1], np.float32)
        assert got(device_ops, device_ops.sample(row, SamplingRows(**one)))[0] == together[i]


def chi_square(tokens, probabilities):
    """Pearson's statistic over its 0.9999 quantile (Wilson and Hilferty's approximation).

    Tokens expected fewer than five times are counted as one.
    """
    expected = probabilities * tokens.size
    observed = np.bincount(tokens, minlength=probabilities.size)
    assert not observed[probabilities == 0].any()
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    degrees = expected.size - 1
    spread = 2 / (9 * degrees)
    quantile = degrees * (1 - spread + 3.719 * np.sqrt(spread)) ** 3
    return float(((observed - expected) ** 2 / expected).sum() / quantile)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1.6},
        {"top_k": 9},
        {"top_p": 0.8},
        {"min_p": 0.07},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.95, "min_p": 0.02},
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(ops, rng, params):
    row = rng.normal(0, 1.5, 30).astype(np.float32)
    logits = np.broadcast_to(row, (3000, 30))
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | params
    probabilities = reference.token_probabilities(row.astype(np.float64), **full)
    tokens = sample(ops, logits, **params)
    assert chi_square(tokens, probabilities) < 1
    sharper = probabilities**1.3 / (probabilities**1.3).sum()
    assert chi_square(tokens, sharper) > 1


def no_numbers(rng):
    logits = rng.standard_normal((6, 300)).astype(np.float32)
    logits[0] = np.nan
    logits[1, 7] = np.nan
    logits[2, 7] = np.copysign(np.nan, -1)
    logits[3] = -np.inf
    logits[4, 7] = np.inf
    logits[5, 7:9] = np.inf
    return logits


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_ends_in_some_token(ops, rng, filters, temperature):
    tokens = sample(ops, no_numbers(rng), temperature=[temperature] * 5 + [1.0], **filters)
    assert ((tokens >= 0) & (tokens < 300)).all()


def test_what_is_no_number_has_some_tokens_on_top(device_ops, rng):
    logits = put_as(device_ops, no_numbers(rng), np.float32)
    top_ids = got(device_ops, device_ops.logprobs(logits, put_as(device_ops, np.arange(6)), 5)[1])
    assert ((top_ids >= 0) & (top_ids < 300)).all()


def random_edits(rng, num_rows, vocab_size):
    """(row, token id, count, seen, bias), some banned, and penalties of each row."""
    edits = []
    for row in range(num_rows):
        for token_id in rng.permutation(vocab_size)[: 5 * row].tolist():
            count = int(rng.integers(0, 4))
            bias = float(rng.choice([0.0, 1.5, -np.inf], p=[0.6, 0.3, 0.1]))
            edits.append((row, token_id, count, bool(count or rng.random() < 0.5), bias))
    return edits, rng.uniform(0.5, 2, (num_rows, 3)).astype(np.float32)


def logit_edits(ops, edits, penalties):
    columns = list(zip(*edits, strict=True)) or [(), (), (), (), ()]
    types = (np.int32, np.int32, np.int32, np.int32, np.float32)
    arrays = [put_as(ops, c, t) for c, t in zip(columns, types, strict=True)]
    return LogitEdits(*arrays, put_as(ops, penalties, np.float32))


@pytest.mark.parametrize(("num_rows", "vocab_size"), [(1, 100), (7, 1001), (30, 515)])
def test_edits_change_their_logits_and_no_others(ops, rng, num_rows, vocab_size):
    logits = rng.normal(0, 3, (num_rows, vocab_size)).astype(np.float32)
    edits, penalties = random_edits(rng, num_rows, vocab_size)
    array = put_as(ops, logits, np.float32)
    edited = ops.edit_logits(array, logit_edits(ops, edits, penalties))
    want = reference.edit_logits(logits.astype(np.float64), edits, penalties.astype(np.float64))
    np.testing.assert_array_equal(got(ops, array), logits)
    np.testing.assert_allclose(got(ops, edited), want, rtol=1e-6, atol=1e-6)
    untouched = want == logits
    np.testing.assert_array_equal(got(ops, edited)[untouched], logits[untouched])
    same = NUMPY.edit_logits(logits, logit_edits(NUMPY, edits, penalties))
    np.testing.assert_array_equal(got(ops, edited), same)


def random_masks(rng, num_rows, vocab_size):
    """Which tokens each row allows, as booleans and as LogitMasks' arrays; some rows have none."""
    allowed = rng.random((num_rows, vocab_size)) < rng.uniform(0, 0.3, (num_rows, 1))
    allowed[np.arange(num_rows), rng.integers(0, vocab_size, num_rows)] = True
    bits = np.zeros((num_rows, 32 * ceil_div(vocab_size, 32)), bool)
    bits[:, :vocab_size] = allowed
    bits[:, vocab_size:] = rng.random(bits[:, vocab_size:].shape) < 0.5  # these mean nothing
    powers = np.uint32(1) << np.arange(32, dtype=np.uint32)
    words = (bits.reshape(num_rows, -1, 32) * powers).sum(-1, dtype=np.uint32)
    masked = rng.permutation(num_rows)[: ceil_div(2 * num_rows, 3)]
    mask_of = np.full(num_rows, -1)
    mask_of[masked] = np.arange(masked.size)
    allowed[mask_of < 0] = True
    return allowed, mask_of, words[masked].view(np.int32)


def logit_masks(ops, mask_of, words):
    return LogitMasks(put_as(ops, mask_of), put_as(ops, words))


@pytest.mark.parametrize(
    ("num_rows", "vocab_size"), [(1, 1), (1, 32), (3, 31), (5, 33), (64, 515), (4, 32003)]
)
def test_a_mask_leaves_its_tokens_and_bans_the_others(ops, rng, num_rows, vocab_size):
    logits = rng.normal(0, 3, (num_rows, vocab_size)).astype(np.float32)
    allowed, mask_of, words = random_masks(rng, num_rows, vocab_size)
    array = put_as(ops, logits, np.float32)
    masked = got(ops, ops.mask_logits(array, logit_masks(ops, mask_of, words)))
    np.testing.assert_array_equal(masked, np.where(allowed, logits, -np.inf))
    np.testing.assert_array_equal(got(ops, array), logits)
    tokens = sample(ops, masked)
    assert allowed[np.arange(num_rows), tokens].all()


def test_one_mask_serves_several_rows(ops, rng):
    logits = rng.normal(0, 3, (4, 70)).astype(np.float32)
    words = np.array([[0, 1 << 5, 0], [-1, -1, -(2**31)]], np.int64).astype(np.int32)
    masked = got(
        ops,
        ops.mask_logits(put_as(ops, logits, np.float32), logit_masks(ops, [1, 0, -1, 0], words)),
    )
    kept = [set(np.flatnonzero(row > -np.inf).tolist()) for row in masked]
    assert kept == [set(range(64)), {37}, set(range(70)), {37}]


@pytest.mark.parametrize("temperature", [0.0, 1e-5, 0.5, 1.0, 100.0])
@pytest.mark.parametrize("filters", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
def test_an_allowed_token_is_drawn_whatever_its_logit(ops, rng, filters, temperature):
    logits = rng.normal(0, 3, (6, 300)).astype(np.float32)
    words = np.zeros((1, 10), np.int32)
    words[0, 3], words[0, 7] = 1 << 4, 1 << 9
    allowed = [100, 233]
    logits[0, allowed] = -np.inf
    logits[1] = np.nan
    logits[2, allowed] = np.inf, np.inf
    logits[3] = -np.inf
    logits[4, allowed] = np.nan, -np.inf
    logits[5, allowed] = -np.inf, -90.0
    masks = logit_masks(ops, [0] * 6, words)
    masked = ops.mask_logits(put_as(ops, logits, np.float32), masks)
    tokens = got(ops, ops.sample(masked, sampling_rows(ops, 6, temperature=temperature, **filters)))
    assert set(tokens.tolist()) <= set(allowed)
    assert tokens[5] == 233
    same = NUMPY.mask_logits(logits, LogitMasks(np.zeros(6, np.int32), words))
    np.testing.assert_array_equal(got(ops, masked), same)


@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("vocab_size", [64, 1000, 32003])
@pytest.mark.parametrize("num_top", [0, 1, 5, 64])
def test_logprobs(ops, rng, num_rows, vocab_size, num_top):
    logits = rng.normal(0, 4, (num_rows, vocab_size)).astype(np.float32)
    logits[0] = np.round(logits[0])  # many ties
    token_ids = rng.integers(0, vocab_size, num_rows)
    arrays = put_as(ops, logits, np.float32), put_as(ops, token_ids)
    chosen, top_ids, top = (got(ops, a) for a in ops.logprobs(*arrays, num_top))
    want = reference.logprobs(logits.astype(np.float64))
    want_ids = np.argsort(-logits, axis=1, kind="stable")[:, :num_top]
    np.testing.assert_allclose(chosen, want[np.arange(num_rows), token_ids], atol=1e-5)
    np.testing.assert_array_equal(top_ids, want_ids)
    np.testing.assert_allclose(top, np.take_along_axis(want, want_ids, axis=1), atol=1e-5)


@pytest.mark.parametrize(("vocab_size", "num_top"), [(64, 64), (1100, 64), (5000, 7)])
@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_of_very_many_ties_the_lowest_ids_are_on_top(ops, rng, vocab_size, num_top, num_levels):
    logits = rng.integers(0, num_levels, (3, vocab_size)).astype(np.float32)
    logits[2, -1] = 5
    arrays = put_as(ops, logits, np.float32), put_as(ops, [0, 1, 2])
    _, top_ids, top = (got(ops, a) for a in ops.logprobs(*arrays, num_top))
    want_ids = np.argsort(-logits, axis=1, kind="stable")[:, :num_top]
    want = np.take_along_axis(reference.logprobs(logits.astype(np.float64)), want_ids, axis=1)
    np.testing.assert_array_equal(top_ids, want_ids)
    np.testing.assert_allclose(top, want, atol=1e-5)


def test_logprobs_of_banned_tokens_are_minus_infinity(ops):
    logits = np.array([[1.0, -np.inf, 2.0, -np.inf]], np.float32)
    chosen, top_ids, top = ops.logprobs(put_as(ops, logits, np.float32), put_as(ops, [1]), 4)
    assert got(ops, chosen)[0] == -np.inf
    assert got(ops, top_ids).tolist() == [[2, 0, 1, 3]]
    np.testing.assert_allclose(got(ops, top)[0, :2], [-0.31326169, -1.31326169], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_rows_are_no_work(device_ops, temperature):
    logits = put_as(device_ops, np.empty((0, 100)), np.float32)
    rows = sampling_rows(device_ops, 0, temperature=temperature)
    assert got(device_ops, device_ops.sample(logits, rows)).shape == (0,)
    edits = logit_edits(device_ops, [], np.empty((0, 3)))
    assert device_ops.edit_logits(logits, edits).shape == (0, 100)
    shapes = [a.shape for a in device_ops.logprobs(logits, put_as(device_ops, np.empty(0)), 5)]
    assert shapes == [(0,), (0, 5), (0, 5)]


def test_wrong_arguments_are_refused_by_name(device_ops):
    logits = put_as(device_ops, np.ones((2, 100)), np.float32)
    ids = put_as(device_ops, [1, 2])
    with pytest.raises(ValueError, match=r"num_top must be in \[0, 64\], got 65"):
        device_ops.logprobs(logits, ids, 65)
    with pytest.raises(ValueError, match=r"rows\.temperature must be"):
        device_ops.sample(logits, sampling_rows(device_ops, 3))
    with pytest.raises(ValueError, match=r"masks\.words must be \(1, 4\) int32, got \(1, 3\)"):
        device_ops.mask_logits(logits, logit_masks(device_ops, [0, 0], np.ones((1, 3))))
    with pytest.raises(ValueError, match=r"masks\.mask_of must be \(2,\) int32"):
        device_ops.mask_logits(logits, logit_masks(device_ops, [0], np.ones((1, 4))))
    with pytest.raises(ValueError, match="logits must be contiguous"):
        device_ops.sample(logits[:, :50], sampling_rows(device_ops, 2))
