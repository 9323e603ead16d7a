"""Blocks of a GGUF file that a device keeps: packed, expanded, multiplied, and in whole models."""

from __future__ import annotations

import numpy as np
import pytest

from llama_cu import LLM, ModelError, SamplingParams
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.weight_reader import block_types
from llama_cu.gguf_quants import BLOCK_TYPES
from llama_cu.kernel_plan import plan_kernels
from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_matvec_quantized import READING_ROWS, multiplies
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_quantized import (
    QuantizedMatrix,
    StackedMatrix,
    dequantize,
    expand,
    packed_bytes,
    repack,
    stacked,
)
from llama_cu.ops.numpy_ops import DTYPES
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
from tests.checkpoints import SMALL_LLAMA, random_tensors
from tests.gguf_files import Stored, float_tensor, random_blocks, write_gguf
from tests.gguf_models import gguf_metadata, gguf_tensors
from tests.test_quantized_model import new_device

TYPES = {own.name: own for own in BLOCK_TYPES if own.form is not None}
# Of random scales: K-quants have scales of scales.
SCALE = {"Q4_K": 2e-4, "Q5_K": 1e-4, "Q6_K": 2e-5, "Q8_0": 1e-3}
EPS = 1e-5
INT32 = np.dtype(np.int32)


@pytest.fixture(params=[*DEVICE_BACKENDS, *OLD_DEVICE_BACKENDS])
def ops(request):
    return make_ops(request.param)


@pytest.fixture(params=TYPES)
def block_type(request):
    return TYPES[request.param]


@pytest.fixture
def rng():
    return np.random.default_rng(77)


def raw_rows(rng, block_type, rows, in_size):
    """uint8 [rows, bytes of a row]: random bits, and a block of zeros."""
    num_blocks = rows * in_size // block_type.block_size
    scale = SCALE.get(block_type.name, 0.01)
    raw = np.frombuffer(random_blocks(block_type.name, num_blocks, rng, scale=scale), np.uint8)
    raw = raw.reshape(rows, -1).copy()
    raw[rows // 2, : block_type.block_bytes] = 0
    return raw


def packed(ops, raw, block_type, in_size, *, paired=False):
    flag = ops.upload(np.zeros(1, np.int32))
    options = {"block_type": block_type, "in_size": in_size, "paired": paired}
    matrix = repack(ops.device, ops.upload(raw), dtype=ops.dtype, flag=flag, **options)
    assert ops.download(flag)[0] == 0
    return matrix


@pytest.mark.parametrize("in_blocks", [1, 3])
@pytest.mark.parametrize("paired", [False, True])
def test_packed_blocks_are_worth_what_the_host_says(ops, rng, block_type, in_blocks, paired):
    in_size, rows = in_blocks * block_type.block_size, 36 if paired else 37
    raw = raw_rows(rng, block_type, rows, in_size)
    matrix = packed(ops, raw, block_type, in_size, paired=paired)
    assert matrix.shape == (rows, in_size)
    assert matrix.nbytes == packed_bytes(block_type.form, matrix.shape)
    found = ops.download(dequantize(ops.device, matrix, dtype=ops.dtype))
    np.testing.assert_array_equal(found, block_type.rounded(raw, ops.dtype).astype(ops.dtype))


@pytest.mark.parametrize("in_blocks", [1, 3])
def test_expanded_blocks_are_what_they_stand_for(ops, rng, block_type, in_blocks):
    in_size = in_blocks * block_type.block_size
    raw = raw_rows(rng, block_type, 21, in_size)
    out = ops.empty((21, in_size))
    flag = ops.upload(np.zeros(1, np.int32))
    options = {"block_type": block_type, "in_size": in_size, "out": out, "flag": flag}
    expand(ops.device, ops.upload(raw), **options)
    np.testing.assert_array_equal(ops.download(out), block_type.dequantize(raw).astype(ops.dtype))
    assert ops.download(flag)[0] == 0


def test_rounding_of_scales_costs_no_more_than_that_of_weights(rng, block_type):
    """16 bits for a scale, and once for the weight: two roundings beside the exact number."""
    raw = raw_rows(rng, block_type, 8, 512)
    exact = block_type.dequantize(raw).astype(np.float64)
    groups = np.abs(exact).reshape(8, -1, 32).max(axis=2)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
    for name, unit in step.items():
        error = np.abs(block_type.rounded(raw, DTYPES[name]) - exact).reshape(8, -1, 32)
        # A minimum may be as large as the whole range of the numbers, and against their sign.
        assert (error.max(axis=2) <= 4 * unit * np.maximum(groups, 1e-4) + 1e-6).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_scale_that_is_not_finite_is_flagged(rng, block_type, dtype):
    ops = make_ops(("cpu_device", dtype))
    raw = raw_rows(rng, block_type, 5, block_type.block_size)
    at = 208 if block_type.name == "Q6_K" else 0
    raw[3, at : at + 2] = np.array([np.inf], "<f2").view(np.uint8)
    flag = ops.upload(np.zeros(1, np.int32))
    options = {"block_type": block_type, "in_size": block_type.block_size, "paired": False}
    repack(ops.device, ops.upload(raw), dtype=ops.dtype, flag=flag, **options)
    assert ops.download(flag)[0] == 1
    with pytest.raises(ValueError, match=f"no finite {dtype} scale"):
        block_type.rounded(raw, ops.dtype)


class Problem:
    """Operands of every product: one matrix of a type, gate and up, and a stack of several."""

    def __init__(self, ops, rng, block_type, in_size, num_rows):
        self.ops = ops
        self.x = normal(ops, rng, num_rows, in_size)
        self.norm, self.bias = normal(ops, rng, in_size), normal(ops, rng, 100)
        self.residual = normal(ops, rng, num_rows, 100)
        others = [own for own in TYPES.values() if in_size % own.block_size == 0]
        others = [own for own in others if own.form != block_type.form][:2]
        parts = [(block_type, 50), (others[0], 9), (others[1], 41)]
        raws = [(own, raw_rows(rng, own, rows, in_size)) for own, rows in parts]
        self.matrix = stacked([packed(ops, raw, own, in_size) for own, raw in raws])
        assert isinstance(self.matrix, StackedMatrix) and self.matrix.shape == (100, in_size)
        self.weight = np.concatenate([own.rounded(raw, ops.dtype) for own, raw in raws])
        pair = raw_rows(rng, block_type, 34, in_size)
        self.gate_up = packed(ops, pair, block_type, in_size, paired=True)
        self.pair = block_type.rounded(pair, ops.dtype)

    def products(self, rows, verbs=CudaOps):
        ops = self.ops
        x, norm, bias = put(ops, self.x[rows]), put(ops, self.norm), put(ops, self.bias)
        residual, biased = (put(ops, self.residual[rows]) for _ in range(2))
        normed = (ops, x, norm, EPS)
        return {
            "linear": ops.linear(x, self.matrix),
            "linear, bias": ops.linear(x, self.matrix, bias),
            "linear, residual": ops.linear(x, self.matrix, None, residual),
            "linear, bias, residual": ops.linear(x, self.matrix, bias, biased),
            "logits": ops.logits(x, self.matrix),
            "norm_linear, bias": verbs.norm_linear(*normed, self.matrix, bias),
            "norm_swiglu": CudaOps.norm_swiglu(*normed, self.gate_up),
        }

    def wanted(self):
        x, residual = self.x, self.residual
        normed = self._rounded(reference.rms_norm(x, self.norm, EPS))
        gate_up = self._rounded(reference.linear(normed, self.pair, None, None))
        return {
            "linear": reference.linear(x, self.weight, None, None),
            "linear, bias": reference.linear(x, self.weight, self.bias, None),
            "linear, residual": reference.linear(x, self.weight, None, residual),
            "linear, bias, residual": reference.linear(x, self.weight, self.bias, residual),
            "logits": reference.linear(x, self.weight, None, None),
            "norm_linear, bias": reference.linear(normed, self.weight, self.bias, None),
            "norm_swiglu": reference.swiglu(gate_up),
        }

    def _rounded(self, values):
        return values.astype(self.ops.dtype).astype(np.float64)


@pytest.mark.parametrize("num_rows", [1, 20, 40])
def test_every_product_is_that_of_the_formula(ops, rng, block_type, num_rows):
    problem = Problem(ops, rng, block_type, 512, num_rows)
    found, wanted = problem.products(slice(None)), problem.wanted()
    assert found.keys() == wanted.keys()
    for name, product in found.items():
        limit = max(4e-6, 1.5 * TOLERANCE[ops.dtype.name]) if name != "logits" else 3e-6
        assert row_error(got(ops, product), wanted[name]) < limit, name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_a_row_gives_is_the_same_bits_in_any_company(rng, block_type, dtype):
    ops = make_ops(("cpu_device", dtype))
    problem = Problem(ops, rng, block_type, 256, READING_ROWS)
    assert multiplies(ops.device, put(ops, problem.x))
    alone = [problem.products([row]) for row in (0, 5, 31)]
    for rows in ([0, 5], [31, 7, 0, 5, *range(8, 21)], range(READING_ROWS)):
        rows = list(rows)
        for name, product in problem.products(rows).items():
            for own, row in zip(alone, (0, 5, 31), strict=True):
                if row in rows:
                    np.testing.assert_array_equal(
                        got(ops, product)[rows.index(row)], got(ops, own[name])[0]
                    )


def test_fused_norms_give_the_bits_of_the_verbs(rng, block_type):
    ops = make_ops(("cpu_device", "float16"))
    problem = Problem(ops, rng, block_type, 256, 3)
    fused, composed = problem.products(slice(None)), problem.products(slice(None), Ops)
    for name in fused:
        np.testing.assert_array_equal(got(ops, fused[name]), got(ops, composed[name]))


# The shapes of K-quants, and a mixture as llama.cpp makes it: v and down in more bits than the
# others, in some layers.
CONFIG = {
    **SMALL_LLAMA,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "attention_bias": True,
}
MIXTURE = {
    "blk.0.attn_v": "Q6_K",
    "blk.0.ffn_down": "Q6_K",
    "blk.1.attn_k": "Q8_0",
    "blk.1.ffn_up": "Q5_K",  # not the type of its gate
    "token_embd": "Q5_1",
    "output": "Q6_K",
}
GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
PROMPTS = [[9], [5, 17, 3, 99, 4], list(range(1, 48))]


def write_mixture(path, config=CONFIG, mixture=MIXTURE, rest="Q4_K", seed=4):
    rng = np.random.default_rng(seed)
    stored = {}
    for name, tensor in gguf_tensors(config, random_tensors(config)).items():
        kind = mixture.get(name.rpartition(".")[0], rest)
        if tensor.ndim == 1 or kind == "F32":
            stored[name] = float_tensor(tensor)
            continue
        own = TYPES[kind]
        num_blocks = tensor.size // own.block_size
        data = random_blocks(kind, num_blocks, rng, scale=SCALE.get(kind, 0.01))
        stored[name] = Stored(kind, tensor.shape, data)
    return write_gguf(path, gguf_metadata(config), stored)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_mixture(tmp_path_factory.mktemp("mixture") / "it.gguf")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", [75, 80])
def test_logits_on_the_kernels_are_those_of_numpy(file, dtype, arch):
    # An older device expands what NumPy then has to expand too.
    options = {"dtype": dtype, "quantize": "none" if arch < 80 else None}
    on_numpy = LLM(file, device="cpu", **options)
    on_device = LLM(file, device=new_device(arch), kv_cache_bytes=1 << 20, **options)
    for ids in (PROMPTS[2], PROMPTS[2][:5]):
        want = on_numpy.logits(ids)
        error = np.linalg.norm(on_device.logits(ids) - want) / np.linalg.norm(want)
        assert error < {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]


def test_a_model_is_held_in_the_bits_of_its_file(file):
    llm = LLM(file, device=new_device(), kv_cache_bytes=1 << 20)
    assert llm.dtype == "bfloat16"
    weights = llm.engine.model.weights
    first, second = weights.layers
    forms = [part.form for part in first.qkv_proj.parts]
    assert forms == [TYPES["Q4_K"].form, TYPES["Q6_K"].form]
    assert [part.shape[0] for part in first.qkv_proj.parts] == [384, 128]
    assert [part.form.bits for part in second.qkv_proj.parts] == [4, 8, 4]
    assert first.down_proj.form == TYPES["Q6_K"].form
    assert isinstance(first.gate_up_proj, QuantizedMatrix) and first.gate_up_proj.paired
    assert second.gate_up_proj.dtype == DTYPES["bfloat16"]  # of two types: expanded
    assert weights.lm_head.form == TYPES["Q6_K"].form
    assert weights.embed_tokens.dtype == DTYPES["bfloat16"]


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_a_file_can_be_held_otherwise(file, quantize):
    options = {"dtype": "float16", "quantize": quantize}
    llm = LLM(file, device=new_device(), kv_cache_bytes=1 << 20, **options)
    matrix = llm.engine.model.weights.layers[0].down_proj
    assert isinstance(matrix, QuantizedMatrix) == (quantize != "none")
    want = LLM(file, device="cpu", **options).logits(PROMPTS[1])
    error = np.linalg.norm(llm.logits(PROMPTS[1]) - want) / np.linalg.norm(want)
    assert error < 4e-3


def test_float32_has_the_numbers_of_the_file(file):
    """Tokens of NumPy, which knows nothing of packing there."""
    device = LLM(file, device=new_device(), dtype="float32", kv_cache_bytes=1 << 20)
    on_numpy = LLM(file, device="cpu")
    answers = [
        [output.token_ids for output in llm.generate(PROMPTS, GREEDY)] for llm in (device, on_numpy)
    ]
    assert answers[0] == answers[1]


def test_a_tied_table_is_held_twice(tmp_path):
    config = {**CONFIG, "tie_word_embeddings": True}
    path = write_mixture(tmp_path / "it.gguf", config, {"token_embd": "Q6_K"})
    llm = LLM(path, device=new_device(), dtype="float16", kv_cache_bytes=1 << 20)
    weights = llm.engine.model.weights
    assert weights.lm_head.form == TYPES["Q6_K"].form
    assert weights.embed_tokens.dtype == np.float16
    want = LLM(path, device="cpu", dtype="float16").logits(PROMPTS[1])
    assert np.linalg.norm(llm.logits(PROMPTS[1]) - want) < 4e-3 * np.linalg.norm(want)


def test_a_mixture_with_plain_numbers_is_expanded(tmp_path):
    path = write_mixture(tmp_path / "it.gguf", mixture={"blk.0.attn_v": "F32", "output": "F32"})
    llm = LLM(path, device=new_device(), dtype="float16", kv_cache_bytes=1 << 20)
    weights = llm.engine.model.weights
    assert weights.layers[0].qkv_proj.dtype == np.float16 == weights.lm_head.dtype
    assert isinstance(weights.layers[1].qkv_proj, QuantizedMatrix)
    want = LLM(path, device="cpu", dtype="float16").logits(PROMPTS[1])
    assert np.linalg.norm(llm.logits(PROMPTS[1]) - want) < 4e-3 * np.linalg.norm(want)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("part", ["attn_k", "ffn_down"])
def test_a_scale_that_is_not_finite_is_named(tmp_path, part, on_device):
    config = {**CONFIG, "attention_bias": False}
    tensors = {
        name: Stored(
            "Q4_0",
            tensor.shape,
            random_blocks("Q4_0", tensor.size // 32, np.random.default_rng(3), scale=0.01),
        )
        if tensor.ndim == 2
        else float_tensor(tensor)
        for name, tensor in gguf_tensors(config, random_tensors(config)).items()
    }
    name = f"blk.1.{part}.weight"
    data = bytearray(tensors[name].data)
    data[18 * 7 : 18 * 7 + 2] = np.array([np.inf], "<f2").tobytes()
    tensors[name] = Stored("Q4_0", tensors[name].shape, bytes(data))
    path = write_gguf(tmp_path / "it.gguf", gguf_metadata(config), tensors)
    device = new_device() if on_device else "cpu"
    want = {"attn_k": "self_attn.k_proj", "ffn_down": "mlp.down_proj"}[part]
    message = f"tensor model.layers.1.{want}.weight: a weight has no finite float16 scale"
    with pytest.raises(ModelError, match=message):
        LLM(path, device=device, dtype="float16", kv_cache_bytes=1 << 20)


@pytest.mark.parametrize("enforce_eager", [False, True])
def test_an_answer_does_not_depend_on_the_others(file, enforce_eager):
    llm = LLM(
        file,
        device=new_device(),
        dtype="float16",
        kv_cache_bytes=4 << 20,
        enforce_eager=enforce_eager,
    )
    params = SamplingParams(temperature=0.8, top_k=30, seed=5, max_tokens=8, ignore_eos=True)
    prompts = [[7 + i, 3, 50 + i] for i in range(10)]
    together = [output.token_ids for output in llm.generate(prompts, params)]
    assert together == [llm.generate([prompt], params)[0].token_ids for prompt in prompts]


def test_the_plan_has_every_kernel_that_is_asked_for(file):
    device = new_device()
    llm = LLM(file, device=device, dtype="float16", kv_cache_bytes=4 << 20)
    kinds = block_types(file, open_checkpoint(file).config)
    assert len(kinds) == 2
    planned = set(plan_kernels(llm.config, DTYPES["float16"], device, None, kinds))
    llm.generate([[3, 4 + i] for i in range(30)], GREEDY)
    asked = {request for request in device.requests if request[0] != "convert"}  # the loader's
    assert {("gguf", "repack", ("__half", 14)), ("gguf", "expand", ("__half", 7))} <= asked
    assert asked <= planned
