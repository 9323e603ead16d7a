"""Real checkpoints against transformers: chats as tokens, greedy answers, and the program itself.

They are fetched by tests/fetch_real_models.py; goldens/make_real_goldens.py made the goldens.
"""

import json
from pathlib import Path
from unicodedata import normalize

import pytest

from llama_cu import LLM, SamplingParams
from llama_cu.checkpoint.tokenizer import Tokenizer
from tests.real_models import CHATS, PROMPTS, SMOLLM2, TEXTS, TOKENIZERS, real_model

pytestmark = pytest.mark.real_model

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "real_models.json").read_text())
ANSWERS = GOLDEN["smollm2"]["answers"]


@pytest.fixture(scope="module")
def smollm2():
    return LLM(real_model(SMOLLM2), device="cpu")


def check_tokens(tokenizer, golden):
    assert [tokenizer.encode(text) for text in TEXTS] == golden["texts"]
    for name, messages in CHATS.items():
        text = tokenizer.apply_chat_template(messages)
        assert tokenizer.encode(text, add_special_tokens=False) == golden["chats"][name], name


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_and_chats_become_the_tokens_of_transformers(name):
    check_tokens(Tokenizer(real_model(name)), GOLDEN[name])


def test_texts_and_chats_of_a_gguf_file_become_the_tokens_of_transformers(smollm2):
    check_tokens(smollm2.tokenizer, GOLDEN["smollm2"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_decoded_tokens_are_the_text_again(name):
    tokenizer = Tokenizer(real_model(name))
    for text in TEXTS:
        decoded = tokenizer.decode(tokenizer.encode(text))
        assert normalize("NFC", decoded) == normalize("NFC", text)  # Qwen's composes


def test_greedy_answers_are_those_of_transformers_one_by_one_and_together(smollm2):
    params = [SamplingParams(temperature=0, max_tokens=max(len(a["answer"]), 1)) for a in ANSWERS]
    prompts = [a["prompt"] for a in ANSWERS]
    expected = [a["answer"] for a in ANSWERS]
    assert [smollm2.encode(text) for text in PROMPTS] == prompts[: len(PROMPTS)]
    assert sum(map(len, expected)) > 150
    together = smollm2.generate(prompts, params)
    assert [out.token_ids for out in together] == expected
    assert smollm2.generate([prompts[0]], params[0])[0].token_ids == expected[0]


def test_a_chat_answers_in_words_and_ends_its_turn(smollm2):
    answer = smollm2.chat(CHATS["one question"], SamplingParams(temperature=0, max_tokens=60))
    assert "Paris" in answer.text and "<|" not in answer.text
    assert answer.finish_reason == "stop"


def test_the_program_chats_with_a_gguf_file(program):
    model = str(real_model(SMOLLM2))
    options = ("--model", model, "--device", "cpu", "--temperature", "0", "--max-tokens", "60")
    done = program("chat", *options, stdin="What is the capital of France?\nAnd of Italy?\n")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and "Rome" in done.stdout
