"""The table of kernels: which specialisations of kernels/*.cu a device may be asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ARCHS = (75, 80, 86, 89, 90, 100, 120)
HEAD_DIMS = (32, 64, 80, 96, 112, 128, 192, 256)
C_TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}


@dataclass(frozen=True)
class Specialisation:
    """One compiled kernel: `name<template_args...>` of kernels/`file`.cu."""

    file: str
    name: str
    template_args: tuple[str | int, ...]
    head_dim: int | None = None  # of attention kernels

    @property
    def expression(self) -> str:
        return expression(self.name, self.template_args)


@dataclass(frozen=True)
class Template:
    """A kernel and the template arguments that the CUDA backend may ask for.

    An entry of `choices` is "T" (every element type), "HEAD_DIM" (every head size), a tuple of
    alternatives, or the one argument itself. Older architectures than `min_arch` lack the kernel;
    it takes head sizes that are multiples of `head_dim_step` up to `max_head_dim`. What `instead`,
    another row, can do is not asked of this one.
    """

    file: str
    name: str
    choices: tuple[str | int | tuple[str | int, ...], ...] = ()
    min_arch: int = ARCHS[0]
    head_dim_step: int = 8
    max_head_dim: int = HEAD_DIMS[-1]
    overlaps: bool = False  # it may begin before the kernel ahead of it has ended: ptx.cuh
    instead: Template | None = None

    def specialisations(
        self, head_dims: Sequence[int] = HEAD_DIMS, *, ends_only: bool = False
    ) -> Iterator[Specialisation]:
        """Every combination of the choices; of numbers only the first and the last if so wished."""
        own = [head_dim for head_dim in head_dims if self._takes(head_dim)]
        alternatives = [_alternatives(choice, own) for choice in self.choices]
        if ends_only:
            numbers = [isinstance(choice, tuple) and choice != _HALVES for choice in self.choices]
            alternatives = [
                (values[0], values[-1]) if are_numbers and len(values) > 2 else values
                for values, are_numbers in zip(alternatives, numbers, strict=True)
            ]
        for args in itertools.product(*alternatives):
            yield Specialisation(self.file, self.name, args, self.head_dim(args))

    def head_dim(self, template_args: Sequence[str | int]) -> int | None:
        """The head size among a kernel's arguments, where it is one."""
        if "HEAD_DIM" not in self.choices:
            return None
        return int(template_args[self.choices.index("HEAD_DIM")])

    def covers(self, template_args: Sequence[str | int]) -> bool:
        """Whether these are arguments of this row; any head size stands for all."""
        pairs = zip(self.choices, template_args, strict=False)
        return len(template_args) == len(self.choices) and all(
            self._takes(arg) if choice == "HEAD_DIM" else arg in _alternatives(choice, ())
            for choice, arg in pairs
        )

    def serves(self, arch: int, c_type: str | int, head_dim: int | None) -> bool:
        """Whether sm_`arch` has this attention kernel for heads of this type and size."""
        is_type = c_type in _alternatives(self.choices[0], ())
        return arch >= self.min_arch and is_type and self._takes(head_dim)

    def is_asked_of(self, arch: int, template_args: Sequence[str | int]) -> bool:
        """Whether the CUDA backend may ask sm_`arch` for the row's kernel of these arguments."""
        other, head_dim = self.instead, self.head_dim(template_args)
        replaced = other is not None and other.serves(arch, template_args[0], head_dim)
        return arch >= self.min_arch and not replaced

    def _takes(self, head_dim: str | int | None) -> bool:
        """Whether it is a head size of this kernel."""
        if not isinstance(head_dim, int):
            return False
        return head_dim % self.head_dim_step == 0 and head_dim <= self.max_head_dim


def _forms(
    file: str,
    name: str,
    c_types: str | tuple[str | int, ...],
    *others: int | tuple[str | int, ...],
    min_arch: int = ARCHS[0],
    overlaps: bool = False,
) -> Iterator[Template]:
    """A row for each form of a quantized matrix."""
    for bits, group in _FORMS:
        choices = (c_types, bits, group, *others)
        yield Template(file, name, choices, min_arch, overlaps=overlaps)


_LANES = (1, 2, 4, 8)
_FORMS = ((4, 32), (6, 32), (6, 16), (8, 32), (8, 0))  # of packed.cuh: bits, group
_BLOCK_TYPES = (2, 3, 6, 7, 8, 12, 13, 14)  # of gguf.cu
_INT8 = (0, 1)  # whether the KV cache is in 8 bits
_HALVES = (C_TYPES["float16"], C_TYPES["bfloat16"])

# Attention on tensor cores.
PREFILL_MMA = Template(
    "attention_prefill_mma",
    "attention_prefill_mma",
    (_HALVES, "HEAD_DIM", _INT8),
    min_arch=80,
    head_dim_step=16,
)
DECODE_MMA = Template(
    "attention_decode_mma",
    "attention_decode_mma",
    (_HALVES, "HEAD_DIM", _INT8),
    min_arch=80,
    head_dim_step=32,
    max_head_dim=128,
    overlaps=True,
)

# One row a kernel. A test compares it with what the suite asks a device for.
TEMPLATES: tuple[Template, ...] = (
    Template("convert", "convert", ("T", "T", (1, 8))),
    Template("decode", "begin_decode"),
    Template("gather", "gather", ("T", _LANES)),
    Template("bias", "fill_bias", ("T", _LANES)),
    Template("bias", "add_bias", ("T", _LANES)),
    Template("matvec", "matvec", ("T", 0, 8, 0), overlaps=True),
    Template("matvec", "matvec", ("T", 1, (1, 4, 8), (0, 1)), overlaps=True),
    Template("quantize", "row_scales", ("T",)),
    Template("quantize", "quantize", ("T", (4, 8))),
    *_forms("quantize", "dequantize", "T"),
    *_forms("matvec_quantized", "matvec_quantized", _HALVES, 1, (0, 1), min_arch=80, overlaps=True),
    *_forms("matvec_quantized", "matvec_quantized", _HALVES, (2, 4), 0, min_arch=80, overlaps=True),
    Template("gguf", "repack", ("T", _BLOCK_TYPES)),
    Template("gguf", "expand", ("T", _BLOCK_TYPES)),
    Template("rms_norm", "rms_norm", ("T", _LANES)),
    Template("rms_norm", "head_norm", ("T", _LANES)),
    Template("rope", "rope_angles"),
    Template("rope", "rope", ("T", _LANES)),
    Template("kv_cache", "store_kv", ("T", _LANES)),
    Template("kv_cache", "store_kv_int8", ("T", _LANES)),
    Template("kv_cache", "gather_int8", ("T", _LANES)),
    Template("rotate_and_store", "rotate_and_store", ("T", _LANES, (0, 1), _INT8), overlaps=True),
    PREFILL_MMA,
    Template(
        "attention_prefill",
        "attention_prefill",
        ("T", "HEAD_DIM", _INT8),
        instead=PREFILL_MMA,
    ),
    DECODE_MMA,
    Template(
        "attention_decode",
        "attention_decode",
        ("T", "HEAD_DIM", (1, 2, 4, 8), _INT8),
        overlaps=True,
        instead=DECODE_MMA,
    ),
    Template("attention_decode", "attention_merge", ("T",), overlaps=True),
    Template("softmax", "softmax", ("T",)),
    Template("swiglu", "swiglu", ("T", _LANES)),
    Template("logits", "copy_logits"),
    Template("logits", "edit_logits"),
    Template("logits", "mask_logits"),
    Template("logits", "logprobs"),
    Template("sampling", "argmax"),
    Template("sampling", "sample"),
    Template("sampling", "random_words"),
    Template("wide_sampling", "share_maxima"),
    Template("wide_sampling", "argmax_of_shares"),
    Template("wide_sampling", "sample_shares"),
    Template("wide_sampling", "sample_flat"),
    Template("random", "random_normal", ("T",)),
    Template("bandwidth", "read_sum"),
)


def specialisations(
    arch: int, *, head_dims: Sequence[int] = HEAD_DIMS, ends_only: bool = False
) -> list[Specialisation]:
    """Everything that the CUDA backend may ask a device of sm_`arch` for."""
    own = [(t, s) for t in TEMPLATES for s in t.specialisations(head_dims, ends_only=ends_only)]
    return [s for template, s in own if template.is_asked_of(arch, s.template_args)]


def overlaps(name: str) -> bool:
    """Whether this kernel waits for the one before it by itself, and so may begin early."""
    return any(template.overlaps for template in TEMPLATES if template.name == name)


def _alternatives(
    choice: str | int | tuple[str | int, ...], head_dims: Sequence[int]
) -> tuple[str | int, ...]:
    if choice == "T":
        return tuple(C_TYPES.values())
    if choice == "HEAD_DIM":
        return tuple(head_dims)
    return choice if isinstance(choice, tuple) else (choice,)


def expression(name: str, template_args: Sequence[str | int]) -> str:
    """The C++ name expression of a kernel: `name<a, b>`, or `name` if it is no template."""
    args = ", ".join(map(str, template_args))
    return f"{name}<{args}>" if args else name
