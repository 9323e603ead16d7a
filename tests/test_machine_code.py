"""Kernels that speed depends on have the instructions they were written for."""

from __future__ import annotations

import pytest

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.cuda_kernels import compile_cubin, load_nvrtc
from tests.machine_code import instructions

try:
    load_nvrtc()
except BackendUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

HALVES = ("__half", "__nv_bfloat16")
LOCAL_MEMORY = ("LDL", "STL")


def found(file: str, expression: str, arch: int) -> dict[str, int]:
    compiled = compile_cubin(file, [expression], arch=arch)
    counts = instructions(compiled.cubin, compiled.lowered_names[expression])
    assert not any(counts[name] for name in LOCAL_MEMORY), expression
    return counts


@pytest.mark.parametrize("arch", [75, 90, 120])
@pytest.mark.parametrize("c_type", [*HALVES, "float"])
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_products_of_few_rows_have_eight_wide_loads_of_the_weight_on_their_way(
    arch: int, c_type: str, rows: int
) -> None:
    counts = found("matvec", f"matvec<{c_type}, true, {rows}, false>", arch)
    assert counts["LDG.128"] >= 2 * 8 + rows  # before the loop, in it, and of x


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("c_type", HALVES)
@pytest.mark.parametrize("form", [(4, 32), (6, 32), (6, 16), (8, 32), (8, 0)])
def test_quantized_weights_are_loaded_widely_and_multiplied_on_tensor_cores(
    arch: int, c_type: str, form: tuple[int, int]
) -> None:
    bits, group = form
    expression = f"matvec_quantized<{c_type}, {bits}, {group}, 1, false>"
    counts = found("matvec_quantized", expression, arch)
    groups, loads = (1, 1) if bits == 8 else (2, 2)  # operands are of 32 columns; scales
    assert counts["HMMA"] >= 4 * groups * 2
    assert counts["LDG.128"] >= 2 * 4 * loads + 4 * groups  # before the loop, in it, and of x
    assert counts["LDG.64"] >= (2 * 4 if bits == 6 else 0)


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("c_type", HALVES)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("in_8_bits", [0, 1])
def test_decode_takes_k_and_v_from_memory_to_the_tensor_cores(
    arch: int, c_type: str, head_dim: int, in_8_bits: int
) -> None:
    expression = f"attention_decode_mma<{c_type}, {head_dim}, {in_8_bits}>"
    counts = found("attention_decode_mma", expression, arch)
    # For 32 keys, 16 keys and 16 elements a piece, of both products.
    assert counts["HMMA"] == 2 * 2 * head_dim // 16
    per_lane = 32 * head_dim // 32 // 8  # vectors of 8 elements, of k and as many of v
    assert counts["LDG.64" if in_8_bits else "LDG.128"] >= 2 * per_lane
    assert not counts["LDSM"] and not counts["LDS.128"]


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("c_type", HALVES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_prefill_multiplies_on_tensor_cores_and_copies_in_the_background(
    arch: int, c_type: str, head_dim: int
) -> None:
    expression = f"attention_prefill_mma<{c_type}, {head_dim}, 0>"
    counts = found("attention_prefill_mma", expression, arch)
    row_tiles, keys = (2, 64) if head_dim <= 128 else (1, 32)
    # One for 16 rows, 8 keys and 16 elements of a head: weights v, and four steps of q k^T.
    steps = head_dim // 16
    assert counts["HMMA"] >= row_tiles * keys // 8 * (steps + 4)
    assert counts["LDSM"] >= keys // 16 * (steps + 4) + 4 * row_tiles
    assert counts["LDGSTS"] >= 3
