"""What real checkpoints are asked in the tests, and where those are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = "LLAMA_CU_TEST_MODELS"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENIZERS = ("llama3_1", "qwen3")

NUM_GREEDY = 40
PROMPTS = [
    "The three largest rivers of Europe are",
    "def quicksort(items):\n    ",
    "Water boils at 100 degrees. On a high mountain",
    "Dear Sir or Madam,\n\nI write to complain about",
]
TEXTS = [
    "Once upon a time there were 1234567 foxes, and 89 of them couldn't swim.",
    "  two spaces,\ttab\n\n\nthree line ends   ",
    "naïve café — “quotes”, ½ + ¾ = 1¼",
    "Жила-была лиса. 从前有一只狐狸。むかしむかし。옛날 옛적에. एक लोमड़ी। ثعلب صغير",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ﬁ",
    "for i in range(10):\n    x[i] **= 2  # I'm, YOU'LL, we've\n",
    "https://example.org/a?b=c&d=%20#e_f-g",
    "",
]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHATS: dict[str, list[dict[str, Any]]] = {
    "one question": [turn("user", "What is the capital of France?")],
    "with a system prompt": [
        turn("system", "You answer in one short sentence."),
        turn("user", "Why is the sky blue?"),
    ],
    "three turns": [
        turn("user", "Give me a word that rhymes with cat."),
        turn("assistant", "Hat."),
        turn("user", "Another one, please."),
    ],
    "five turns and a system prompt": [
        turn("system", "You are a patient teacher of arithmetic.\nNever give the result at once."),
        turn("user", "What is 12 times 7?"),
        turn("assistant", "What is 10 times 7?"),
        turn("user", "  70, I think  "),
        turn("assistant", "And 2 times 7?"),
        turn("user", "14 — so it is 84!"),
    ],
}


def real_model(name: str) -> Path:
    """The path of a fetched file or folder; where it was not fetched, the test is skipped."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"{FOLDER} names no folder; python -m tests.fetch_real_models fills one")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} was not fetched")
    return path
