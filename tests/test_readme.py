"""What the README promises: two commands, and examples that run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama_cu.cli.main import run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_block_is_two_commands():
    language, block = BLOCKS[0]
    assert language == "sh"
    install, test = block.splitlines()
    assert install == "pip install . && llama-cu story"
    assert test.startswith('pip install ".[test]" && pytest')


def test_the_checks_before_landing_run_the_readmes_test_command():
    command = BLOCKS[0][1].splitlines()[1]
    assert f"bash -c '{command}'" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_python_example_runs_anywhere(monkeypatch, tmp_path, capsys):
    example, _ = [block for language, block in BLOCKS if language == "python"]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 50


def test_the_openai_example_runs_against_a_server(capsys):
    pytest.importorskip("fastapi", reason="needs the serve extra")
    pytest.importorskip("openai", reason="needs the openai client")
    from live_server import LiveServer, load_embedded

    _, example = [block for language, block in BLOCKS if language == "python"]
    with LiveServer(load_embedded("chat"), model_name="chat") as server:
        assert "127.0.0.1:8000" in example
        exec(compile(example.replace("8000", str(server.port)), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 20


@pytest.mark.parametrize("command", ["story", "chat", "generate", "kernels", "bench", "info"])
def test_the_readme_shows_every_command_with_options_that_exist(command, capsys):
    (line,) = re.findall(rf"^llama-cu {command}\b[^#\n]*", README, re.MULTILINE)
    assert run([command, "--help"]) == 0
    usage = capsys.readouterr().out
    for option in re.findall(r"--[\w-]+", line):
        assert option in usage
