"""What only the NumPy backend does: tiles of queries, layouts of weights, memory for the cache."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from llama_cu.ops import numpy_attention, numpy_matrix
from llama_cu.ops.numpy_matrix import Shelf
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.sampling_params import SamplingParams
from llama_cu.step_input import build_sampling_rows
from tests.backends import assert_close, make_ops
from tests.test_attention import Problem
from tests.tiny import make_sequence


@pytest.fixture(params=DTYPES)
def ops(request):
    return make_ops(("cpu", request.param))


@pytest.mark.parametrize("window", [None, 1, 20, 100])
def test_a_long_prefill_is_the_same_across_its_tiles(ops, window):
    problem = Problem(ops, ((150, 150), (1, 70), (129, 200)), (64, 6, 2))
    assert_close(ops, problem.result(window), problem.want(window))


@pytest.mark.parametrize("window", [None, 1, 20, 63, 64, 65])
def test_a_query_alone_sees_what_it_sees_in_a_tile(ops, window):
    problem = Problem(ops, ((64, 200),), (64, 6, 2))
    together = problem.result(window).astype(np.float64)
    for query in (0, 1, 62, 63):
        alone = problem.only(0, query, query + 1).result(window)
        assert_close(ops, alone, together[query : query + 1])


@pytest.mark.parametrize("lens", [((1, 40),), ((40, 40),)])
def test_attention_over_numbers_that_are_none_is_none_without_a_warning(lens):
    problem = Problem(NumpyOps(DTYPES["float32"]), lens, (64, 4, 2))
    problem.k_cache[...] = np.inf
    assert np.isnan(problem.result(None)).all()


@pytest.mark.parametrize("shape", [(576, 576), (3072, 576), (576, 960), (48, 3000), (4200, 1100)])
@pytest.mark.parametrize("turns", [False, True])
def test_a_weight_of_many_short_rows_is_placed_by_columns(shape, turns):
    host = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    placed = Shelf(turns=turns).place(host)
    np.testing.assert_array_equal(placed, host)
    is_turned = turns and shape == (3072, 576)
    assert placed.flags.f_contiguous == is_turned
    assert placed.flags.c_contiguous != is_turned


@pytest.mark.parametrize(
    ("found", "family", "by_columns"),
    [
        (["X86_V3"], 25, True),
        ([], 25, True),
        (["AVX2", "AVX512_SKX"], 25, True),
        (["AVX2", "AVX512_SKX"], 26, False),
        (["X86_V4"], None, False),
    ],
)
def test_the_cpu_decides_how_short_rows_lie(monkeypatch, tmp_path, found, family, by_columns):
    config = {"SIMD Extensions": {"found": found}}
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(numpy_matrix, "_CPU_INFO", info)
    if family is not None:
        info.write_text(f"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {family}\n\n")
    placed = Shelf().place(np.ones((3072, 576), np.float32))
    assert placed.flags.f_contiguous == by_columns


@pytest.mark.parametrize("heads", [(64, 6, 2), (32, 8, 1), (80, 4, 4)])
@pytest.mark.parametrize("avx512", [False, True])
def test_heads_of_a_kv_head_may_be_one_product(monkeypatch, heads, avx512):
    monkeypatch.setattr(numpy_attention, "blas_uses_avx512", lambda: avx512)
    ops = NumpyOps(DTYPES["float32"])
    problem = Problem(ops, ((1, 1), (1, 40), (1, 700)), heads)
    for window in (None, 20):
        assert_close(ops, problem.result(window), problem.want(window))


@pytest.mark.parametrize("in_8_bits", [False, True])
@pytest.mark.parametrize("most_blocks", [1, 8, 1000])
def test_as_many_sequences_as_fit_attend_together(monkeypatch, in_8_bits, most_blocks):
    monkeypatch.setattr(numpy_attention, "_MAX_GATHERED", most_blocks * 16 * 2 * 64)
    ops = NumpyOps(DTYPES["float32"])
    lens = ((1, 1), (1, 40), (30, 90), (1, 300), (1, 17), (2, 2), (1, 128))
    problem = Problem(ops, lens, (64, 6, 2), in_8_bits=in_8_bits)
    for window in (None, 20):
        assert_close(ops, problem.result(window), problem.want(window))


@pytest.mark.parametrize("window", [None, 20])
def test_a_lone_sequence_is_read_where_it_lies(window):
    ops = NumpyOps(DTYPES["float32"])
    for lens in ((1, 70), (9, 70)):
        problem = Problem(ops, (lens,), (64, 6, 2))
        problem.tables = ((2, 3, 4, 5, 6),)
        assert_close(ops, problem.result(window), problem.want(window))
        assert ops._attention._k_copy.size == 0


@pytest.mark.parametrize("window", [None, 20])
def test_those_in_a_row_are_read_where_they_lie_beside_those_that_are_not(window):
    ops = NumpyOps(DTYPES["float32"])
    lens = ((1, 70), (1, 33), (9, 70), (1, 48), (5, 40))
    problem = Problem(ops, lens, (64, 6, 2))
    scattered = problem.result(window)
    copied = ops._attention._k_copy.size
    order = sorted(block for table in problem.tables for block in table)
    moved = {}
    for i in (0, 2, 3):  # the others stay scattered, over what is left
        for block in problem.tables[i]:
            moved[block] = order[len(moved)]
    for i in (1, 4):
        for block in reversed(problem.tables[i]):
            moved[block] = order[len(moved)]
    old, new = list(moved), list(moved.values())
    for cache in (problem.k_cache, problem.v_cache):
        cache[new] = cache[old]
    problem.tables = tuple(tuple(moved[block] for block in table) for table in problem.tables)
    ops = NumpyOps(DTYPES["float32"])
    problem.ops = ops
    np.testing.assert_array_equal(problem.result(window), scattered)
    assert 0 < ops._attention._k_copy.size < copied


@pytest.mark.parametrize("num_rows", [1, 2, 4, 5, 8, 15, 16, 31, 64, 65, 130])
@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_product_does_not_depend_on_the_order_of_its_factors(
    monkeypatch, num_rows, avx512, order
):
    monkeypatch.setattr(numpy_matrix, "blas_uses_avx512", lambda: avx512)
    rng = np.random.default_rng(6)
    x, weight = (rng.standard_normal((rows, 96)).astype(np.float32) for rows in (num_rows, 130))
    out = numpy_matrix.matmul(x, np.asarray(weight, order=order))
    assert out.shape == (num_rows, 130) and out.flags.c_contiguous
    np.testing.assert_allclose(out, x.astype(np.float64) @ weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("core", ["Haswell", "SkylakeX"])
def test_openblas_says_which_kernels_it_runs(core):
    if not list(numpy_matrix._BLAS_FOLDER.glob("*openblas*")):
        pytest.skip("this NumPy brings no OpenBLAS")
    if core == "SkylakeX" and not numpy_matrix._cpu_has_avx512():
        pytest.skip("this CPU has no AVX-512")
    code = "from llama_cu.ops import numpy_matrix as m; print(m.blas_uses_avx512())"
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENBLAS_CORETYPE": core},
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.strip() == str(core == "SkylakeX")


def test_a_numpy_without_openblas_has_no_kernels_for_avx512(monkeypatch, tmp_path):
    monkeypatch.setattr(numpy_matrix, "_BLAS_FOLDER", tmp_path / "absent")
    assert not numpy_matrix.blas_uses_avx512.__wrapped__()


def test_weights_do_not_lie_on_each_other():
    ops, rng = NumpyOps(DTYPES["float32"]), np.random.default_rng(5)
    hosts = [rng.standard_normal(shape).astype(np.float32) for shape in [(7,), (33, 5), (5, 33)]]
    placed = [ops.place_weight(host) for host in hosts * 40]
    for array, host in zip(placed, hosts * 40, strict=True):
        np.testing.assert_array_equal(array, host)
        assert array.ctypes.data % 64 == 0


def test_memory_for_the_cache_is_the_arrays_own():
    ops = NumpyOps(DTYPES["float32"])
    first, second = (ops.empty_cache((3, 16, 2, 8), "auto") for _ in range(2))
    first[...] = 1
    second[...] = 2
    assert (first == 1).all() and first.dtype == np.float32 and first.shape == (3, 16, 2, 8)


def test_greedy_rows_need_no_upload_and_mixed_ones_do():
    ops = NumpyOps(DTYPES["float32"])
    cold = make_sequence([1, 2], SamplingParams(temperature=0))
    warm = make_sequence([3, 4, 5], SamplingParams(temperature=0.5, top_k=3, seed=9))
    assert build_sampling_rows([cold, cold], [2, 2], ops).all_greedy
    rows = build_sampling_rows([cold, warm], [2, 3], ops)
    assert not rows.all_greedy
    np.testing.assert_array_equal(rows.temperature, np.float32([0, 0.5]))
    np.testing.assert_array_equal(rows.top_k, [0, 3])
    np.testing.assert_array_equal(rows.positions, [2, 3])
    np.testing.assert_array_equal(rows.seeds, [[0, 0], [9, 0]])
