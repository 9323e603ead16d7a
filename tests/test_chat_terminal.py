"""The chat in a real (pseudo) terminal of 40 columns: line editing, Ctrl-C, Ctrl-D, history."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty")

# A child in a session of its own, whose controlling terminal is its stdin: as in a shell.
_CHILD = """
import fcntl, runpy, struct, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 40, 0, 0))
runpy.run_module("llama_cu", run_name="__main__", alter_sys=True)
"""
_CTRL_C, _CTRL_D, _UP, _ENTER = "\x03", "\x04", "\x1b[A", "\r"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """Types keys, and waits for what a person would see."""

    def __init__(self, args, environment):
        self._main, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *args],
            stdin=child,
            stdout=child,
            stderr=child,
            env=environment,
            start_new_session=True,
        )
        os.close(child)
        self.seen = ""
        self._read = 0

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Read until the text stands behind what was waited for before."""
        end_s = time.monotonic() + timeout_s
        while text not in self.seen[self._read :]:
            assert time.monotonic() < end_s, f"no {text!r} in {self.seen!r}"
            if select.select([self._main], [], [], 0.1)[0]:
                self.seen += self._read_some()
        self._read = self.seen.index(text, self._read) + len(text)

    def _read_some(self) -> str:
        try:
            new = os.read(self._main, 65536)
        except OSError:
            raise AssertionError(f"the program ended: {self.seen!r}") from None
        return _ESCAPE.sub("", new.decode(errors="replace"))

    def exit_code(self) -> int:
        return self.process.wait(timeout=30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def open_chat(byte_model, program_environment, tmp_path):
    environment = program_environment | {
        "XDG_STATE_HOME": str(tmp_path),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }

    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        args = ("chat", "--model", str(byte_model), "--device", "cpu", *args)
        terminal = Terminal(args, environment)
        opened.append(terminal)
        terminal.wait_for("commands")
        terminal.wait_for(">")
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


def test_ctrl_c_stops_the_answer_and_not_the_program(open_chat):
    terminal = open_chat()
    terminal.type("Tell me everything" + _ENTER)
    terminal.wait_for("\n")
    time.sleep(0.3)
    terminal.type(_CTRL_C)
    terminal.wait_for("stopped")
    terminal.wait_for(">")
    terminal.type("/stats" + _ENTER)
    terminal.wait_for("turns: 1 ")
    terminal.wait_for(">")
    terminal.type("/quit" + _ENTER)
    assert terminal.exit_code() == 0
    assert "Traceback" not in terminal.seen


def test_ctrl_c_at_the_prompt_hints_and_ctrl_d_ends(open_chat):
    terminal = open_chat()
    terminal.type(_CTRL_C)
    terminal.wait_for("Ctrl-D or /quit ends the chat")
    terminal.wait_for(">")
    terminal.type(_CTRL_D)
    assert terminal.exit_code() == 0
    assert "Traceback" not in terminal.seen


def test_the_history_outlives_the_program(open_chat, tmp_path):
    file = tmp_path / "llama-cu" / "chat_history"
    terminal = open_chat("--max-tokens", "4")
    assert not file.exists()
    terminal.type("/set seed 77" + _ENTER)
    terminal.wait_for("seed = 77")
    terminal.wait_for(">")
    terminal.type(_CTRL_D)
    assert terminal.exit_code() == 0
    assert file.is_file()
    terminal = open_chat("--max-tokens", "4")
    terminal.type(_UP + _ENTER)
    terminal.wait_for("seed = 77")
    terminal.wait_for(">")
    terminal.type(_CTRL_D)
    assert terminal.exit_code() == 0


def test_triple_quotes_ask_for_more_lines(open_chat):
    terminal = open_chat("--max-tokens", "4")
    terminal.type('"""one' + _ENTER)
    terminal.wait_for("...")
    terminal.type('two"""' + _ENTER)
    terminal.wait_for("cut at max_tokens")
    terminal.wait_for(">")
    terminal.type("exit" + _ENTER)
    assert terminal.exit_code() == 0
