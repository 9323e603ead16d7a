"""The reader of GGUF's header: what it gives, and what it refuses before it allocates."""

from __future__ import annotations

import struct
import time
import tracemalloc

import numpy as np
import pytest

from llama_cu.checkpoint.gguf import GgufFile
from llama_cu.errors import ModelError
from tests.gguf_files import (
    ARRAY,
    STRING,
    Stored,
    Typed,
    float_tensor,
    gguf_bytes,
    text,
    value_bytes,
    write_gguf,
)

VALUES = {
    "u8": (Typed(0, 250), 250),
    "i8": (Typed(1, -100), -100),
    "u16": (Typed(2, 65000), 65000),
    "i16": (Typed(3, -30000), -30000),
    "u32": (Typed(4, 4000000000), 4000000000),
    "i32": (Typed(5, -2000000000), -2000000000),
    "f32": (Typed(6, 1e-5), 1e-5),
    "true": (Typed(7, True), True),
    "u64": (Typed(10, 2**63 + 5), 2**63 + 5),
    "i64": (Typed(11, -(2**62)), -(2**62)),
    "f64": (Typed(12, 0.1), 0.1),
}
ARRAYS = {
    0: [0, 255],
    1: [-128, 127],
    2: [0, 65535],
    3: [-32768, 5],
    4: [1, 2**32 - 1],
    5: [-1, 2**31 - 1],
    6: [0.5, -2.25],
    7: [True, False, True],
    10: [2**64 - 1],
    11: [-(2**63), 0],
    12: [1e300, 0.1],
}
ONES = float_tensor(np.ones((2, 8), np.float32))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "it.gguf"


def refusal(path, data: bytes) -> str:
    path.write_bytes(data)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ModelError) as error:
        GgufFile(path)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1 and peak < (4 << 20)
    assert str(error.value).startswith(str(path))
    return str(error.value)


def header(num_tensors: int, num_values: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_values) + rest


def tensor_entry(name: str, sizes: list[int], number: int, offset: int) -> bytes:
    start = text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return start + struct.pack("<IQ", number, offset)


@pytest.mark.parametrize("version", [2, 3])
def test_values_of_every_type_are_read(path, version):
    metadata = {key: typed for key, (typed, _) in VALUES.items()} | {"words": "déjà vu\n"}
    file = GgufFile(write_gguf(path, metadata, {}, version=version))
    wanted = {key: value for key, (_, value) in VALUES.items()} | {"words": "déjà vu\n"}
    assert file.metadata == wanted
    assert {key: type(value) for key, value in file.metadata.items()} == {
        key: type(value) for key, value in wanted.items()
    }
    assert file.version == version


def test_arrays_of_every_type_are_read(path):
    metadata = {f"of {kind}": Typed(ARRAY, (kind, values)) for kind, values in ARRAYS.items()}
    metadata["none"] = Typed(ARRAY, (5, []))
    file = GgufFile(write_gguf(path, metadata, {}))
    for kind, values in ARRAYS.items():
        assert file.numbers(f"of {kind}").tolist() == values
    assert file.numbers("none").size == 0 and file.numbers("absent") is None


def test_arrays_of_strings_are_read(path):
    rng = np.random.default_rng(1)
    words = ["".join(map(chr, rng.integers(1, 0xD7FF, n))) for n in rng.integers(0, 40, 500)]
    file = GgufFile(write_gguf(path, {"words": words, "behind": 7}, {}))
    strings = file.strings("words")
    assert len(strings) == 500 and strings.texts() == words
    assert [strings.text(i) for i in (0, 1, 499)] == [words[0], words[1], words[499]]
    assert file.metadata["behind"] == 7


def test_tensors_are_found_where_they_are(path):
    rng = np.random.default_rng(2)
    arrays = {f"t{i}": rng.standard_normal((i + 1, 3)).astype(np.float32) for i in range(6)}
    tensors = {name: float_tensor(array) for name, array in arrays.items()}
    for alignment in (32, 64, 8):
        metadata = {"general.alignment": alignment} if alignment != 32 else {}
        file = GgufFile(write_gguf(path, metadata, tensors, alignment=alignment))
        for name, array in arrays.items():
            assert file.tensors[name].shape == array.shape
            assert file.tensors[name].block_type.name == "F32"
            out = np.empty_like(array)
            file.read(name, out, 0)
            assert np.array_equal(out, array)
            tail = np.empty(array.size - 1, np.float32)
            file.read(name, tail, 4)
            assert np.array_equal(tail, array.reshape(-1)[1:])


def test_what_an_error_shows_of_long_values_is_short(path):
    file = GgufFile(write_gguf(path, {"long": [1] * 9999, "words": ["word"] * 9999}, {}))
    for name in ("long", "words"):
        assert len(str(file.fields().refuse(name, "is wrong"))) < 200
    with pytest.raises(ModelError, match="words must be an array of numbers"):
        file.numbers("words")
    with pytest.raises(ModelError, match="long must be an array of strings"):
        file.strings("long")


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "expected a GGUF file, found one that begins with b''"),
        (b"GG", "expected a GGUF file, found one that begins with b'GG'"),
        (b"GGUF\3\0\0\0", "truncated: expected a header, found a file of 8"),
        (b"ggjt" + bytes(40), "expected a GGUF file, found one that begins with b'ggjt'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "expected GGUF version 2 or 3, found 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "expected GGUF version 2 or 3, found 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "found a big-endian GGUF file"),
        (header(0, 2**63), "expected at most 0 metadata entries, found 9223372036854775808"),
        (header(10**9, 0, bytes(999)), "expected at most 41 tensors, found 1000000000"),
        (header(0, 1, text("k") + struct.pack("<I", 13)), "k: expected a value type from 0 to 12"),
        (header(0, 1, text(b"\xff\xfe\xfd") + bytes(9)), "a metadata key is not UTF-8"),
        (header(0, 1, struct.pack("<Q", 2**40) + bytes(9)), "a metadata key: truncated"),
        (header(0, 1, text("k") + struct.pack("<IQ", 8, 2**62)), "k: truncated: expected bytes up"),
        (
            header(0, 1, text("k") + struct.pack("<IIQ", ARRAY, 6, 2**61)),
            "k: expected at most 0 elements, found 2305843009213693952",
        ),
        (
            header(0, 1, text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(99)),
            "k: expected an array of numbers or strings, found arrays",
        ),
        (
            header(0, 1, text("k") + struct.pack("<IIQ", ARRAY, 77, 1) + bytes(99)),
            "k: expected an array of numbers or strings, found type 77",
        ),
        (
            header(0, 1, text("k") + struct.pack("<IIQQ", ARRAY, STRING, 2, 2**63) + bytes(99)),
            "k: truncated: expected 2 strings",
        ),
        (header(0, 2, 2 * (text("k") + value_bytes(1))), "k: expected once, found twice"),
        (header(1, 0, tensor_entry("t", [], 0, 0) + bytes(99)), "expected 1 to 4 dimensions"),
        (header(1, 0, tensor_entry("t", [1] * 5, 0, 0)), "tensor t: expected 1 to 4 dimensions"),
        (header(1, 0, tensor_entry("t", [8, 0], 0, 0)), "tensor t: expected rows of a multiple"),
        (
            header(1, 0, tensor_entry("t", [48], 8, 0) + bytes(999)),
            "tensor t: expected rows of a multiple of 32 for Q8_0, found [48]",
        ),
        (header(1, 0, tensor_entry("t", [256], 10, 0)), "found Q2_K"),
        (header(1, 0, tensor_entry("t", [256], 20, 0)), "found IQ4_NL"),
        (header(1, 0, tensor_entry("t", [256], 39, 0)), "found MXFP4"),
        (header(1, 0, tensor_entry("t", [256], 35, 0)), "found TQ2_0"),
        (header(1, 0, tensor_entry("t", [256], 999, 0)), "found number 999"),
        (
            header(1, 0, tensor_entry("t", [2**40, 2**40], 0, 0) + bytes(99)),
            "tensor t: truncated: expected bytes up to 4835703278458516698824800, found a file of",
        ),
        (
            header(1, 0, tensor_entry("t", [8], 0, 2**63) + bytes(99)),
            "tensor t: truncated: expected bytes up to",
        ),
        (
            header(1, 0, tensor_entry("t", [8], 0, 8) + bytes(99)),
            "tensor t: expected an offset that is a multiple of 32, found 8",
        ),
        (
            header(2, 0, 2 * tensor_entry("t", [8], 0, 0) + bytes(999)),
            "tensor t: expected once, found twice",
        ),
        (
            header(
                2, 0, tensor_entry("t", [16], 0, 0) + tensor_entry("u", [8], 0, 32) + bytes(999)
            ),
            "tensor u: expected its data behind that of t, found offset 32",
        ),
        (
            header(0, 1, text("general.alignment") + value_bytes(24)),
            "general.alignment must be a power of two up to 65536, got 24",
        ),
        (
            header(0, 1, text("general.alignment") + value_bytes(2**31)),
            "general.alignment must be a power of two up to 65536, got 2147483648",
        ),
        (
            header(0, 1, text("general.alignment") + value_bytes(0)),
            "general.alignment must be a positive integer, got 0",
        ),
    ],
)
def test_damage_is_named(path, data, words):
    assert words in refusal(path, data)


def test_every_truncation_is_refused(path):
    metadata = {"words": ["one", "two"], "many": [1, 2, 3], "flag": True, "text": "some"}
    data = gguf_bytes(metadata, {"t": ONES, "u": ONES})
    for length in range(len(data)):
        assert refusal(path, data[:length])
    path.write_bytes(data)
    assert set(GgufFile(path).tensors) == {"t", "u"}


def test_a_sparse_file_of_many_entries_ends_at_once(path):
    """Its size would allow them all."""
    for start in (
        header(0, 2**33),
        header(2**33, 0),
        header(0, 1, text("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, 10**9)),
        header(0, 1, text("k") + struct.pack("<IIQ", ARRAY, 0, 10**11)),
        header(0, 1, text("k") + struct.pack("<IQ", STRING, 10**11)),
    ):
        path.write_bytes(start)
        with path.open("r+b") as file:
            file.truncate(1 << 40)
        tracemalloc.start()
        started = time.perf_counter()
        with pytest.raises(ModelError, match=r"expected at most|truncated"):
            GgufFile(path)
        seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < 1 and peak < (1 << 20)


def test_a_vocabulary_of_two_hundred_thousand_opens_in_well_under_a_second(path):
    rng = np.random.default_rng(3)
    words = [f"{value:x}" for value in rng.integers(0, 2**40, 200_000)]
    write_gguf(path, {"tokens": words, "merges": words, "types": [1] * 200_000}, {})
    started = time.perf_counter()
    file = GgufFile(path)
    assert time.perf_counter() - started < 1
    assert file.strings("tokens").texts() == words


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.gguf: cannot be read: No such file"):
        GgufFile(tmp_path / "gone.gguf")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        GgufFile(tmp_path)


def test_a_tensor_of_blocks_is_read_as_its_bytes(path):
    blocks = Stored("Q8_0", (3, 64), bytes(range(204)))
    file = GgufFile(write_gguf(path, {}, {"t": blocks}))
    raw = np.empty((3, 68), np.uint8)
    file.read("t", raw, 0)
    assert raw.tobytes() == blocks.data
    assert file.tensors["t"].num_bytes == 204
