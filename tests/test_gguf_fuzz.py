"""Damaged GGUF files end in a ModelError, soon, and without an allocation beyond their size."""

from __future__ import annotations

import struct
import time
import tracemalloc
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.errors import ModelError
from tests.checkpoints import SMALL_LLAMA, random_tensors
from tests.gguf_files import Stored, float_tensor, gguf_bytes, random_blocks
from tests.gguf_models import gguf_metadata, gguf_tensors
from tests.gguf_tokenizers import byte_level_metadata, sentence_piece_metadata
from tests.tokenizers_made_here import byte_level, llama_2

ENOUGH = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
COUNTS = (0, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 2**40, 2**63 - 1, 2**64 - 1)
MOST_SECONDS = 1.0
MOST_BYTES = 24 << 20


@lru_cache
def parts(kind: str):
    """(metadata, tensors) of a small model with a tokenizer, which is good."""
    library = byte_level(adds_bos=False) if kind == "gpt2" else llama_2()
    make = byte_level_metadata if kind == "gpt2" else sentence_piece_metadata
    config = {**SMALL_LLAMA, "num_hidden_layers": 1, "vocab_size": library.get_vocab_size()}
    tensors = gguf_tensors(config, random_tensors(config))
    optional = {
        "general.alignment": 32,
        "ARCH.rope.scaling.type": "none",
        "ARCH.rope.scaling.factor": 1.0,
        "ARCH.rope.freq_base": 10000.0,
        "ARCH.rope.dimension_count": 16,
        "ARCH.attention.sliding_window": 128,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    made = make(library, "gpt-2") if kind == "gpt2" else make(library)
    rng = np.random.default_rng(1)
    stored = {
        name: float_tensor(tensor)
        if tensor.ndim == 1
        else Stored("Q8_0", tensor.shape, random_blocks("Q8_0", tensor.size // 32, rng, scale=0.1))
        for name, tensor in tensors.items()
    }
    return gguf_metadata(config, **optional, **made), stored


@lru_cache
def whole(kind: str) -> bytes:
    return gguf_bytes(*parts(kind))


def data_start(kind: str) -> int:
    """Where the header ends: nothing before it may change without being noticed or harmless."""
    return whole(kind).index(b"output_norm.weight") + 100


def survives(path, data: bytes) -> bool:
    """Whether the file is a model; if not, it must be a ModelError that names the file."""
    path.write_bytes(data)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        checkpoint = open_checkpoint(path)
        load_weights(
            path,
            checkpoint.config,
            dtype=np.dtype(np.float32),
            storage_dtype=np.dtype(np.float32),
            place=lambda array: array,
        )
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("Once upon a time"))
            checkpoint.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
        good = True
    except ModelError as error:
        assert str(error).startswith(str(path))
        good = False
    finally:
        seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < MOST_SECONDS
    assert peak < MOST_BYTES
    return good


@pytest.fixture(params=["gpt2", "llama"])
def kind(request):
    return request.param


def test_the_files_are_good_as_they_are(kind, tmp_path):
    assert survives(tmp_path / "it.gguf", whole(kind))


@ENOUGH
@given(share=st.floats(0, 1))
def test_truncated_files(kind, tmp_path, share):
    data = whole(kind)
    assert not survives(tmp_path / "it.gguf", data[: int(share * (len(data) - 1))])


@ENOUGH
@given(
    share=st.floats(0, 1),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes(kind, tmp_path, share, flips):
    data = bytearray(whole(kind))
    start = int(share * data_start(kind))
    for offset, mask in flips:
        data[(start + offset) % data_start(kind)] ^= mask
    survives(tmp_path / "it.gguf", bytes(data))


@ENOUGH
@given(share=st.floats(0, 1), count=st.sampled_from(COUNTS), wide=st.booleans())
def test_absurd_counts_anywhere(kind, tmp_path, share, count, wide):
    data = bytearray(whole(kind))
    at = int(share * (data_start(kind) - 8))
    data[at : at + (8 if wide else 4)] = struct.pack("<Q", count)[: 8 if wide else 4]
    survives(tmp_path / "it.gguf", bytes(data))


VALUES = st.one_of(
    st.integers(0, 2**32 - 1),
    st.floats(width=32),
    st.booleans(),
    st.text(max_size=30),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
    st.lists(st.text(max_size=8), min_size=1, max_size=8),
    st.sampled_from(("llama", "qwen2", "gpt2", "yarn", "linear", "tekken", "{% for %}", "a b")),
)


@ENOUGH
@given(choice=st.integers(0, 10**6), value=VALUES)
def test_other_values_in_the_metadata(kind, tmp_path, choice, value):
    metadata, tensors = parts(kind)
    key = sorted(metadata)[choice % len(metadata)]
    survives(tmp_path / "it.gguf", gguf_bytes(metadata | {key: value}, tensors))
