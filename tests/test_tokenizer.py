from __future__ import annotations

import json
import random
import re
import threading
import time
from pathlib import Path

import pytest

from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.tokenizer import StreamDecoder, Tokenizer
from llama_cu.errors import ModelError, RequestError
from tests.checkpoints import random_checkpoint
from tests.tokenizers_made_here import KINDS, TEXTS, byte_level, llama_2, write_tokenizer

STORY = Path(__file__).parents[1] / "models" / "story"
BOS, EOS, USER = 1, 2, 3


@pytest.fixture(params=[*KINDS, "story"])
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(kind, tmp_path):
    if kind == "story":
        return Tokenizer(STORY)
    return Tokenizer(write_tokenizer(tmp_path, KINDS[kind]()))


def make(folder: Path, library=None, **config) -> Tokenizer:
    return Tokenizer(write_tokenizer(folder, library or byte_level(), config))


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    decoder = StreamDecoder(tokenizer, prompt or [])
    return [decoder.push(token_id) for token_id in ids] + [decoder.finish()]


def random_texts(num_texts: int, seed: int) -> list[str]:
    """Sentences of all scripts, cut and joined anywhere between characters."""
    rng = random.Random(seed)
    texts = []
    for _ in range(num_texts):
        parts = [rng.choice(TEXTS) for _ in range(3)]
        cuts = [sorted(rng.sample(range(len(part) + 1), 2)) for part in parts]
        texts.append("".join(part[a:b] for part, (a, b) in zip(parts, cuts, strict=True)))
    return texts


def reference(tokenizer: Tokenizer, library_ids: list[int]) -> str:
    """Decoding as the definition has it: join all bytes first, read them as UTF-8 at the end."""
    kept = [i for i in library_ids if not tokenizer.is_special(i)]
    data = b"".join(
        tokenizer.piece(i) if place else tokenizer.first_piece(i) for place, i in enumerate(kept)
    )
    text = data.decode("utf-8", "replace")
    character, count = tokenizer.stripped
    while count and character and text.startswith(character):
        text, count = text[1:], count - 1
    return text


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_texts_in_any_language_survive_encoding_and_decoding(tokenizer, kind):
    for text in [*TEXTS, *random_texts(100, seed=1)]:
        # SentencePiece's space mark is a space, and Metaspace adds none where there is one already.
        want = text if kind == "byte-level" else text.replace("▁", " ")
        want = want.removeprefix(" ") if kind == "metaspace" else want
        assert tokenizer.decode(tokenizer.encode(text)) == want


def test_decoding_valid_text_is_what_the_library_does(tokenizer, kind):
    library = tokenizer._tokenizer
    for text in [*TEXTS, *random_texts(100, seed=2)]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        ids = [i for i in ids if not tokenizer.is_special(i)]
        assert tokenizer.decode(ids) == library.decode(ids)


def test_decoding_random_bytes_is_what_the_library_does(tmp_path):
    tokenizer = make(tmp_path)
    rng = random.Random(3)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(1, 40))]
        assert tokenizer.decode(ids) == tokenizer._tokenizer.decode(ids)


def test_pieces_add_up_to_the_whole_text_for_any_ids(tokenizer):
    rng = random.Random(4)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(0, 60))]
        assert "".join(stream(tokenizer, ids)) == reference(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_no_piece_of_a_valid_text_holds_a_part_of_a_character(tokenizer):
    for text in [*TEXTS, *random_texts(100, seed=5)]:
        pieces = stream(tokenizer, tokenizer.encode(text))
        assert not any("\ufffd" in piece for piece in pieces)
        assert pieces[-1] == ""


def test_every_character_comes_with_the_token_that_completes_it(tmp_path):
    tokenizer = make(tmp_path, llama_2())
    ids = tokenizer.encode("a😀b")
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == "a😀b"
    assert pieces[-6:] == ["", "", "", "😀", "b", ""]


def test_an_answer_continues_its_prompt_wherever_that_ends(tokenizer):
    for text in random_texts(40, seed=6):
        ids = tokenizer.encode(text)
        whole = tokenizer.decode(ids)
        for cut in range(len(ids) + 1):
            prompt_text = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
            answer = "".join(stream(tokenizer, ids[cut:], ids[:cut]))
            assert prompt_text + answer == whole


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_the_first_token_of_an_answer_keeps_its_space(tokenizer):
    ids = tokenizer.encode("Once upon a time")
    first = len(tokenizer.encode("Once upon"))
    assert "".join(stream(tokenizer, ids[first:], ids[:first])) == " a time"


def test_a_text_that_begins_with_the_answer_has_no_leading_space(tokenizer):
    ids = tokenizer.encode("Once upon a time")
    assert "".join(stream(tokenizer, ids)) == "Once upon a time"
    assert "".join(stream(tokenizer, [i for i in ids if i != BOS], [BOS])) == "Once upon a time"


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_special_tokens_are_skipped_even_inside_a_character(tokenizer):
    ids = tokenizer.encode("x你好", add_special_tokens=False)
    sprinkled = [token for i in ids for token in (EOS, i, USER)]
    assert "".join(stream(tokenizer, sprinkled)) == "x你好"
    assert tokenizer.decode(sprinkled) == "x你好"


def test_special_tokens_are_written_out_on_request(tmp_path):
    tokenizer = make(tmp_path)
    ids = tokenizer.encode("<|user|>hi</s>")
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s><|user|>hi</s>"


def test_added_tokens_that_are_not_special_are_text(tmp_path):
    tokenizer = make(tmp_path)
    ids = tokenizer.encode("a<tool call>b")
    assert tokenizer.decode(ids) == "a<tool call>b"
    assert max(ids) == tokenizer.vocab_size - 1


def test_ids_that_the_tokenizer_does_not_have_are_no_text(tmp_path):
    tokenizer = make(tmp_path)
    assert tokenizer.decode([*tokenizer.encode("a"), 10**6, *tokenizer.encode("b")]) == "ab"


@pytest.mark.parametrize("make_library", [byte_level, llama_2])
def test_a_long_run_of_broken_bytes_is_decoded_as_it_comes(make_library, tmp_path):
    tokenizer = make(tmp_path, make_library())
    broken = [i for i in range(tokenizer.vocab_size) if tokenizer.piece(i) == b"\x80"]
    pieces = stream(tokenizer, tokenizer.encode("a") + broken * 50_000)
    assert "".join(pieces) == "a" + "\ufffd" * 50_000
    assert all(len(piece) == 1 for piece in pieces[-40_000:-1])


def test_a_character_left_incomplete_is_marked_at_the_end(tmp_path):
    tokenizer = make(tmp_path, llama_2())
    pieces = stream(tokenizer, tokenizer.encode("你")[:-1])
    assert [piece for piece in pieces if piece] == ["\ufffd"]
    assert pieces[-1] == "\ufffd"


def test_a_genuine_replacement_character_is_not_held_back(tmp_path):
    tokenizer = make(tmp_path, llama_2())
    assert stream(tokenizer, tokenizer.encode("\ufffd"))[-2:] == ["\ufffd", ""]


def test_bos_is_added_once_however_it_is_asked_for(tmp_path):
    plain = byte_level(adds_bos=False)
    by_processor = make(tmp_path / "processor")
    by_config = make(tmp_path / "config", plain, add_bos_token=True)
    by_both = make(tmp_path / "both", add_bos_token=True)
    without = make(tmp_path / "without", plain)
    ids = without.encode("hi")
    assert BOS not in ids
    for tokenizer in (by_processor, by_config, by_both):
        assert tokenizer.encode("hi") == [BOS, *ids]
        assert tokenizer.encode("<s>hi") == [BOS, *ids]
        assert tokenizer.encode("hi", add_special_tokens=False) == ids
        assert tokenizer.encode("<s>hi", add_special_tokens=False) == [BOS, *ids]
        assert tokenizer.encode("") == [BOS]


def test_special_tokens_come_from_any_of_the_files(tmp_path):
    tokenizer = make(tmp_path / "a", bos_token={"content": "<s>", "lstrip": False}, pad_token=None)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS, EOS)
    expected = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert tokenizer.special_tokens == expected
    folder = write_tokenizer(tmp_path / "b", byte_level())
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer(folder).bos_token_id is None
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|user|>"}))
    assert Tokenizer(folder).bos_token_id == USER
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": None}))
    assert Tokenizer(folder).bos_token_id == USER


def test_a_token_that_the_config_names_is_special(tmp_path):
    tokenizer = make(tmp_path, eos_token="<tool call>", unk_token="nothing of this name")
    ids = tokenizer.encode("a<tool call>b")
    assert tokenizer.is_special(tokenizer.eos_token_id)
    assert tokenizer.decode(ids) == "ab" == "".join(stream(tokenizer, ids))


def test_truncation_and_padding_in_the_file_are_switched_off(tmp_path):
    library = byte_level()
    library.enable_truncation(2)
    library.enable_padding(length=50)
    tokenizer = make(tmp_path, library)
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]


def test_text_that_is_not_unicode_is_refused(tmp_path):
    with pytest.raises(RequestError, match="the text is not valid Unicode"):
        make(tmp_path).encode("a\ud800b")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "Nothing"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / "tokenizer.json"))):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (None, "decoder is required and missing"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "decoder .*WordPiece"),
        ({"type": "Strip", "content": " ", "start": 1, "stop": 0}, "decoder .*Strip"),
    ],
)
def test_a_decoder_that_cannot_be_streamed_is_refused(decoder, words, tmp_path):
    path = write_tokenizer(tmp_path, byte_level()) / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder": decoder}))
    with pytest.raises(ModelError, match=rf"tokenizer\.json: {words}"):
        Tokenizer(tmp_path)


MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hé <b> 你"},
]


def test_without_a_template_messages_are_chatml(tmp_path):
    tokenizer = make(tmp_path)
    head = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHé <b> 你<|im_end|>\n"
    assert tokenizer.apply_chat_template(MESSAGES) == f"{head}<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=False) == head


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", "<s>Be kind.</s>"),
        ("{% if add_generation_prompt %}\n  go\n{% endif %}\n.", "  go\n."),
        ("  {%- for m in messages %}{{ m.role }},{% endfor %}", "system,user,"),
        ("{{ messages[1] | tojson }}", '{"role": "user", "content": "Hé <b> 你"}'),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "system"),
        ("{{ enable_thinking }}{{ tools is none }}", "TrueTrue"),
        ("{% generation %}a{{ messages|length }}{% endgeneration %}b", "a2b"),
        ("{% set x=1 %}{% generation %}{% set x=2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{{ strftime_now('%Y')|length }}", "4"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}", "3"),
        ("{{ missing }}|{{ missing is defined }}", "|False"),
    ],
)
def test_templates_are_rendered_as_transformers_does(template, text, tmp_path):
    tokenizer = make(tmp_path, chat_template=template)
    assert tokenizer.apply_chat_template(MESSAGES, enable_thinking=True) == text


def test_what_is_none_in_a_message_is_absent_for_a_template(tmp_path):
    template = (
        "{% for m in messages %}[{{ m['content'] }}{{ m.tool_calls is defined }}]{% endfor %}"
    )
    calls = [{"function": {"name": "f", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "a", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    text = make(tmp_path, chat_template=template).apply_chat_template(messages)
    assert text == "[aFalse][True]"
    assert messages[1]["content"] is None


def test_a_template_file_comes_before_the_config_and_a_default_before_others(tmp_path):
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "default"},
    ]
    tokenizer = make(tmp_path, chat_template=named)
    assert tokenizer.apply_chat_template(MESSAGES) == "default"
    assert tokenizer.apply_chat_template(MESSAGES, tools=[{"name": "f"}]) == "tools"
    (tmp_path / "chat_template.jinja").write_text("file é", encoding="utf-8")
    assert tokenizer.apply_chat_template(MESSAGES) == "file é"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "chat template: roles must alternate"),
        ("{{ messages[7].content + 'x' }}", "chat template: .*has no element 7"),
        ("{{ messages[0].content + 1 }}", "chat template: TypeError"),
        ("{{ 1 // 0 }}", "chat template: ZeroDivisionError"),
        ("{{ messages.append(1) }}", "chat template: .*unsafe"),
        ("{{ ''.__class__.__mro__ }}", "chat template: .*unsafe"),
        ("{{ strftime_now(3) }}", "chat template: TypeError"),
    ],
)
def test_what_a_template_refuses_is_an_error_of_the_request(template, words, tmp_path):
    tokenizer = make(tmp_path, chat_template=template)
    with pytest.raises(RequestError, match=words) as refusal:
        tokenizer.apply_chat_template(MESSAGES)
    assert str(refusal.value).startswith(str(tmp_path / "tokenizer_config.json"))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a\n{% if %}", "chat template, line 2: "),
        ("{% unknown %}", "chat template, line 1: .*unknown tag"),
        (7, "chat_template must be a string or named templates, got 7"),
        ([{"name": "other", "template": "x"}], "must hold a template named default"),
        ([{"name": "default"}], "must hold objects with name and template"),
        ([{"name": "default", "template": None}], "must hold objects with name and template"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "chat template: nested too deeply"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "chat template: nested too deeply"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it calls itself without end"),
        ("{{ 1 }}" * 20000, "expected at most 131072 characters, found 140000"),
    ],
)
def test_a_broken_template_is_an_error_of_the_model(template, words, tmp_path):
    tokenizer = make(tmp_path, chat_template=template)
    with pytest.raises(ModelError, match=words):
        tokenizer.apply_chat_template(MESSAGES)


@pytest.mark.parametrize("messages", ["hello", ["hello"], [("role", "user")]])
def test_messages_that_are_no_mappings_are_wrong_arguments(messages, tmp_path):
    with pytest.raises(ValueError, match=r"messages must be (a list of )?mappings"):
        make(tmp_path).apply_chat_template(messages)


def test_a_checkpoint_without_a_tokenizer_has_none(tmp_path):
    folder = random_checkpoint(tmp_path)
    assert open_checkpoint(folder).tokenizer is None
    write_tokenizer(folder, llama_2())
    assert open_checkpoint(folder).tokenizer.decode([BOS, *range(300, 310)]) != ""


def test_a_template_cannot_change_the_messages(tmp_path):
    template = "{% set _ = messages[0].update({'role': 'x'}) %}"
    messages = [dict(message) for message in MESSAGES]
    with pytest.raises(RequestError, match="unsafe"):
        make(tmp_path, chat_template=template).apply_chat_template(messages)
    assert messages == MESSAGES


def test_a_long_text_has_the_ids_of_any_other(tokenizer):
    text = "".join(TEXTS) * 400

    long = tokenizer.encode(text)

    assert long == tokenizer._tokenizer.encode(text).ids
    assert long[:20] == tokenizer.encode(text[:4000])[:20]


def test_other_threads_go_on_while_a_long_text_is_encoded(tmp_path):
    tokenizer = make(tmp_path)
    num_ticks, ended = 0, threading.Event()

    def tick():
        nonlocal num_ticks
        while not ended.wait(0.001):
            num_ticks += 1

    other = threading.Thread(target=tick)
    other.start()
    before = num_ticks
    began = time.perf_counter()
    tokenizer.encode("a" * 500_000)
    seconds = time.perf_counter() - began
    after = num_ticks
    ended.set()
    other.join()

    assert seconds > 0.05, "too quick to see anything"
    assert after - before > 10
