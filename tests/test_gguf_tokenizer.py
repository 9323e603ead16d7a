# ruff: noqa: RUF001 - texts in other scripts are the point here

from __future__ import annotations

import random

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from llama_cu import LLM, SamplingParams
from llama_cu.checkpoint import tokenizer as ours
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.gguf import GgufFile
from llama_cu.checkpoint.gguf_tokenizer import read_gguf_tokenizer
from llama_cu.checkpoint.pre_tokenizers import CUTTINGS
from llama_cu.errors import ModelError
from tests.checkpoints import SMALL_LLAMA, random_tensors
from tests.gguf_files import write_gguf
from tests.gguf_models import write_model
from tests.gguf_tokenizers import (
    byte_level_metadata,
    greedy_byte_level,
    merge_by_score,
    sentence_piece_metadata,
)
from tests.tokenizers_made_here import SPECIAL, TEXTS, byte_level, llama_2, write_tokenizer

BOS, EOS, USER = 1, 2, 3
MORE_TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    " \n \n\n  x",
    "12345 1234567 3.14159 2024-01-31 ١٢٣ ½",
    "I'll we'LL they've IT'S don't 'tis",
    "foo_bar(x, y) != {'a': [1, 2]}; // ok?",
    "<|user|>hello</s> <|user|> <s>",
    "tabs\t\tand\r\nlines\r\n\r\n",
    "Ünïcödé ΑΒΓ αβγ ǅ ʔ ªº ⅓ ٣",
    "HTTPServer camelCase XMLHttpRequest",
    "a" * 50,
    "\u00a0no-break\u3000wide\u2009thin",
]
# As the tokenizer.json files of these models have them.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(expression: str) -> pre_tokenizers.PreTokenizer:
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), "isolated"), to_bytes])


ORIGINALS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": split(LLAMA_3),
    "dbrx": split(LLAMA_3),
    "qwen2": split(QWEN_2),
    "tekken": split(TEKKEN),
}


def texts(seed: int) -> list[str]:
    """Sentences of all scripts, cut and joined anywhere between characters."""
    rng = random.Random(seed)
    found = [*TEXTS, *MORE_TEXTS]
    for _ in range(200):
        parts = [rng.choice(found) for _ in range(3)]
        cuts = [sorted(rng.sample(range(len(part) + 1), 2)) if part else (0, 0) for part in parts]
        found.append("".join(part[a:b] for part, (a, b) in zip(parts, cuts, strict=True)))
    return found


def opened(path, metadata) -> ours.Tokenizer:
    parts = read_gguf_tokenizer(GgufFile(write_gguf(path / "it.gguf", metadata, {})))
    return ours.Tokenizer(parts)


def refusal(path, metadata) -> str:
    with pytest.raises(ModelError) as error:
        opened(path, metadata)
    assert str(error.value).startswith(str(path))
    return str(error.value)


def greedy() -> Tokenizer:
    return greedy_byte_level([*TEXTS, *MORE_TEXTS], 900, SPECIAL)


@pytest.mark.parametrize("pre", ORIGINALS)
def test_byte_level_tokens_are_those_of_the_original(pre, tmp_path):
    library = greedy()
    library.pre_tokenizer = ORIGINALS[pre]
    mine = opened(tmp_path, byte_level_metadata(library, pre))
    ignores = CUTTINGS[pre].ignore_merges
    library.model.ignore_merges = ignores
    assert ignores == (pre in ("llama-bpe", "tekken"))
    lengths = set()
    for text in texts(seed=1):
        want = library.encode(text, add_special_tokens=False).ids
        assert mine.encode(text, add_special_tokens=False) == want, text
        assert mine.decode(want, skip_special_tokens=False) == text
        lengths.add(len(want))
    assert len(lengths) > 20


def test_every_name_of_a_cutting_keeps_every_text(tmp_path):
    library = greedy()
    for pre in CUTTINGS:
        mine = opened(tmp_path, byte_level_metadata(library, pre))
        for text in texts(seed=2):
            ids = mine.encode(text, add_special_tokens=False)
            assert mine.decode(ids, skip_special_tokens=False) == text


def test_cuttings_of_different_models_differ(tmp_path):
    library = greedy()
    seen = {}
    for pre in ("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "deepseek-coder"):
        mine = opened(tmp_path, byte_level_metadata(library, pre))
        ids = tuple(tuple(mine.encode(t, add_special_tokens=False)) for t in texts(seed=3))
        assert ids not in seen, (pre, seen.get(ids))
        seen[ids] = pre


@pytest.mark.parametrize("add_space", [None, True, False])
def test_sentence_piece_tokens_are_merged_by_score(add_space, tmp_path):
    metadata = sentence_piece_metadata(llama_2(), **{"tokenizer.ggml.add_space_prefix": add_space})
    metadata["tokenizer.ggml.unknown_token_id"] = 0
    mine = opened(tmp_path, metadata)
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    # What no sentence has, and no special token.
    plain = [text for text in texts(seed=4) if "<" not in text and "▁" not in text]
    assert len(plain) > 150
    for text in plain:
        want = merge_by_score(text, tokens, scores, add_space=add_space is not False)
        ids = mine.encode(text, add_special_tokens=False)
        assert ids == want, text
        assert mine.decode(ids) == text


def test_sentence_piece_tokens_are_those_of_the_tokenizer_they_came_from(tmp_path):
    library = llama_2()
    mine = opened(tmp_path, sentence_piece_metadata(library))
    theirs = ours.Tokenizer(write_tokenizer(tmp_path / "folder", library))
    ids = [
        [each.encode(text, add_special_tokens=False) for each in (mine, theirs)]
        for text in texts(seed=5)
    ]
    same = [a == b for a, b in ids]
    # A trained list merges only the pairs it saw; by score every pair that makes the token merges.
    assert sum(same) > 0.9 * len(same)
    for text in texts(seed=5):
        assert mine.decode(mine.encode(text)) == theirs.decode(theirs.encode(text))


def test_special_tokens_are_recognised_and_skipped(tmp_path):
    library = byte_level(adds_bos=False)
    mine = opened(
        tmp_path,
        byte_level_metadata(
            library,
            "gpt-2",
            **{"tokenizer.ggml.bos_token_id": BOS, "tokenizer.ggml.eos_token_id": EOS},
        ),
    )
    ids = mine.encode("<|user|>hello<tool call></s>")
    assert ids[0] == USER and ids[-1] == EOS and library.token_to_id("<tool call>") in ids
    assert mine.is_special(USER) and not mine.is_special(ids[-2])
    assert mine.decode(ids) == "hello<tool call>"
    assert mine.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert (mine.bos_token_id, mine.eos_token_id) == (BOS, EOS)
    assert mine.vocab_size == library.get_vocab_size()


@pytest.mark.parametrize(
    "changes, begins, ends",
    [
        ({}, False, False),
        ({"tokenizer.ggml.pre": "llama-bpe"}, True, False),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, False, False),
        ({"tokenizer.ggml.add_bos_token": True}, True, False),
        ({"tokenizer.ggml.add_eos_token": True}, False, True),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}, True, True),
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(changes, begins, ends, tmp_path):
    ids = {"tokenizer.ggml.bos_token_id": BOS, "tokenizer.ggml.eos_token_id": EOS}
    metadata = byte_level_metadata(byte_level(adds_bos=False), "gpt-2", **ids) | changes
    mine = opened(tmp_path, metadata)
    plain = mine.encode("hello there", add_special_tokens=False)
    assert mine.encode("hello there") == [BOS] * begins + plain + [EOS] * ends
    if begins:  # a text that has it already gets no second one
        assert mine.encode("<s>hello there") == [BOS, *plain, *[EOS] * ends]


def test_sentence_piece_begins_with_bos_by_itself(tmp_path):
    ids = {"tokenizer.ggml.bos_token_id": BOS}
    mine = opened(tmp_path, sentence_piece_metadata(llama_2(), **ids))
    assert mine.encode("hello")[0] == BOS


def test_chat_templates_are_taken_over(tmp_path):
    messages = [{"role": "user", "content": "hi"}]
    metadata = byte_level_metadata(
        byte_level(adds_bos=False),
        "gpt-2",
        **{
            "tokenizer.ggml.bos_token_id": BOS,
            "tokenizer.chat_template": "{{ bos_token }}A {{ messages[0].content }}",
        },
    )
    assert opened(tmp_path, metadata).apply_chat_template(messages) == "<s>A hi"
    metadata |= {
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "B {{ messages[0].content }}",
    }
    mine = opened(tmp_path, metadata)
    assert mine.apply_chat_template(messages) == "<s>A hi"
    assert mine.apply_chat_template(messages, tools=[{"name": "f"}]) == "B hi"
    del metadata["tokenizer.chat_template"], metadata["tokenizer.chat_templates"]
    assert "<|im_start|>user\nhi" in opened(tmp_path, metadata).apply_chat_template(messages)


def test_a_broken_template_is_an_error_of_this_file(tmp_path):
    metadata = byte_level_metadata(byte_level(), "gpt-2")
    metadata["tokenizer.chat_template"] = "{% for %}"
    mine = opened(tmp_path, metadata)
    with pytest.raises(ModelError, match=r"it\.gguf: chat template, line 1"):
        mine.apply_chat_template([{"role": "user", "content": "hi"}])


def test_a_whole_model_answers_in_text_and_stops(tmp_path):
    library = byte_level(adds_bos=False)
    config = {**SMALL_LLAMA, "vocab_size": library.get_vocab_size()}
    metadata = byte_level_metadata(library, "gpt-2")
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens[USER] = "<|im_end|>"
    keys = {"tokenizer.ggml.eot_token_id": 300}
    path = write_model(tmp_path / "it.gguf", config, random_tensors(config), **metadata, **keys)
    assert open_checkpoint(path).config.eos_token_ids == (EOS, USER, 300)
    llm = LLM(path, device="cpu", seed=1)
    answer = llm.generate("Once upon", SamplingParams(max_tokens=12, temperature=0))[0]
    assert answer.text == llm.tokenizer.decode(answer.token_ids)
    chat = llm.chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=4))
    assert len(chat.token_ids) <= 4


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"tokenizer.ggml.model": "bert"},
            'tokenizer.ggml.model must be gpt2 or llama, got "bert"',
        ),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "tokenizer.ggml.pre must be one of gpt-2, phi-2"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is required and missing"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens must be an array of strings"),
        ({"tokenizer.ggml.tokens": ["a", "b", "a"]}, "expected no token twice, found 'a'"),
        ({"tokenizer.ggml.tokens": ["a", b"\xff"]}, "tokens: entry 1 is not UTF-8"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is required and missing"),
        ({"tokenizer.ggml.merges": ["a"]}, "expected two tokens with a space between them in"),
        ({"tokenizer.ggml.merges": ["a qqqqq"]}, "tokenizer.ggml.merges: "),
        ({"tokenizer.ggml.token_type": [1, 1]}, "token_type: expected 497 elements"),
        ({"tokenizer.ggml.bos_token_id": "one"}, "bos_token_id must be an integer of at least 0"),
        ({"tokenizer.ggml.add_bos_token": 1}, "add_bos_token must be true or false, got 1"),
        ({"tokenizer.chat_template": 5}, "tokenizer.chat_template must be a string, got 5"),
        ({"tokenizer.chat_templates": ["x"]}, "chat_template.x is required and missing"),
    ],
)
def test_tokenizers_that_cannot_be_are_refused(changes, words, tmp_path):
    metadata = byte_level_metadata(byte_level(adds_bos=False), "gpt-2") | changes
    metadata = {key: value for key, value in metadata.items() if value is not None}
    assert words in refusal(tmp_path, metadata)


def test_scores_are_required_where_they_decide(tmp_path):
    metadata = sentence_piece_metadata(llama_2())
    del metadata["tokenizer.ggml.scores"]
    assert "tokenizer.ggml.scores is required" in refusal(tmp_path, metadata)
    metadata["tokenizer.ggml.scores"] = [0.5]
    assert "scores: expected 456 elements" in refusal(tmp_path, metadata)


def test_an_empty_token_matches_nothing(tmp_path):
    metadata = byte_level_metadata(byte_level(adds_bos=False), "gpt-2")
    metadata["tokenizer.ggml.tokens"][USER] = ""
    mine = opened(tmp_path, metadata)
    assert mine.decode(mine.encode("hello there")) == "hello there"


def test_a_file_without_a_tokenizer_is_a_model_for_token_ids(tmp_path):
    for model in (None, "none", "no_vocab"):
        keys = {"tokenizer.ggml.model": model}
        path = write_model(tmp_path / "it.gguf", SMALL_LLAMA, random_tensors(SMALL_LLAMA), **keys)
        assert open_checkpoint(path).tokenizer is None
