"""response_format: what comes back parses, follows the schema, and stalls nobody."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from string import ascii_lowercase as LETTERS
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("llguidance", reason="needs the serve extra")

from live_server import LiveServer, get, load_embedded, post
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.errors import RequestError
from llama_cu.find_model import find_model
from llama_cu.llm import LLM
from llama_cu.sampling_params import SamplingParams
from llama_cu.server.constraint import Grammars
from tests import tokenizers_made_here
from tests.tiny import make_sequence

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
EVEN = {
    "type": "object",
    "properties": {"even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 999}},
    "required": ["even"],
    "additionalProperties": False,
}
SPACES = ("", " ", "  ", "\n\n", "\n" + " " * 32, "\n" + " " * 33)
# Each character may begin a piece or not: the states that are possible grow without end.
RUNAWAY = {"type": "string", "pattern": "^(.*[a-m].{40}){40}$"}
# llguidance's own limits do not see that one coming.
EXPLOSIVE = {"type": "integer", "multipleOf": 10**7 + 19}


def is_person(value):
    assert list(value) == list(PERSON["properties"])
    name, age, likes = value.values()
    assert isinstance(name, str) and len(name) <= 8
    assert type(age) is int and 0 <= age <= 150
    assert len(likes) <= 2 and set(likes) <= {"red", "green", "blue"}
    return True


def fixed_rng():
    return np.random.default_rng(7)


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


def make_grammars(tokenizer, *, vocab_size=None, eos_token_ids=(0,)):
    vocab_size = vocab_size or tokenizer.vocab_size
    return Grammars(tokenizer, vocab_size=vocab_size, eos_token_ids=eos_token_ids)


def constraint_of(grammars, schema, eos=frozenset({0}), **params):
    sequence = make_sequence([5], SamplingParams(**params))
    sequence.eos_token_ids = eos
    return asyncio.run(grammars.of_schema(schema)).constraint(sequence)


def allowed_ids(constraint):
    return np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little"))


def random_answer(constraint, rng, ends=(0,)):
    """Token ids, each drawn from all that are allowed; the end only where it must be."""
    ids = []
    while not constraint.finished:
        allowed = allowed_ids(constraint)
        texts = allowed[~np.isin(allowed, list(ends))]
        ids.append(int(rng.choice(texts if texts.size else allowed)))
        constraint.accept(ids[-1])
        assert len(ids) < 500
    return ids


@pytest.fixture(scope="module", params=["story", "chat", "byte-level", "llama-2", "metaspace"])
def tokenizer(request, tmp_path_factory):
    if request.param in ("story", "chat"):
        return Tokenizer(find_model(request.param))
    folder = tmp_path_factory.mktemp(request.param)
    library_tokenizer = tokenizers_made_here.KINDS[request.param]()
    return Tokenizer(tokenizers_made_here.write_tokenizer(folder, library_tokenizer))


def test_whatever_is_drawn_from_the_masks_follows_the_schema(tokenizer):
    grammars = make_grammars(tokenizer)
    for seed in range(15):
        ids = random_answer(constraint_of(grammars, PERSON), np.random.default_rng(seed))
        assert is_person(json.loads(tokenizer.decode(ids, skip_special_tokens=True)))


def test_a_text_without_choice_is_written_in_the_tokenizers_own_tokens(tokenizer):
    text = '"there was a little fox, très calme, мост, 小狐狸"'
    before = tokenizer.encode("\n", add_special_tokens=False)
    expected = tokenizer.encode("\n" + text, add_special_tokens=False)[len(before) :]
    constraint = constraint_of(make_grammars(tokenizer), {"const": json.loads(text)})
    assert random_answer(constraint, np.random.default_rng(0)) == expected


@pytest.mark.parametrize("const", ["<|user|></s>", "</s><s>", "<|im_end|>", "<unk>"])
def test_a_special_tokens_name_in_the_text_is_text(tokenizer, const):
    ids = random_answer(constraint_of(make_grammars(tokenizer), {"const": const}), fixed_rng())
    assert not any(map(tokenizer.is_special, ids))
    assert json.loads(tokenizer.decode(ids)) == const


@pytest.mark.parametrize("more", [0, 1, 12, 32, 53])
def test_ids_beyond_the_tokenizer_are_never_allowed(more):
    tokenizer = Tokenizer(find_model("story"))
    vocab_size = tokenizer.vocab_size + more
    constraint = constraint_of(make_grammars(tokenizer, vocab_size=vocab_size), {"type": "string"})
    for token_id in tokenizer.encode('"The fox', add_special_tokens=False):
        words = constraint.mask()
        assert words.shape == (-(-vocab_size // 32),) and words.dtype == np.int32
        allowed = allowed_ids(constraint)
        assert token_id in allowed and allowed.max() < tokenizer.vocab_size
        constraint.accept(token_id)
    assert len(allowed) > 1000


@pytest.mark.parametrize(
    ("guidance", "before_it"),
    [
        ({}, {"", " ", "\n" + " " * 32}),
        ({"whitespace_flexible": False}, {""}),
        ({"whitespace_flexible": True}, set(SPACES)),
        ({"whitespace_pattern": "  "}, {"", "  "}),
    ],
    ids=["the default", "none", "any", "a pattern"],
)
def test_white_space_is_bounded_unless_the_schema_says_otherwise(guidance, before_it):
    tokenizer = Tokenizer(find_model("story"))
    grammars = make_grammars(tokenizer)
    schema = EVEN | {"x-guidance": guidance}
    taken = set()
    for white in SPACES:
        constraint = constraint_of(grammars, schema)
        try:
            for byte in ("{" + white + '"even":12}').encode():
                constraint.accept(*tokenizer.encode(chr(byte), add_special_tokens=False))
        except RequestError:
            continue
        assert constraint.finished
        taken.add(white)
    assert taken == before_it


def test_the_end_is_allowed_exactly_where_the_schema_allows_it():
    tokenizer = Tokenizer(find_model("story"))
    grammars = make_grammars(tokenizer)
    schema = {"type": "integer", "minimum": 10, "maximum": 12345}
    for params, ends in (
        ({}, {0}),
        ({"stop_token_ids": [77]}, {0, 77}),
        ({"ignore_eos": True}, set()),
        ({"ignore_eos": True, "stop_token_ids": [77, 5000]}, {77}),
    ):
        constraint = constraint_of(grammars, schema, **params)
        found = []
        for digit in "1234":
            found.append(set(allowed_ids(constraint).tolist()) & {0, 77})
            constraint.accept(*tokenizer.encode(digit, add_special_tokens=False))
        assert found == [set(), set(), ends, ends]
        assert not constraint.finished
        constraint.accept(*tokenizer.encode("5", add_special_tokens=False))
        assert constraint.finished


def test_a_model_without_an_end_token_stops_with_the_schema(byte_model):
    llm = LLM(byte_model, device="cpu")
    grammars = make_grammars(llm.tokenizer, eos_token_ids=llm.eos_token_ids)
    (sequence,) = llm.sequences([65, 66], SamplingParams(seed=4, max_tokens=60))
    schema = {**EVEN, "x-guidance": {"whitespace_flexible": False}}
    sequence.constraint = asyncio.run(grammars.of_schema(schema)).constraint(sequence)
    llm.engine.submit(sequence)
    while not sequence.finished:
        llm.engine.step()
    assert sequence.finish_reason == "stop"
    value = json.loads(sequence.text)
    assert sequence.text == json.dumps(value, separators=(",", ":"))
    assert value["even"] % 2 == 0 and set(value) == {"even"}


REFUSED = {
    "not a type": ({"type": "nonsense"}, "Invalid type: nonsense"),
    "unknown keyword": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "nothing satisfies it": ({"$ref": "#"}, "no text satisfies it"),
    "no integer between": ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
    "unfinished pattern": ({"type": "string", "pattern": "("}, "unclosed group"),
    "deep pattern": ({"type": "string", "pattern": "(" * 9000 + ")" * 9000}, "regex"),
    "remote reference": ({"$ref": "http://127.0.0.1:9/x.json"}, "does not fetch"),
    "file reference": ({"$ref": "file:///etc/passwd"}, "does not fetch"),
    "not a number": ({"type": "number", "minimum": float("inf")}, "not JSON compliant"),
    "lone surrogate": ({"const": "\ud800"}, "hex escape"),
    "huge": ({"const": "x" * 300_000}, "300013 characters, but at most 200000"),
    "long enum": ({"enum": [f"value {i}" for i in range(20_000)]}, "but at most 200000"),
    "all at once": ({"type": "string", "allOf": [{"pattern": f"(.*{c}.*)"} for c in LETTERS]},
                    "regex is empty|too much time"),
    "every pair": ({"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(4)]}
                              for i in range(12)]}, "schema too large"),
    "explosive": (EXPLOSIVE, "too much time or memory"),
}  # fmt: skip


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.fixture(scope="module")
def story_grammars():
    return make_grammars(Tokenizer(find_model("story")))


@pytest.mark.parametrize("case", REFUSED)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(story_grammars, case):
    schema, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        asyncio.run(story_grammars.of_schema(schema))


@pytest.mark.parametrize("depth", [130, 900, 5000])
def test_a_schema_nested_too_deeply_is_refused(story_grammars, depth):
    with pytest.raises(ValueError, match=r"recursion limit|nested too deeply"):
        asyncio.run(story_grammars.of_schema(nested(depth)))


@pytest.mark.parametrize(
    "schema",
    [
        nested(40),
        {"enum": [f"value {i * 7919 % 5003}" for i in range(5000)]},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(300)}},
        {"type": "string", "pattern": "^(a{1,1000}){1,1000}b$"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        {"const": "the quick brown fox " * 5000},
        {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"},
    ],
    ids=["deep", "enum", "properties", "pattern", "string", "array", "const", "recursive"],
)
def test_a_large_schema_is_followed_in_no_time(story_grammars, schema):
    constraint = constraint_of(story_grammars, schema)
    rng = fixed_rng()
    times_s = []
    while len(times_s) < 60 and not constraint.finished:
        began = time.thread_time()
        constraint.accept(int(rng.choice(allowed_ids(constraint))))
        times_s.append(time.thread_time() - began)
    # Some tens of microseconds were measured; what is wrong here takes a second.
    assert np.mean(times_s) < 0.02


@pytest.fixture(scope="module", params=["story", "chat"])
def server(request):
    with LiveServer(load_embedded(request.param), model_name="m") as live:
        yield live


def complete(server, **fields):
    body = {"model": "m", "prompt": "Once upon a time", "temperature": 1, "max_tokens": 120}
    return post(server, "/v1/completions", {**body, **fields})


def streamed(server, **fields):
    """Each choice's text and finish_reason, and errors, of a streamed completion."""
    status, text, _ = complete(server, stream=True, **fields)
    assert status == 200
    texts, reasons, errors = {}, {}, []
    for line in text.split("\n\n"):
        if not line.startswith("data: {"):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        errors += [chunk["error"]] if "error" in chunk else []
        for choice in chunk.get("choices", ()):
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
            reasons[choice["index"]] = choice["finish_reason"] or reasons.get(choice["index"])
    return texts, reasons, errors


def test_twenty_seeds_follow_the_schema_whole_and_streamed(server):
    fields = {"n": 20, "seed": 100, "response_format": schema_format(PERSON, strict=True)}
    fields["max_tokens"] = 300  # small models indent
    status, body, _ = complete(server, **fields)
    assert status == 200, body
    choices = body["choices"]
    for choice in choices:
        if choice["finish_reason"] == "stop":
            assert is_person(json.loads(choice["text"]))
    assert [choice["finish_reason"] for choice in choices].count("stop") >= 15
    texts, reasons, errors = streamed(server, **fields)
    assert texts == {choice["index"]: choice["text"] for choice in choices}
    assert reasons == {choice["index"]: choice["finish_reason"] for choice in choices}
    assert not errors and server.all_blocks_free


def test_a_constrained_answer_is_the_same_in_company(server):
    wanted = schema_format(PERSON)
    (first, second) = complete(server, n=2, seed=5, response_format=wanted)[1]["choices"]
    for seed, choice in ((5, first), (6, second)):
        (alone,) = complete(server, seed=seed, response_format=wanted)[1]["choices"]
        assert (alone["text"], alone["finish_reason"]) == (choice["text"], choice["finish_reason"])


def test_max_tokens_cuts_the_answer(server):
    wanted = schema_format(PERSON)
    (whole,) = complete(server, seed=1, response_format=wanted)[1]["choices"]
    (cut,) = complete(server, seed=1, max_tokens=7, response_format=wanted)[1]["choices"]
    assert cut["finish_reason"] == "length"
    assert whole["text"].startswith(cut["text"]) and len(cut["text"]) < len(whole["text"])


def test_a_stop_string_cuts_the_answer_too(server):
    wanted = schema_format(PERSON)
    (choice,) = complete(server, seed=1, response_format=wanted, stop=["age"])[1]["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["text"].endswith('"') and '"name"' in choice["text"]


@pytest.mark.parametrize("more", [{"ignore_eos": True}, {"min_tokens": 90}], ids=str)
def test_a_complete_answer_ends_even_where_ends_are_put_off(server, more):
    wanted = schema_format({"enum": ["a fox", "a bear"]})
    (choice,) = complete(server, seed=3, response_format=wanted, **more)[1]["choices"]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["text"]) in ("a fox", "a bear")


def test_json_object_gives_objects(server):
    body = {"model": "m", "messages": [{"role": "user", "content": "Tell me."}], "n": 4, "seed": 2}
    body |= {"response_format": {"type": "json_object"}, "max_tokens": 60, "temperature": 1}
    status, answer, _ = post(server, "/v1/chat/completions", body)
    assert status == 200
    for choice in answer["choices"]:
        content = choice["message"]["content"]
        assert content.startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(content), dict)
        else:
            assert choice["finish_reason"] == "length"


def test_type_text_changes_nothing(server):
    plain = complete(server, seed=9, max_tokens=20)[1]["choices"]
    text = complete(server, seed=9, max_tokens=20, response_format={"type": "text"})[1]["choices"]
    assert text == plain


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"type": "json_schema"}, "json_schema must be there exactly when"),
        ({"type": "json_object", "json_schema": {"name": "x", "schema": {}}}, "must be there"),
        ({"type": "text", "json_schema": {"name": "x", "schema": {}}}, "must be there exactly"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "json_schema has no schema"),
        (schema_format({"type": "nonsense"}), "cannot be followed: Invalid type: nonsense"),
        (schema_format({"$ref": "#"}), "no text satisfies it"),
    ],
)
def test_a_response_format_that_makes_no_sense_is_refused_by_name(server, wanted, message):
    status, body, _ = complete(server, response_format=wanted)
    assert status == 400
    assert body["error"]["param"] == "response_format"
    assert body["error"]["message"].startswith("response_format: ")
    assert message in body["error"]["message"]


def test_an_answer_whose_grammar_grows_too_complex_fails_alone(server):
    (alone,) = complete(server, seed=11, max_tokens=60)[1]["choices"]
    wanted = schema_format(RUNAWAY)
    status, body, _ = complete(server, seed=3, max_tokens=300, response_format=wanted)
    assert status == 500 and "could not be followed any further" in body["error"]["message"]
    _, _, errors = streamed(server, seed=3, max_tokens=300, response_format=wanted)
    assert len(errors) == 1 and errors[0]["type"] == "server_error"
    assert complete(server, seed=11, max_tokens=60)[1]["choices"] == [alone]
    assert server.all_blocks_free


@pytest.mark.slow
def test_an_explosive_schema_is_refused_while_others_are_served():
    with LiveServer(model_name="m") as server:
        body = {"model": "m", "prompt": "Once", "response_format": schema_format(EXPLOSIVE)}
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(post, server, "/v1/completions", body)
            answered = 0
            while not refused.done():
                assert get(server, "/health")[0] == 200
                assert complete(server, max_tokens=3)[0] == 200
                answered += 1
        status, error, _ = refused.result()
        assert status == 400 and "too much time or memory" in error["error"]["message"]
        assert answered > 3


def test_the_openai_clients_parse_gives_the_class_that_was_asked_for(server):
    openai = pytest.importorskip("openai", reason="needs the openai client")
    from pydantic import BaseModel

    class Weather(BaseModel):
        city: Literal["Rome", "Oslo"]
        sunny: bool

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.parse(
            model="m",
            messages=[{"role": "user", "content": "Is it sunny?"}],
            response_format=Weather,
            max_tokens=150,
        )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Weather)
