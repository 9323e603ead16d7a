from __future__ import annotations

import numpy as np
import pytest

from llama_cu.gguf_quants import BLOCK_TYPES, BY_NUMBER, OTHER_TYPES
from tests.gguf_files import TYPES, random_blocks, slow_values


@pytest.fixture(params=BLOCK_TYPES, ids=lambda block_type: block_type.name)
def block_type(request):
    return request.param


def test_the_table_is_that_of_the_format():
    assert {t.name: (t.number, t.block_size, t.block_bytes) for t in BLOCK_TYPES} == TYPES
    assert not set(BY_NUMBER) & set(OTHER_TYPES)


def test_blocks_of_random_bits_are_worth_what_the_definition_says(block_type):
    rng = np.random.default_rng(block_type.number)
    data = random_blocks(block_type.name, 40, rng, scale=0.3)
    values = block_type.dequantize(np.frombuffer(data, np.uint8))
    assert values.dtype == np.float32 and values.shape == (40 * block_type.block_size,)
    # Exact sums against float32 ones: a scale times a number of up to 13 bits, less a minimum.
    want = np.array(slow_values(block_type.name, data))
    np.testing.assert_allclose(values, want, rtol=3e-7, atol=2e-6)
    assert np.unique(want).size > 20


def test_plain_numbers_and_single_products_are_exact():
    rng = np.random.default_rng(2)
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0"):
        data = random_blocks(name, 64, rng, scale=2.0)
        block_type = BY_NUMBER[TYPES[name][0]]
        values = block_type.dequantize(np.frombuffer(data, np.uint8))
        assert values.tolist() == slow_values(name, data)


def test_leading_axes_stay(block_type):
    rng = np.random.default_rng(3)
    data = random_blocks(block_type.name, 2 * 3 * 4, rng, scale=1.0)
    flat = np.frombuffer(data, np.uint8)
    raw = flat.reshape(2, 3, 4 * block_type.block_bytes)
    values = block_type.dequantize(raw)
    assert values.shape == (2, 3, 4 * block_type.block_size)
    assert np.array_equal(values.reshape(-1), block_type.dequantize(flat))
    # a part of the columns, which is not contiguous
    part = block_type.dequantize(raw[..., block_type.block_bytes :])
    assert np.array_equal(part, values[..., block_type.block_size :])


def test_damaged_scales_make_no_warning(block_type):
    raw = np.full(3 * block_type.block_bytes, 0xFF, np.uint8)
    raw[: block_type.block_bytes] = 0x7C
    assert block_type.dequantize(raw).size == 3 * block_type.block_size


def test_bytes_are_counted_by_whole_blocks(block_type):
    shape = (3, 2 * block_type.block_size)
    assert block_type.num_bytes(shape) == 6 * block_type.block_bytes
