"""The floor plan, read from the sources: who may import what, and what every kernel file says."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import llama_cu

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llama_cu"
KERNEL_FILES = sorted((ROOT / "kernels").glob("*.cu"))

# A library, and the only modules (or rooms, with a dot behind) that may import it.
HOMES = {
    "cupy": ("llama_cu.ops.cupy_device", "llama_cu.ops.cuda_kernels"),
    "cupy_backends": ("llama_cu.ops.cupy_device", "llama_cu.ops.cuda_kernels"),
    "cuda": ("llama_cu.ops.cuda_kernels", "llama_cu.ops.cublas", "llama_cu.cli.machine"),
    "huggingface_hub": ("llama_cu.hub.pull",),
    "jinja2": ("llama_cu.checkpoint.",),
    "matplotlib": ("llama_cu.bench.plot",),
    "safetensors": ("llama_cu.checkpoint.",),
    "tokenizers": ("llama_cu.checkpoint.",),
    "prompt_toolkit": ("llama_cu.cli.",),
    "typer": ("llama_cu.cli.",),
    "anyio": ("llama_cu.server.",),
    "fastapi": ("llama_cu.server.",),
    "llguidance": ("llama_cu.server.",),
    "prometheus_client": ("llama_cu.server.",),
    "pydantic": ("llama_cu.server.",),
    "sse_starlette": ("llama_cu.server.",),
    "starlette": ("llama_cu.server.",),
    "uvicorn": ("llama_cu.server.",),
    "ml_dtypes": ("llama_cu.",),
    "numpy": ("llama_cu.",),
}
# Where caches are is said by variables that several programs share.
CACHES = ("llama_cu.folders", "llama_cu.hub.store")
# What those that run a model must not know of.
RUNNERS_ABOVE = (
    "ops.numpy_ops",
    "ops.cuda_ops",
    "checkpoint.weights",
    "checkpoint.weight_reader",
    "llm",
)
# A room, and what it must not know of.
BELOW = {
    "llama_cu.ops.": ("checkpoint", "model", "kv_cache", "scheduler", "engine", "llm"),
    "llama_cu.checkpoint.": ("ops", "model", "kv_cache", "scheduler", "engine", "llm"),
    "llama_cu.model": ("ops.numpy_ops", "ops.cuda_ops", "scheduler", "engine", "llm"),
    "llama_cu.scheduler": ("ops", "checkpoint", "model", "engine", "llm"),
    "llama_cu.engine": (*RUNNERS_ABOVE, "startup"),
    "llama_cu.scoring": (*RUNNERS_ABOVE, "engine", "startup"),
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[str]:
    """Every module that the file imports, at the top or late."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found.append(node.module or "")
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def inside(module: str, home: str) -> bool:
    return module.startswith(home) if home.endswith(".") else module == home


def test_there_is_something_to_read():
    assert {"llama_cu.llm", "llama_cu.cli.main", "llama_cu.ops.numpy_ops"} <= set(MODULES)
    assert KERNEL_FILES
    assert "typer" in imports(MODULES["llama_cu.cli.main"])


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module):
    for name in imports(MODULES[module]):
        library = name.partition(".")[0]
        if library in sys.stdlib_module_names or library == "llama_cu":
            continue
        assert library in HOMES, f"{module} imports {library}, which is no dependency"
        homes = HOMES[library]
        assert any(inside(module, home) for home in homes), f"{library} is not for {module}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_below_the_command_line_imports_it(module):
    if not module.startswith("llama_cu.cli") and module != "llama_cu.__main__":
        assert not [name for name in imports(MODULES[module]) if name.startswith("llama_cu.cli")]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_below_the_command_line_imports_what_measures(module):
    if not module.startswith(
        ("llama_cu.cli.bench", "llama_cu.cli.measure_commands", "llama_cu.bench")
    ):
        assert not [name for name in imports(MODULES[module]) if name.startswith("llama_cu.bench")]


@pytest.mark.parametrize("module", MODULES)
def test_one_module_knows_models_by_name_and_only_the_command_line_fetches_them(module):
    if not module.startswith(("llama_cu.cli", "llama_cu.hub")):
        known = [name for name in imports(MODULES[module]) if name.startswith("llama_cu.hub")]
        assert module == "llama_cu.find_model" or not known
        assert not [name for name in known if name.startswith("llama_cu.hub.pull")]


@pytest.mark.parametrize("room", BELOW)
def test_a_room_does_not_look_up(room):
    for module in [module for module in MODULES if inside(module, room)]:
        for name in imports(MODULES[module]):
            above = [f"llama_cu.{upper}" for upper in BELOW[room]]
            assert not any(name == upper or name.startswith(f"{upper}.") for upper in above), (
                f"{module} imports {name}"
            )


def test_only_training_goldens_and_benchmarks_know_torch():
    allowed = [ROOT / "models" / "train", ROOT / "tests" / "goldens", ROOT / "benchmarks"]
    for folder in (PACKAGE, ROOT / "tests"):
        for path in folder.rglob("*.py"):
            if not any(path.is_relative_to(home) for home in allowed):
                libraries = {name.partition(".")[0] for name in imports(path)}
                assert not libraries & {"torch", "transformers"}, path


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints_and_reads_the_environment(module):
    if module.startswith("llama_cu.cli"):
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{module}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and module not in CACHES:
            assert node.attr not in ("environ", "getenv"), f"{module}:{node.lineno}"


def test_every_public_name_is_there():
    for name in llama_cu.__all__:
        assert getattr(llama_cu, name).__name__ == name
    assert set(llama_cu.__all__) <= set(dir(llama_cu))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = llama_cu.Nonsense


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.name)
def test_a_kernel_file_begins_with_its_contract(path):
    comment = []
    for line in path.read_text().splitlines():
        if not line.startswith("//"):
            break
        comment.append(line)
    words = {match[1] for line in comment if (match := re.match(r"//   (\w+)\b", line))}
    assert {"grid", "block", "memory", "needs"} <= words


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.name)
def test_kernels_include_no_host_header(path):
    allowed = {header.name for header in (ROOT / "kernels").glob("*.cuh")}
    allowed |= {"cuda_fp16.h", "cuda_bf16.h"}
    headers = [path, *(ROOT / "kernels").glob("*.cuh")]
    for file in headers:
        names = re.findall(r'^\s*#include\s*[<"]([^>"]+)[>"]', file.read_text(), re.MULTILINE)
        assert set(names) <= allowed, f"{file.name} includes {set(names) - allowed}"
