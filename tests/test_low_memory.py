"""`low_memory`: matrices on the CPU as small as their file, and the answers they give."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from llama_cu import LLM, SamplingParams
from llama_cu.cli.main import run as run_cli
from llama_cu.ops.compact import CompactLoader, CompactMatrix, quantize_compactly
from llama_cu.ops.numpy_matrix import matmul, take_rows
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.quantized import SCHEMES, rounded
from llama_cu.weight_loading import WeightPiece
from tests.checkpoints import SMALL_LLAMA, random_checkpoint
from tests.test_kept_blocks import MIXTURE, TYPES, write_mixture
from tests.test_quantized_model import new_device

GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
PROMPTS = [[9], [5, 17, 3, 99, 4], list(range(1, 48))]
TIED = {**SMALL_LLAMA, "tie_word_embeddings": True}


@pytest.fixture(params=["float16", "bfloat16", "blocks"])
def path(request, tmp_path):
    if request.param == "blocks":
        return write_mixture(tmp_path / "it.gguf")
    return random_checkpoint(tmp_path, TIED, dtype=request.param)


def matrices(llm):
    """By field, of the first layer; the table and the head."""
    weights = llm.engine.model.weights
    found = {f.name: getattr(weights.layers[0], f.name) for f in fields(weights.layers[0])}
    found |= {"table": weights.embed_tokens, "head": weights.lm_head}
    return {name: array for name, array in found.items() if array is not None}


def whole(matrix):
    return np.concatenate([piece for _, piece in matrix.pieces()])


def test_matrices_are_worth_what_they_are_worth_in_float32(path):
    wide, small = (matrices(LLM(path, device="cpu", low_memory=low)) for low in (False, True))
    for name, want in wide.items():
        if want.ndim == 1:
            np.testing.assert_array_equal(small[name], want)
        else:
            assert isinstance(small[name], CompactMatrix) and small[name].shape == want.shape
            np.testing.assert_array_equal(whole(small[name]), want)


def test_the_answers_are_the_same(path):
    wide, small = (LLM(path, device="cpu", low_memory=low) for low in (False, True))
    for ids in PROMPTS:
        np.testing.assert_allclose(small.logits(ids), wide.logits(ids), rtol=0, atol=2e-4)
    answers = [[o.token_ids for o in llm.generate(PROMPTS, GREEDY)] for llm in (wide, small)]
    assert answers[0] == answers[1]


def test_a_matrix_takes_the_bytes_of_its_file(tmp_path):
    half = matrices(LLM(random_checkpoint(tmp_path / "half", TIED, dtype="float16"), **ON_CPU))
    assert half["down_proj"].nbytes == 2 * 64 * 96
    assert half["head"] is half["table"]
    mixture = matrices(LLM(write_mixture(tmp_path / "it.gguf"), **ON_CPU))
    in_size, rows = mixture["down_proj"].shape[::-1]
    own = TYPES[MIXTURE.get("blk.0.ffn_down", "Q4_K")]
    assert mixture["down_proj"].nbytes == rows * in_size // own.block_size * own.block_bytes


ON_CPU = {"device": "cpu", "low_memory": True}


def test_float32_stays_as_it_is(tmp_path):
    found = matrices(LLM(random_checkpoint(tmp_path, TIED), **ON_CPU))
    assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_worth_the_same(path, scheme):
    llms = [LLM(path, device="cpu", quantize=scheme, low_memory=low) for low in (False, True)]
    wide, small = map(matrices, llms)
    for name in ("qkv_proj", "gate_up_proj", "o_proj", "down_proj", "head"):
        np.testing.assert_array_equal(whole(small[name]), wide[name])
    assert small["down_proj"].nbytes < (0.7 if scheme == "int4" else 1.1) * wide["down_proj"].size
    answers = [[o.token_ids for o in llm.generate(PROMPTS, GREEDY)] for llm in llms]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1, 1000])
def test_quantized_numbers_of_any_size_are_worth_the_same(scheme, scale):
    rng = np.random.default_rng(6)
    weight = (scale * rng.standard_normal((41, 96))).astype(np.float32)
    weight[7] = 0
    compact = quantize_compactly(weight, scheme)
    np.testing.assert_array_equal(whole(compact), rounded(weight, scheme, DTYPES["float32"]))


def test_a_matrix_of_many_pieces_and_parts(monkeypatch):
    monkeypatch.setattr("llama_cu.ops.compact._PIECE_SIZE", 3 * 32)
    rng = np.random.default_rng(5)
    parts = [rng.standard_normal((rows, 32)).astype(np.float16) for rows in (7, 1, 4)]
    matrix = CompactLoader(np.array).load((12, 32), list(pieces_of(parts)))
    want = np.concatenate(parts).astype(np.float32)
    assert [rows.stop - rows.start for rows, _ in matrix.pieces()] == [3, 3, 1, 1, 3, 1]
    ids = np.array([11, 0, 7, 6, 7, 8], np.int32)
    np.testing.assert_array_equal(take_rows(matrix, ids), want[ids])
    for num_rows in (0, 1, 3, 9):
        x = rng.standard_normal((num_rows, 32)).astype(np.float32)
        np.testing.assert_allclose(matmul(x, matrix), x @ want.T, rtol=0, atol=1e-5)


def pieces_of(tensors):
    """Two pieces a tensor, as files give them."""
    first = 0
    for number, tensor in enumerate(tensors):
        raw, half = tensor.tobytes(), tensor.size // 2
        itemsize = tensor.itemsize
        for start, size in ((0, half), (half, tensor.size - half)):
            begin = itemsize * start

            def read_into(out, offset, raw=raw, begin=begin):
                at = begin + offset
                out[...] = np.frombuffer(raw[at : at + out.nbytes], np.uint8)

            yield WeightPiece(str(number), tensor.dtype, first + start, size, read_into)
        first += tensor.size


def test_tensors_of_several_types_make_one_matrix():
    rng = np.random.default_rng(5)
    parts = [rng.standard_normal((4, 32)).astype(t) for t in (np.float32, DTYPES["bfloat16"])]
    matrix = CompactLoader(np.array).load((8, 32), list(pieces_of(parts)))
    want = np.concatenate([part.astype(np.float32) for part in parts])
    np.testing.assert_array_equal(whole(matrix), want)
    vector = CompactLoader(np.array).load((32,), list(pieces_of([parts[1][0]])))
    np.testing.assert_array_equal(vector, want[4])


def test_a_device_has_no_use_for_it(path):
    llms = [
        LLM(path, device=new_device(), kv_cache_bytes=1 << 20, low_memory=low)
        for low in (False, True)
    ]
    answers = [llm.generate(PROMPTS[1], GREEDY)[0].token_ids for llm in llms]
    assert answers[0] == answers[1]


def test_what_cannot_be_held_small_is_refused(path):
    with pytest.raises(ValueError, match=r"low_memory computes in float32 .* got dtype float16"):
        LLM(path, device="cpu", dtype="float16", low_memory=True)
    with pytest.raises(ValueError, match="low_memory holds blocks as they are, quantize='none'"):
        LLM(path, device="cpu", quantize="none", low_memory=True)
    with pytest.raises(ValueError, match="low_memory computes"):
        NumpyOps(DTYPES["bfloat16"], low_memory=True)


def test_the_program_takes_it(capfd):
    texts = []
    for options in ((), ("--low-memory",), ("--low-memory", "--kv-dtype", "int8")):
        arguments = ["story", "--device", "cpu", "--temperature", "0", "--max-tokens", "20"]
        assert run_cli([*arguments, *options]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1] != ""
    assert texts[2].strip()


# In a fresh process, as the high-water mark is the whole process's.
MEASURE = """
import sys
from pathlib import Path
from llama_cu.bench.traffic import held_weight_bytes
from llama_cu.checkpoint.config import load_config
from llama_cu.loading import load
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps

def memory(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024

def weights(folder):
    ops = NumpyOps(DTYPES["float32"], low_memory=True)
    return load(Path(folder), load_config(folder), ops, progress=lambda done, total: None)

weights(sys.argv[1])
before = memory("VmRSS")
held = weights(sys.argv[2])
print(held_weight_bytes(held, num_rows=1), memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_loading_needs_little_more_memory_than_the_model_keeps(tmp_path):
    large = {**TIED, "vocab_size": 8191, "hidden_size": 1024, "intermediate_size": 4096}
    folders = [
        random_checkpoint(tmp_path / "small", TIED, dtype="float16"),
        random_checkpoint(tmp_path / "large", large, dtype="float16"),
    ]
    command = [sys.executable, "-c", MEASURE, *map(str, folders)]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    held, peak = map(int, result.stdout.split())
    assert held < 1.001 * (folders[1] / "model.safetensors").stat().st_size
    assert peak < 1.15 * held
