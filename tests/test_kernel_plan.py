"""What a model will ask of a device is known before its weights are read."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from llama_cu import LLM, SamplingParams
from llama_cu.find_model import find_model
from llama_cu.kernel_plan import plan_kernels
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_templates import TEMPLATES
from llama_cu.ops.numpy_ops import DTYPES
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler
from tests.tiny import make_engine, run, tiny_config

CONFIGS = {
    "plain": tiny_config(),
    "qk-norm": tiny_config(qk_norm=True, head_dim=24),
    "biased": tiny_config(qkv_bias=True, o_bias=True, mlp_bias=True, num_key_value_heads=1),
    "unfused": tiny_config(head_dim=12),
}
LARGE = tiny_config(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=131072,
    sliding_windows=(None,) * 32,
)


@pytest.fixture
def device():
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    return CpuDevice()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_plan_is_what_real_answers_ask_for(device, name, dtype):
    planned = set(plan_kernels(CONFIGS[name], DTYPES[dtype], device))
    engine = make_engine(CudaOps(device, DTYPES[dtype]), CONFIGS[name])
    prompt = list(range(1, 20))
    for num_sequences in (1, 2, 8):
        for temperature in (0, 1):
            params = SamplingParams(temperature=temperature, max_tokens=4, ignore_eos=True)
            run(engine, [[*prompt, index] for index in range(num_sequences)], params)

    assert device.requests <= planned
    # and of the rest little: a prompt of another length may use what these did not
    assert len(planned - device.requests) <= 2


def test_a_model_announces_its_kernels_when_it_is_loaded(device):
    llm = LLM(find_model("story"), device=device, dtype="float32", seed=1)
    llm.generate(["Once upon", "A cat"], SamplingParams(max_tokens=4))
    asked = {request for request in device.requests if request[0] != "convert"}
    assert asked <= device.prepared


def test_the_plan_of_a_large_model_costs_next_to_nothing(device):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    planned = plan_kernels(LARGE, np.dtype(np.float16), device)
    assert time.perf_counter() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB

    table = {(template.file, template.name): template for template in TEMPLATES}
    for file, kernel, template_args in planned:
        assert table[file, kernel].covers(template_args)
