"""What several rooms' tests share: the program, and a tiny model that it can run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import cupy_on_cpu

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core of its own; NumPy must not start as many threads as there are cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if cupy_on_cpu.is_wanted():
    cupy_on_cpu.install()

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where -n is given without --dist, a worker without work takes some of another's.

    xdist's own choice leaves a worker with the last long tests while the others are idle.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why tests were skipped: one line a reason, so that a failure stands out."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(scope="session")
def program_environment() -> dict[str, str]:
    """An environment in which a child process runs this checkout, in plain English and black."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def program(program_environment: dict[str, str]) -> Program:
    """Run llama-cu as a process of its own: program("story", "--seed", "1", stdin="...")."""

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llama_cu", *args],
            input=stdin,
            capture_output=True,
            text=True,
            env=program_environment,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokens are the bytes of UTF-8. It never ends by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from checkpoints import SMALL_LLAMA, random_checkpoint

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    config = {**SMALL_LLAMA, "vocab_size": len(alphabet) + len(special)}
    config |= {"max_position_embeddings": 4096, "bos_token_id": 256, "eos_token_id": None}
    folder = random_checkpoint(tmp_path_factory.mktemp("byte_model"), config)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
