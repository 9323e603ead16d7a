"""Quantized weights: the numbers on the host, the same ones on a device, and their products."""

from __future__ import annotations

import numpy as np
import pytest

from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_matvec_quantized import READING_ROWS, multiplies, split_log2
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_quantized import dequantize, packed_bytes
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.quantized import INT4, INT8, SCHEMES, can_quantize, quantize, rounded
from llama_cu.quantized import dequantize as dequantize_on_host
from tests import reference
from tests.backends import (
    DEVICE_BACKENDS,
    OLD_DEVICE_BACKENDS,
    TOLERANCE,
    got,
    make_ops,
    normal,
    put,
    row_error,
)

EPS = 1e-5
FLOAT32 = np.dtype(np.float32)
# in_size, out_size: of the embedded models, SmolLM2 and others, or parts of them; blocks of columns
# that are not full, tiles that are not, one warp and up to eight that share a tile.
SHAPES = [(448, 16), (576, 33), (32, 9), (4864, 12), (96, 100)]


@pytest.fixture(params=[*DEVICE_BACKENDS, *OLD_DEVICE_BACKENDS])
def ops(request):
    return make_ops(request.param)


@pytest.fixture(params=SCHEMES.values(), ids=SCHEMES)
def scheme(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(51)


def matrix(rng, rows, columns):
    """Normal values, with some that are large, and a row, a group and the matrix's end special."""
    weight = rng.standard_normal((rows, columns)) * rng.choice([0.02, 1.0, 30.0], (rows, 1))
    weight[rows // 2] = 0
    weight[0, :32] = weight[0, 0]
    weight[-1, -1] = 100
    return weight


class TestNumbers:
    def test_no_weight_is_further_off_than_half_a_step(self, rng, scheme):
        weight = matrix(rng, 12, 96).astype(np.float32)
        found = quantize(weight, scheme, FLOAT32)
        steps = np.repeat(found.scales.astype(np.float64), 96 // found.scales.shape[1], axis=1)
        # Beside it, what rounding of scale and minimum to float16 takes.
        limit = steps / 2 + 2**-10 * np.abs(weight).max(axis=1, keepdims=True)
        assert (np.abs(dequantize_on_host(found, FLOAT32) - weight) <= limit).all()
        assert np.abs(found.values.astype(int)).max() <= (127 if scheme is INT8 else 15)

    def test_int8_takes_the_whole_range_of_a_row(self, rng):
        weight = rng.standard_normal((8, 64)).astype(np.float32)
        found = quantize(weight, INT8, FLOAT32)
        assert found.scales.shape == (8, 1) and found.minima is None
        assert (np.abs(found.values).max(axis=1) >= 126).all()

    def test_int4_takes_the_whole_range_of_32_neighbours(self, rng):
        weight = rng.standard_normal((8, 64)).astype(np.float32)
        found = quantize(weight, INT4, FLOAT32)
        assert found.scales.shape == found.minima.shape == (8, 2)
        assert found.values.dtype == np.uint8
        groups = found.values.reshape(8, 2, 32)
        assert (groups.min(axis=2) == 0).all() and (groups.max(axis=2) == 15).all()

    def test_what_the_numbers_hold_exactly_stays(self, rng, scheme):
        if scheme is INT8:
            weight = rng.integers(-127, 128, (6, 64)) * 0.125
            weight[:, 0] = 127 * 0.125
        else:
            weight = rng.integers(0, 16, (6, 64)) * 0.25 - 1.5
            weight[:, ::32], weight[:, 1::32] = -1.5, 15 * 0.25 - 1.5
        np.testing.assert_array_equal(rounded(weight, scheme, FLOAT32), weight)

    def test_constants_and_zeros_stay(self, scheme):
        weight = np.repeat([[0.0], [2.5], [-0.375]], 64, axis=1)
        found = rounded(weight, scheme, FLOAT32)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, weight, rtol=2**-11)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_refused(self, rng, scheme, value):
        weight = matrix(rng, 4, 64)
        weight[2, 33] = value
        with pytest.raises(ValueError, match="not finite"):
            quantize(weight, scheme, FLOAT32)

    def test_scales_that_no_float16_holds_are_refused(self, scheme):
        with pytest.raises(ValueError, match="no finite float16 scale"):
            quantize(np.full((1, 32), 1e30), scheme, FLOAT32)

    def test_rows_that_are_no_whole_groups_are_told(self):
        assert can_quantize((5, 64)) and not can_quantize((5, 48)) and not can_quantize((64,))


@pytest.mark.parametrize(("in_size", "out_size"), SHAPES)
@pytest.mark.parametrize("paired", [False, True])
def test_a_device_makes_the_numbers_of_the_host(ops, rng, scheme, in_size, out_size, paired):
    weight = matrix(rng, 2 * out_size, in_size).astype(ops.dtype)
    packed = ops.quantize(ops.upload(weight), scheme, paired=paired)
    assert packed.nbytes == packed_bytes(scheme.form, weight.shape)
    found = ops.download(dequantize(ops.device, packed, dtype=ops.dtype))
    np.testing.assert_array_equal(found, rounded(weight, scheme, ops.dtype).astype(ops.dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_device_refuses_what_is_not_finite(ops, rng, scheme, value):
    weight = matrix(rng, 20, 64).astype(ops.dtype)
    weight[17, 40] = value
    with pytest.raises(ValueError, match="not finite, or has no finite scale"):
        ops.quantize(ops.upload(weight), scheme, paired=False)


def test_a_device_refuses_scales_that_no_float16_holds(rng, scheme):
    ops = make_ops(("cpu_device", "float32"))
    weight = put(ops, np.full((1, 32), -1e30))
    with pytest.raises(ValueError, match="not finite, or has no finite scale"):
        ops.quantize(weight, scheme, paired=False)


class Problem:
    """Operands of every product; gate and up have 2 * out_size rows, others one less."""

    def __init__(self, ops, rng, scheme, in_size, out_size, num_rows):
        self.ops, self.scheme = ops, scheme
        self.x = normal(ops, rng, num_rows, in_size)
        gate_up = normal(ops, rng, 2 * out_size, in_size) / 2 ** round(np.log2(in_size) / 2)
        self.norm, self.bias = normal(ops, rng, in_size), normal(ops, rng, 2 * out_size)
        self.residual = normal(ops, rng, num_rows, 2 * out_size - 1)
        self.packed = self._quantized(gate_up[:-1], paired=False)
        self.packed_gate_up = self._quantized(gate_up, paired=True)
        self.weight, self.gate_up = (
            rounded(w.astype(ops.dtype), scheme, ops.dtype).astype(np.float64)
            for w in (gate_up[:-1], gate_up)
        )

    def _quantized(self, weight, *, paired):
        return self.ops.quantize(put(self.ops, weight), self.scheme, paired=paired)

    def products(self, rows, verbs=CudaOps):
        ops = self.ops
        x, norm = put(ops, self.x[rows]), put(ops, self.norm)
        bias, pair = put(ops, self.bias[:-1]), put(ops, self.bias)
        residual, biased = (put(ops, self.residual[rows]) for _ in range(2))
        normed = (ops, x, norm, EPS)
        return {
            "linear": ops.linear(x, self.packed),
            "linear, bias": ops.linear(x, self.packed, bias),
            "linear, residual": ops.linear(x, self.packed, None, residual),
            "linear, bias, residual": ops.linear(x, self.packed, bias, biased),
            "logits": ops.logits(x, self.packed),
            "norm_linear, bias": verbs.norm_linear(*normed, self.packed, bias),
            "norm_logits": verbs.norm_logits(*normed, self.packed),
            "norm_swiglu": CudaOps.norm_swiglu(*normed, self.packed_gate_up),
            "norm_swiglu, bias": CudaOps.norm_swiglu(*normed, self.packed_gate_up, pair),
        }

    def wanted(self, rows):
        x, residual = self.x[rows], self.residual[rows]
        normed = self._rounded(reference.rms_norm(x, self.norm, EPS))
        bias = self.bias[:-1]
        of_normed = reference.linear(normed, self.weight, None, None)
        pairs = {
            name: reference.swiglu(self._rounded(reference.linear(normed, self.gate_up, own, None)))
            for name, own in (("norm_swiglu", None), ("norm_swiglu, bias", self.bias))
        }
        return {
            "linear": reference.linear(x, self.weight, None, None),
            "linear, bias": reference.linear(x, self.weight, bias, None),
            "linear, residual": reference.linear(x, self.weight, None, residual),
            "linear, bias, residual": reference.linear(x, self.weight, bias, residual),
            "logits": reference.linear(x, self.weight, None, None),
            "norm_linear, bias": reference.linear(normed, self.weight, bias, None),
            "norm_logits": of_normed,
            **pairs,
        }

    def _rounded(self, values):
        return values.astype(self.ops.dtype).astype(np.float64)


@pytest.mark.parametrize(("in_size", "out_size"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 8, 20, 40, 130])
def test_every_product_is_that_of_the_formula(ops, rng, scheme, num_rows, in_size, out_size):
    problem = Problem(ops, rng, scheme, in_size, out_size, num_rows)
    found, wanted = problem.products(slice(None)), problem.wanted(slice(None))
    assert found.keys() == wanted.keys()
    for name, product in found.items():
        limit = max(4e-6, 1.5 * TOLERANCE[ops.dtype.name]) if name != "logits" else 3e-6
        assert row_error(got(ops, product), wanted[name]) < limit, name


@pytest.mark.parametrize(("in_size", "out_size"), [(576, 33), (4864, 8), (32, 9)])
def test_what_a_row_gives_is_the_same_bits_in_any_company(ops, rng, scheme, in_size, out_size):
    problem = Problem(ops, rng, scheme, in_size, out_size, READING_ROWS)
    if not multiplies(ops.device, put(ops, problem.x)):
        pytest.skip("few rows are multiplied by matvec, which has this test")
    alone = [problem.products([row]) for row in range(READING_ROWS)]
    for num_rows in (2, 8, 9, 16, 17, 32, 33, 70):
        rows = rng.permutation(np.arange(max(num_rows, READING_ROWS)) % READING_ROWS)[:num_rows]
        for name, product in problem.products(rows).items():
            want = np.concatenate([got(ops, alone[row][name]) for row in rows])
            np.testing.assert_array_equal(got(ops, product), want)


def test_a_bias_is_added_to_the_residual_and_rounded_before_the_product(ops, rng, scheme):
    problem = Problem(ops, rng, scheme, 576, 33, 5)
    biased = problem._rounded(problem.residual + problem.bias[:-1])
    want = ops.linear(put(ops, problem.x), problem.packed, None, put(ops, biased))
    found = problem.products(slice(None))["linear, bias, residual"]
    np.testing.assert_array_equal(got(ops, found), got(ops, want))


def test_fused_norms_give_the_bits_of_the_verbs(ops, rng, scheme):
    problem = Problem(ops, rng, scheme, 576, 33, 3)
    fused, composed = problem.products(slice(None)), problem.products(slice(None), Ops)
    for name in fused:
        np.testing.assert_array_equal(got(ops, fused[name]), got(ops, composed[name]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_sums_are_exact(dtype, rng, scheme):
    """Whatever the order: small integers, and scales that are powers of two."""
    ops = make_ops(("cpu_device", dtype))
    if scheme is INT8:
        weight = rng.integers(-127, 128, (40, 320))
        weight[:, 0] = 127
    else:
        weight = rng.integers(-8, 8, (40, 320))
        weight[:, ::32], weight[:, 1::32] = -8, 7
    x = rng.integers(-4, 5, (11, 320)).astype(np.float64)
    packed = ops.quantize(put(ops, weight), scheme, paired=False)
    np.testing.assert_array_equal(got(ops, ops.logits(put(ops, x), packed)), x @ weight.T)


def test_numpy_holds_what_the_numbers_are_worth(rng, scheme):
    weight = matrix(rng, 30, 128).astype(np.float32)
    ops = NumpyOps(DTYPES["bfloat16"])
    held = ops.quantize(weight, scheme, paired=False)
    np.testing.assert_array_equal(held, rounded(weight, scheme, ops.dtype))
    np.testing.assert_array_equal(held, held.astype(ops.dtype).astype(np.float32))


def test_the_split_depends_on_the_shape_alone():
    # Llama 3.1 8B: every product fills a GPU, and no warp is left with too little.
    shapes = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096)}
    assert {n: split_log2(INT4.form, s) for n, s in shapes.items()} == {
        "qkv": 3,
        "o": 3,
        "gate_up": 1,
    }
    assert split_log2(INT4.form, (4096, 64)) == 0


def test_what_does_not_fit_is_refused(rng, scheme):
    ops = make_ops(("cpu_device", "float16"))
    weight = put(ops, normal(ops, rng, 16, 64))
    packed = ops.quantize(weight, scheme, paired=False)
    x, norm = put(ops, normal(ops, rng, 2, 64)), put(ops, normal(ops, rng, 64))
    with pytest.raises(ValueError, match="is not gate and up"):
        ops.norm_swiglu(x, norm, EPS, packed)
    with pytest.raises(ValueError, match="linear: x must be"):
        ops.linear(put(ops, normal(ops, rng, 2, 32)), packed)
    with pytest.raises(ValueError, match="no whole groups"):
        ops.quantize(put(ops, normal(ops, rng, 16, 40)), scheme, paired=False)
