"""Which kernels are compiled together: the shim and linking cost more than most kernels."""

from __future__ import annotations

from pathlib import Path

from llama_cu.ops.cuda_kernels import KERNEL_DIR
from llama_cu.ops.cuda_templates import TEMPLATES, Specialisation
from tests.cuda_on_cpu.build import has_dynamic_shared
from tests.cuda_on_cpu.library import LaunchError


def bundle(wanted: Specialisation, kernel_dir: Path, *, arch: int) -> list[str]:
    """The expressions to build into one library with the wanted kernel.

    Of our own kernels: all that the table has of the file for every element type, or, where the
    head size is an argument, those of one head size, element type and last argument. LaunchError
    for a kernel that the table lacks for sm_`arch`, because then nothing compiles it for a GPU. A
    file with dynamic shared memory is built kernel by kernel, so that its static shared memory is
    known.
    """
    if kernel_dir != KERNEL_DIR:
        return [wanted.expression]
    rows = [t for t in TEMPLATES if t.file == wanted.file]
    args = wanted.template_args
    named = [t for t in rows if t.name == wanted.name and t.covers(args)]
    own = [t for t in named if t.is_asked_of(arch, args)]
    if not own:
        raise LaunchError(
            f"{wanted.file}.cu: {wanted.expression} is in no row of cuda_templates.TEMPLATES for "
            f"sm_{arch}, so no test compiles it for a GPU"
        )
    if has_dynamic_shared(kernel_dir / f"{wanted.file}.cu"):
        return [wanted.expression]
    head_dim = own[0].head_dim(args)
    if head_dim is None:
        together = [s for t in rows if "HEAD_DIM" not in t.choices for s in t.specialisations()]
        return [s.expression for s in together]
    same = [s for s in own[0].specialisations((head_dim,)) if _ends(s) == _ends(wanted)]
    return [s.expression for s in same]


def _ends(specialisation: Specialisation) -> tuple[str | int, str | int]:
    return specialisation.template_args[0], specialisation.template_args[-1]
