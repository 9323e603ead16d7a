"""Whole models with quantized weights: NumPy and the kernels agree, batching changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama_cu import LLM, ModelError, SamplingParams
from llama_cu.cli.main import run as run_program
from llama_cu.kernel_plan import plan_kernels
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_quantized import QuantizedMatrix
from llama_cu.ops.numpy_ops import DTYPES
from llama_cu.quantized import INT8, SCHEMES, rounded
from tests.checkpoints import SMALL_LLAMA, random_checkpoint
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.8, top_k=30, seed=5, max_tokens=10, ignore_eos=True)
PROMPTS = [[9], [5, 17, 3, 99, 4], list(range(1, 48))]
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("quantized"), SMALL_LLAMA, seed=12)


@pytest.fixture(params=[75, 80], ids=["sm_75", "sm_80"])
def device(request):
    return new_device(request.param)


@pytest.fixture(params=SCHEMES)
def quantize(request):
    return request.param


def new_device(arch=80):
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    return CpuDevice(arch=arch)


def answers(llm, params=GREEDY):
    return [output.token_ids for output in llm.generate(PROMPTS, params)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_on_the_kernels_are_those_of_numpy(folder, device, quantize, dtype):
    on_numpy = LLM(folder, device="cpu", dtype=dtype, quantize=quantize)
    on_device = LLM(folder, device=device, dtype=dtype, quantize=quantize, kv_cache_bytes=1 << 20)
    for ids in (PROMPTS[2], PROMPTS[2][:5]):
        want = on_numpy.logits(ids)
        error = np.linalg.norm(on_device.logits(ids) - want) / np.linalg.norm(want)
        assert error < TOLERANCE[dtype]
    plain = LLM(folder, device="cpu", dtype=dtype).logits(PROMPTS[2])
    difference = np.linalg.norm(on_numpy.logits(PROMPTS[2]) - plain) / np.linalg.norm(plain)
    assert 1e-3 < difference < {"int8": 0.1, "int4": 0.5}[quantize]


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_whole_models_generate_the_tokens_of_numpy(folder, device, quantize, params):
    on_numpy = LLM(folder, device="cpu", quantize=quantize)
    on_device = LLM(
        folder, device=device, dtype="float32", quantize=quantize, kv_cache_bytes=1 << 20
    )
    assert answers(on_device, params) == answers(on_numpy, params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("enforce_eager", [False, True])
def test_an_answer_does_not_depend_on_the_others(folder, quantize, dtype, enforce_eager):
    llm = LLM(
        folder,
        device=new_device(),
        dtype=dtype,
        quantize=quantize,
        kv_cache_bytes=4 << 20,
        enforce_eager=enforce_eager,
    )
    prompts = [[7 + i, 3, 50 + i] for i in range(10)]  # few enough tokens for one kernel
    together = [output.token_ids for output in llm.generate(prompts, DRAWN)]
    assert together == [llm.generate([prompt], DRAWN)[0].token_ids for prompt in prompts]


def test_a_model_holds_the_matrices_of_the_layers_in_fewer_bits(folder, quantize):
    llm = LLM(folder, device=new_device(), quantize=quantize, kv_cache_bytes=1 << 20)
    weights = llm.engine.model.weights
    layer = weights.layers[0]
    for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"):
        matrix = getattr(layer, name)
        assert isinstance(matrix, QuantizedMatrix) and matrix.form == SCHEMES[quantize].form
        assert matrix.paired == (name == "gate_up_proj")
    assert weights.embed_tokens.dtype == llm.dtype and weights.lm_head.form == INT8.form
    on_numpy = LLM(folder, device="cpu", quantize=quantize).engine.model.weights.layers[0]
    plain = LLM(folder, device="cpu").engine.model.weights.layers[0]
    np.testing.assert_array_equal(
        on_numpy.down_proj, rounded(plain.down_proj, SCHEMES[quantize], DTYPES["float32"])
    )


def test_a_tied_table_is_gathered_from_as_it_is(tmp_path, quantize):
    config = {**SMALL_LLAMA, "tie_word_embeddings": True}
    folder = random_checkpoint(tmp_path, config, seed=8)
    llm = LLM(folder, device=new_device(), quantize=quantize, kv_cache_bytes=1 << 20)
    weights = llm.engine.model.weights
    assert weights.embed_tokens.dtype == np.float32 and weights.lm_head.form == INT8.form
    assert answers(llm) == answers(LLM(folder, device="cpu", quantize=quantize))


def test_rows_that_are_no_whole_groups_stay_as_they_are(tmp_path, quantize):
    config = {**SMALL_LLAMA, "intermediate_size": 104}
    folder = random_checkpoint(tmp_path, config, seed=3)
    device = new_device()
    llm = LLM(folder, device=device, dtype="float32", quantize=quantize, kv_cache_bytes=1 << 20)
    layer = llm.engine.model.weights.layers[0]
    assert layer.down_proj.shape[1] == 104 and layer.down_proj.dtype == np.float32
    assert isinstance(layer.gate_up_proj, QuantizedMatrix)
    assert answers(llm) == answers(LLM(folder, device="cpu", quantize=quantize))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_weight_that_has_no_scale_is_named(tmp_path, quantize, on_device):
    folder = random_checkpoint(tmp_path, SMALL_LLAMA, seed=3)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = np.inf
    save_file(tensors, folder / "model.safetensors")
    device = new_device() if on_device else "cpu"
    with pytest.raises(ModelError, match=f"tensor {name}: cannot be quantized: a weight is not"):
        LLM(folder, device=device, dtype="float32", quantize=quantize)


def test_a_scheme_of_another_name_is_refused(folder):
    with pytest.raises(
        ValueError, match="quantize must be one of int8, int4, none or None, got 'q2'"
    ):
        LLM(folder, quantize="q2")


def test_the_plan_has_every_kernel_that_is_asked_for(folder, quantize):
    device = new_device()
    llm = LLM(folder, device=device, dtype="float16", quantize=quantize, kv_cache_bytes=4 << 20)
    planned = set(plan_kernels(llm.config, DTYPES["float16"], device, SCHEMES[quantize]))
    ids = [[3, 4 + i] for i in range(30)]
    llm.generate(ids, GREEDY)
    llm.generate(ids[:10], DRAWN)
    assert isinstance(llm.engine.model.ops, CudaOps)
    asked = {request for request in device.requests if request[0] != "convert"}  # the loader's
    assert asked <= planned


def test_the_program_takes_it(capsys):
    common = ("--device", "cpu", "--prompt", "One day", "--max-tokens", "8", "--temperature", "0")
    answers = []
    for options in ((), ("--quantize", "int4")):
        assert run_program(["generate", *common, "--json", *options]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert len(answers[1]["token_ids"]) == 8
    assert run_program(["generate", *common, "--quantize", "int3"]) == 2
    assert "quantize must be one of int8, int4" in capsys.readouterr().err
