"""Kernels that begin before the one ahead has ended: the answers stay the same."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama_cu import LLM, SamplingParams
from llama_cu.ops.cuda_templates import TEMPLATES, overlaps
from llama_cu.ops.overlapped_launch import OverlappedLaunches
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

STORY = Path(__file__).resolve().parents[1] / "models" / "story"
PARAMS = SamplingParams(max_tokens=6, seed=5)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"dtype": "float16", "quantize": "int4", "kv_dtype": "int8"},
        {"dtype": "bfloat16", "quantize": "int8"},
        {"dtype": "float32", "quantize": "int8"},  # a product's weight is expanded just before it
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_early_kernels_draw_the_same_tokens(options: dict[str, Any]) -> None:
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    told = []
    for device in (CpuDevice(), CpuDevice(overlap=overlaps)):
        llm = LLM(STORY, device=device, kv_cache_bytes=1 << 21, **options)
        prompts = ["A little fox", "The sea was calm and the"]
        told.append([output.token_ids for output in llm.generate(prompts, PARAMS)])
    assert told[0] == told[1]
    assert any(overlaps(name) for _, name, _ in device.requests)


def test_what_makes_a_layer_of_a_step_may_begin_early() -> None:
    early = {template.name for template in TEMPLATES if template.overlaps}
    assert early == {
        "matvec",
        "matvec_quantized",
        "rotate_and_store",
        "attention_decode",
        "attention_decode_mma",
        "attention_merge",
    }


class Driver:
    """Writes down what cuLaunchKernelEx is given, as its manual lays it out."""

    def __init__(self, status: int = 0) -> None:
        self.seen: list[Any] = []
        types = (ctypes.c_void_p,) * 4

        def launch(config: int, function: int, arguments: int, extra: int) -> int:
            sizes = tuple((ctypes.c_uint * 7).from_address(config))
            stream, attributes = (ctypes.c_uint64 * 2).from_address(config + 32)
            count = ctypes.c_uint.from_address(config + 48).value
            kind, _, value = (ctypes.c_int * 3).from_address(attributes)
            slots = (ctypes.c_void_p * 4).from_address(arguments)
            args = [ctypes.string_at(slot, 8) for slot in slots[:2]]
            args += [ctypes.string_at(slot, 4) for slot in slots[2:]]
            self.seen.append((sizes, stream, count, kind, value, function, args, extra))
            return status

        self.cuLaunchKernelEx = ctypes.CFUNCTYPE(ctypes.c_int, *types)(launch)


def test_the_driver_gets_each_argument_in_its_place() -> None:
    driver = Driver()
    array = SimpleNamespace(data=SimpleNamespace(ptr=0x1234567890))
    args = (array, None, np.int32(-3), np.float32(1.5))

    OverlappedLaunches(driver)(77, (5, 2), (64,), args, shared_bytes=49, stream=9)

    ((sizes, stream, count, kind, value, function, values, extra),) = driver.seen
    assert sizes == (5, 2, 1, 64, 1, 1, 49) and (stream, function, extra) == (9, 77, None)
    assert (count, kind, value) == (1, 6, 1)
    assert [int.from_bytes(v, "little") for v in values[:2]] == [0x1234567890, 0]
    assert values[2:] == [np.int32(-3).tobytes(), np.float32(1.5).tobytes()]


def test_a_launch_that_is_refused_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"CUDA error 1, grid \(1,\), block \(32,\)"):
        OverlappedLaunches(Driver(status=1))(
            77, (1,), (32,), (np.int32(1),) * 4, shared_bytes=0, stream=0
        )
