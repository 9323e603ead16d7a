"""Products with few rows of activations: every epilogue, every number of rows, the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_matvec import MAX_MATVEC_ROWS, can_norm, split_log2
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.numpy_ops import DTYPES
from tests import reference
from tests.backends import DEVICE_BACKENDS, assert_close, got, make_ops, normal, put
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

EPS = 1e-5
# in_size, out_size: of SmolLM2 and Qwen2.5-0.5B, or a part of them; a vocabulary and a width that
# nothing divides; rows that one warp, two, four and eight share; fewer vectors than lanes.
SHAPES = [(576, 40), (896, 24), (1536, 37), (515, 33), (100, 9), (4864, 6), (8192, 5), (16, 24)]
ROWS = range(1, MAX_MATVEC_ROWS + 1)


@pytest.fixture(params=DEVICE_BACKENDS)
def ops(request):
    return make_ops(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(44)


class Problem:
    """Operands of every product, and each of them as a function of rows of x.

    Gate and up have 2 * out_size rows, every other weight one less: an odd number.
    """

    def __init__(self, ops, rng, in_size, out_size, num_rows=MAX_MATVEC_ROWS):
        self.ops = ops
        self.x = normal(ops, rng, num_rows, in_size)
        self.gate_up = normal(ops, rng, 2 * out_size, in_size) / 2 ** round(np.log2(in_size) / 2)
        self.gate_up_bias = normal(ops, rng, 2 * out_size)
        self.weight, self.bias = self.gate_up[:-1], self.gate_up_bias[:-1]
        self.norm = normal(ops, rng, in_size)
        self.residual = normal(ops, rng, num_rows, 2 * out_size - 1)
        self.arrays = {
            name: put(ops, getattr(self, name))
            for name in ("weight", "bias", "gate_up", "gate_up_bias", "norm")
        }

    def products(self, rows):
        """Name to device array, of these rows of x."""
        ops, weight, bias = self.ops, self.arrays["weight"], self.arrays["bias"]
        x = put(ops, self.x[rows])
        residual, biased = (put(ops, self.residual[rows]) for _ in range(2))
        return {
            "linear": ops.linear(x, weight),
            "linear, bias": ops.linear(x, weight, bias),
            "linear, residual": ops.linear(x, weight, None, residual),
            "linear, bias, residual": ops.linear(x, weight, bias, biased),
            "logits": ops.logits(x, weight),
            **self.normed_products(x),
        }

    def normed_products(self, x, verbs=CudaOps):
        """Those of a normed x; the verbs of Ops make them of the others."""
        a, normed = self.arrays, (self.ops, x, self.arrays["norm"], EPS)
        return {
            "norm_linear": verbs.norm_linear(*normed, a["weight"]),
            "norm_linear, bias": verbs.norm_linear(*normed, a["weight"], a["bias"]),
            "norm_swiglu": verbs.norm_swiglu(*normed, a["gate_up"]),
            "norm_swiglu, bias": verbs.norm_swiglu(*normed, a["gate_up"], a["gate_up_bias"]),
            "norm_logits": verbs.norm_logits(*normed, a["weight"]),
        }

    def wanted(self, rows):
        """The same in float64; where an op rounds on the way, it is rounded here."""
        x, weight, residual = self.x[rows], self.weight, self.residual[rows]
        normed = self._rounded(reference.rms_norm(x, self.norm, EPS))
        products = {}
        for name, bias, pair in (("", None, None), (", bias", self.bias, self.gate_up_bias)):
            gate_up = reference.linear(normed, self.gate_up, pair, None)
            products |= {
                f"linear{name}": reference.linear(x, weight, bias, None),
                f"linear{name}, residual": reference.linear(x, weight, bias, residual),
                f"norm_linear{name}": reference.linear(normed, weight, bias, None),
                f"norm_swiglu{name}": reference.swiglu(self._rounded(gate_up)),
            }
        products["logits"], products["norm_logits"] = products["linear"], products["norm_linear"]
        return products

    def _rounded(self, values):
        return values.astype(self.ops.dtype).astype(np.float64)


def assert_same_bits(left, right):
    assert left.shape == right.shape and np.isfinite(left).all()
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("in_size", "out_size"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 3, 8])
def test_every_product_is_that_of_the_formula(ops, rng, num_rows, in_size, out_size):
    problem = Problem(ops, rng, in_size, out_size, num_rows)
    found, wanted = problem.products(slice(None)), problem.wanted(slice(None))
    assert found.keys() == wanted.keys()
    for name, product in found.items():
        assert_close(ops, product, wanted[name])


@pytest.mark.parametrize("name", ["logits", "norm_logits"])
def test_logits_are_not_rounded(ops, rng, name):
    problem = Problem(ops, rng, 576, 40)
    found, want = (p[name] for p in (problem.products(slice(3)), problem.wanted(slice(3))))
    # Rounding would make it 1e-4 at least, but for what the norm rounds, which `wanted` rounds too.
    limit = 1e-6 if name == "logits" or ops.dtype == np.float32 else 2e-4
    assert np.linalg.norm(got(ops, found) - want) <= limit * np.linalg.norm(want)


@pytest.mark.parametrize(("in_size", "out_size"), [(576, 24), (515, 5), (4096, 2)])
def test_what_a_row_gives_is_the_same_bits_in_any_company(ops, rng, in_size, out_size):
    problem = Problem(ops, rng, in_size, out_size)
    alone = [problem.products([row]) for row in range(MAX_MATVEC_ROWS)]
    for num_rows in ROWS:
        rows = rng.permutation(MAX_MATVEC_ROWS)[:num_rows]
        for name, product in problem.products(rows).items():
            want = np.concatenate([got(ops, alone[row][name]) for row in rows])
            assert_same_bits(got(ops, product), want)


@pytest.mark.parametrize(("in_size", "out_size"), [(576, 40), (515, 9), (1536, 37), (4096, 4)])
@pytest.mark.parametrize("num_rows", [1, 8])
def test_fused_products_are_the_bits_of_those_made_of_the_verbs(
    ops, rng, num_rows, in_size, out_size
):
    problem = Problem(ops, rng, in_size, out_size, num_rows)
    x = put(ops, problem.x)
    fused, composed = problem.normed_products(x), problem.normed_products(x, Ops)
    for name, product in fused.items():
        assert_same_bits(got(ops, product), got(ops, composed[name]))


def test_a_norm_too_large_for_shared_memory_gives_the_same_bits(ops, rng):
    # 1 row and its weight fit into half of the memory, 8 do not.
    in_size = ops.device.max_shared_bytes // (4 * ops.dtype.itemsize) // 8 * 8
    problem = Problem(ops, rng, in_size, 2)
    together = put(ops, problem.x)
    alone = [put(ops, problem.x[row : row + 1]) for row in range(MAX_MATVEC_ROWS)]
    assert can_norm(ops.device, alone[0]) and not can_norm(ops.device, together)
    each = [problem.normed_products(x) for x in alone]
    for name, product in problem.normed_products(together).items():
        assert_same_bits(got(ops, product), np.concatenate([got(ops, p[name]) for p in each]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_bit_depends_on_the_number_of_multiprocessors(rng, dtype):
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    for in_size, out_size in ((576, 40), (4864, 30), (100, 9)):
        found = []
        for count in (1, 3, 132):
            ops = CudaOps(CpuDevice(num_multiprocessors=count), DTYPES[dtype])
            problem = Problem(ops, np.random.default_rng(2), in_size, out_size, 3)
            found.append({k: got(ops, v) for k, v in problem.products(slice(None)).items()})
        for name, product in found[0].items():
            assert_same_bits(product, found[1][name])
            assert_same_bits(product, found[2][name])


def test_rows_of_nan_and_infinity_spoil_no_others(ops, rng):
    problem = Problem(ops, rng, 576, 40)
    sound = problem.products([0, 2, 5])
    problem.x[1], problem.x[3], problem.x[4, 7] = np.nan, np.inf, -np.inf
    mixed = problem.products([0, 1, 2, 3, 4, 5])
    for name, product in mixed.items():
        assert_same_bits(got(ops, product)[[0, 2, 5]], got(ops, sound[name]))
        assert np.isnan(got(ops, product)[1]).all()


def test_weight_rows_of_infinity_spoil_no_others(ops, rng):
    problem = Problem(ops, rng, 1544, 20)
    problem.weight[7], problem.weight[24] = np.inf, np.nan
    x, weight = put(ops, problem.x[:3]), put(ops, problem.weight)
    others = [i for i in range(len(problem.weight)) if i not in (7, 24)]
    want = reference.linear(problem.x[:3], problem.weight[others], None, None)
    found = ops.logits(x, weight)
    assert np.abs(got(ops, found)[:, others] - want).max() < 1e-4
    assert np.isnan(got(ops, found)[:, 24]).all()


@pytest.mark.parametrize("num_rows", [1, 8])
def test_rows_of_32768_elements_are_no_limit(ops, rng, num_rows):
    x, weight = normal(ops, rng, num_rows, 32768), normal(ops, rng, 3, 32768)
    found = ops.linear(put(ops, x), put(ops, weight))
    assert_close(ops, found, reference.linear(x, weight, None, None))


def test_a_wrong_operand_is_refused_by_name(ops, rng):
    x, weight = put(ops, normal(ops, rng, 2, 16)), put(ops, normal(ops, rng, 6, 16))
    x_8, weight_8 = put(ops, normal(ops, rng, 2, 8)), put(ops, normal(ops, rng, 6, 8))
    narrow, norm = put(ops, normal(ops, rng, 5)), put(ops, normal(ops, rng, 16))
    with pytest.raises(ValueError, match=r"linear: bias must be \(6,\)"):
        ops.linear(x, weight, narrow)
    with pytest.raises(ValueError, match=r"linear: residual must be \(2, 6\)"):
        ops.linear(x, weight, None, x)
    with pytest.raises(ValueError, match="linear: weight must be contiguous"):
        ops.linear(x_8, weight[:, :8])
    with pytest.raises(ValueError, match="linear: x must be contiguous"):
        ops.logits(x[:, :8], weight_8)
    with pytest.raises(ValueError, match=r"rms_norm: weight must be \(16,\)"):
        ops.norm_linear(x, narrow, EPS, weight)
    with pytest.raises(ValueError, match="norm_swiglu: weight must be gate and up"):
        ops.norm_swiglu(x, norm, EPS, weight[:5])
    with pytest.raises(ValueError, match=r"x \(2, 16\) and weight \(5,\) do not fit"):
        ops.norm_logits(x, norm, EPS, narrow)


def test_the_split_goes_by_the_weights_shape():
    vectors = {4096: 512, 2048: 256, 576: 72, 1536: 192, 8192: 1024}
    rows_and_split = {
        (6144, 4096): 0,  # Llama-3.1-8B: rows enough
        (4096, 4096): 0,
        (2048, 2048): 1,  # Llama-3.2-1B: two warps a row
        (2048, 8192): 1,
        (576, 576): 0,  # SmolLM2-135M: too few vectors to share
        (576, 1536): 1,
        (128, 8192): 3,
    }
    for (weight_rows, in_size), split in rows_and_split.items():
        assert split_log2(vectors[in_size], weight_rows) == split
