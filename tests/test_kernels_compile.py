"""NVRTC compiles every kernel for every GPU without a GPU, and nothing spills."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.cuda_attention import mma_shared_bytes
from llama_cu.ops.cuda_kernels import (
    KERNEL_DIR,
    Compiled,
    cached_cubin,
    compile_cubin,
    headers_hash,
    load_nvrtc,
    whole_elf,
)
from llama_cu.ops.cuda_templates import (
    ARCHS,
    HEAD_DIMS,
    PREFILL_MMA,
    TEMPLATES,
    Specialisation,
    specialisations,
)
from tests.cuda_on_cpu.arguments import UNBOUNDED_THREADS, launch_bound

FILES = sorted({template.file for template in TEMPLATES})
# Everything on one architecture whose attention has tensor cores, and on the one where it has none.
# On all of them the head sizes of nearly every checkpoint, and on those that differ most every
# combination of the other arguments too.
COMMON_HEAD_DIMS = (64, 128)
THOROUGH_ARCHS = (75, 90)
ALL_ARGUMENTS = (75, 80, 90)

# Dynamic and static shared memory of a block on any GPU from sm_80 on: sm_86, sm_89 and sm_120 have
# least (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
LEAST_SHARED_BYTES = 99 * 1024

EIATTR_FRAME_SIZE, EIATTR_REGCOUNT, EIFMT_SVAL = 0x11, 0x2F, 0x04

try:
    load_nvrtc()
except BackendUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


def test_a_cubin_is_a_whole_elf_file() -> None:
    cubin = compile_cubin("swiglu", ["swiglu<float, 4>"], arch=90).cubin

    # The tables of sections and of program headers lie within the file, and one of them ends it.
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", cubin)
    ends = (header[5] + header[9] * header[10], header[6] + header[11] * header[12])
    assert max(ends) == len(cubin)
    assert whole_elf(cubin) == cubin == whole_elf(cubin[:-1])
    with pytest.raises(ValueError, match=rf"{len(cubin) - 9} bytes, its header promises"):
        whole_elf(cubin[:-9])


def programs(arch: int) -> dict[str, list[Specialisation]]:
    """What is compiled together for one architecture: a file's kernels of one head size."""
    together: dict[str, list[Specialisation]] = {}
    head_dims = HEAD_DIMS if arch in THOROUGH_ARCHS else COMMON_HEAD_DIMS
    for s in specialisations(arch, head_dims=head_dims, ends_only=arch not in ALL_ARGUMENTS):
        name = s.file if s.head_dim is None else f"{s.file}-{s.head_dim}"
        together.setdefault(name, []).append(s)
    return together


def compile_program(program: list[Specialisation], arch: int) -> Compiled:
    return compile_cubin(program[0].file, [s.expression for s in program], arch=arch)


@pytest.mark.parametrize(
    ("arch", "program"),
    [
        pytest.param(arch, program, id=f"sm_{arch}-{name}")
        for arch in ARCHS
        for name, program in programs(arch).items()
    ],
)
def test_every_kernel_compiles_without_a_spill(arch: int, program: list[Specialisation]) -> None:
    compiled = compile_program(program, arch)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert set(compiled.resources) == {s.expression for s in program}
    spilling = {name: r.spill_bytes for name, r in compiled.resources.items() if r.spill_bytes}
    assert not spilling
    for kernel in program:
        name, resources = kernel.expression, compiled.resources[kernel.expression]
        assert 0 < resources.registers <= 255, name
        threads = launch_bound(KERNEL_DIR / f"{kernel.file}.cu", kernel.name) or UNBOUNDED_THREADS
        # A warp's registers come in eights a thread; a multiprocessor has 64 Ki.
        assert -(-resources.registers // 8) * 8 * threads <= 65536, name
        assert resources.static_shared_bytes <= 48 * 1024, name
        if kernel.name == PREFILL_MMA.name:  # it asks for more, and fits every GPU that has it
            assert kernel.head_dim is not None
            total = resources.static_shared_bytes + mma_shared_bytes(kernel.head_dim)
            assert 0 < resources.static_shared_bytes < total <= LEAST_SHARED_BYTES, name


def test_every_kernel_file_has_a_row_in_the_table() -> None:
    assert sorted(path.stem for path in KERNEL_DIR.glob("*.cu")) == FILES


def test_every_global_function_has_a_row_in_the_table() -> None:
    for path in KERNEL_DIR.glob("*.cu"):
        named = {template.name for template in TEMPLATES if template.file == path.stem}
        source = path.read_text()
        assert source.count("__global__") == len(named), path.name
        assert all(f"{name}(" in source for name in named), path.name


def test_a_row_covers_its_own_specialisations_and_no_others() -> None:
    for template in TEMPLATES:
        for specialisation in template.specialisations():
            assert template.covers(specialisation.template_args)
        assert not template.covers((*specialisation.template_args, 1))
        if template.choices:
            assert not template.covers(("double", *specialisation.template_args[1:]))


def attributes(cubin: bytes, attribute: int) -> Iterator[tuple[int, int]]:
    """(symbol, value) of every record of this kind in the section .nv.info."""
    table, entry_size, count, names_at = struct.unpack_from("<Q10xHHH", cubin, 0x28)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + i * entry_size) for i in range(count)]
    for name, _, _, _, offset, size in headers:
        text = cubin[headers[names_at][4] + name :].split(b"\0", 1)[0]
        end = offset + size if text == b".nv.info" else offset
        while offset < end:
            layout, kind, num_bytes = struct.unpack_from("<BBH", cubin, offset)
            if layout == EIFMT_SVAL and kind == attribute:
                yield struct.unpack_from("<II", cubin, offset + 4)
            offset += 4 + (num_bytes if layout == EIFMT_SVAL else 0)


@pytest.mark.parametrize("arch", [75, 90, 120])
def test_what_ptxas_says_stands_in_the_machine_code_too(arch: int) -> None:
    compiled = compile_program(programs(arch)["rms_norm"], arch)
    registers = dict(attributes(compiled.cubin, EIATTR_REGCOUNT))
    frames = dict(attributes(compiled.cubin, EIATTR_FRAME_SIZE))  # of their subroutines too
    stacks = [frames[symbol] for symbol in registers]
    assert sorted(registers.values()) == sorted(r.registers for r in compiled.resources.values())
    assert sorted(stacks) == sorted(r.stack_bytes for r in compiled.resources.values())


def test_launch_bounds_are_read_off_the_source() -> None:
    assert launch_bound(KERNEL_DIR / "attention_prefill.cu", "attention_prefill") == 128
    assert launch_bound(KERNEL_DIR / "sampling.cu", "sample") == 512
    assert launch_bound(KERNEL_DIR / "sampling.cu", "random_words") is None


def test_a_spill_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "float v[200]; for (int i = 0; i < 200; ++i) v[i] = x[i * 32 + threadIdx.x];\n"
    body += "for (int k = 0; k < 3; ++k) for (int i = 0; i < 200; ++i) v[i] = v[i] * v[199 - i];\n"
    body += "for (int i = 0; i < 200; ++i) x[i * 32 + threadIdx.x] = v[i];\n"
    bounds = "__launch_bounds__(1024, 2)"
    source = f"__global__ void {bounds} greedy(float* x) {{\n#pragma unroll\n{body}}}\n"
    (tmp_path / "greedy.cu").write_text(source.replace("for", "\n#pragma unroll\nfor"))
    monkeypatch.setattr("llama_cu.ops.cuda_kernels.KERNEL_DIR", tmp_path)
    compiled = compile_cubin("greedy", ["greedy"], arch=90)
    resources = compiled.resources["greedy"]
    assert resources.registers <= 32
    assert resources.spill_bytes > 0
    frames = [value for _, value in attributes(compiled.cubin, EIATTR_FRAME_SIZE)]
    assert frames == [resources.stack_bytes] and resources.stack_bytes > 0


def test_a_source_that_nvrtc_refuses_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.cu").write_text("__global__ void wrong() { missing(); }\n")
    monkeypatch.setattr("llama_cu.ops.cuda_kernels.KERNEL_DIR", tmp_path)
    with pytest.raises(ValueError, match=r'wrong.cu for sm_80(.|\n)*identifier "missing"'):
        compile_cubin("wrong", ["wrong"], arch=80)
    with pytest.raises(ValueError, match="there is no kernel file"):
        compile_cubin("absent", ["absent"], arch=80)


def test_a_cubin_is_compiled_once_and_again_after_a_header_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, cache = tmp_path / "kernels", tmp_path / "cache"
    kernels.mkdir()
    monkeypatch.setattr("llama_cu.ops.cuda_kernels.KERNEL_DIR", kernels)
    header = kernels / "value.cuh"
    header.write_text("constexpr int kValue = 1;\n")
    source = (
        '#include "value.cuh"\ntemplate <typename T> __global__ void put(T* x) { *x = kValue; }\n'
    )
    (kernels / "put.cu").write_text(source)
    compiled: list[str] = []
    put = Specialisation("put", "put", ("int",))

    def load() -> tuple[Path, str]:
        return cached_cubin(put, arch=80, cache_dir=cache, on_compile=compiled.append)

    first, again = load(), load()
    header.write_text("constexpr int kValue = 2;\n")
    changed = load()
    assert first == again and first[0] != changed[0]
    assert compiled == ["put<int>", "put<int>"]
    assert first[1].encode() in first[0].read_bytes()


def test_the_headers_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    hashes = set()
    for name, text in (("a.cuh", "1"), ("a.cuh", "2"), ("b.cuh", "2")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        hashes.add(headers_hash(folder))
    assert len(hashes) == 3
