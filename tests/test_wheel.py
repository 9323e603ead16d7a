"""The wheel carries kernels and models, and works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("story", "chat")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built with the hatchling that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, timeout=120)
    (path,) = folder.glob("llama_cu-*.whl")
    return path


@pytest.fixture(scope="session")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A new environment that holds the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=os.name != "nt")
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run_installed(folder: Path, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [python, *args],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
        check=False,
    )


def test_the_wheel_holds_every_kernel_source(names):
    sources = [path for path in (ROOT / "kernels").iterdir() if path.is_file()]
    assert any(path.suffix == ".cu" for path in sources)
    assert {f"llama_cu/kernels/{path.name}" for path in sources} <= names


@pytest.mark.parametrize("model", MODELS)
def test_the_wheel_holds_the_embedded_models(names, model):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert f"llama_cu/models/{model}/{name}" in names


def test_the_wheel_holds_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert tops == {"llama_cu", *(top for top in tops if top.endswith(".dist-info"))}
    assert not [name for name in names if "/train/" in name or "__pycache__" in name]


def test_the_wheel_is_typed_and_has_its_program_and_licence(names):
    assert "llama_cu/py.typed" in names
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_is_the_wheels(installed):
    done = run_installed(installed, "-c", "import llama_cu; print(llama_cu.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_the_wheel_tells_a_story(installed):
    args = ("story", "--device", "cpu", "--max-tokens", "40", "--temperature", "0")
    done = run_installed(installed, "-m", "llama_cu", *args)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once upon a time")
    assert len(done.stdout.split()) > 20


def test_the_wheel_chats(installed):
    done = run_installed(
        installed, "-m", "llama_cu", "chat", "--device", "cpu", stdin="Hello!\n/quit\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_wheel_finds_its_kernels(installed):
    code = "from llama_cu.ops.cuda_kernels import KERNEL_DIR; print(KERNEL_DIR)"
    done = run_installed(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_the_sdist_holds_what_its_own_tests_read(tmp_path):
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    (path,) = tmp_path.glob("llama_cu-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"benchmarks/cpu_vs_gpu.py", "tests/test_wheel.py", "README.md", ".ci/run"} <= names
    assert {"CONTRIBUTING.md", "models/story/model.safetensors"} <= names
