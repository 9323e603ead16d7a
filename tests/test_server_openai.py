"""OpenAI's API, asked by OpenAI's own client and by raw requests."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("openai", reason="needs the openai client")

import numpy as np
import openai

from live_server import LiveServer, get, load_embedded, post
from llama_cu import SamplingParams

PROMPTS = ["Once upon a time", "The little train", "Tom had a red ball.", "One rainy day, Omar"]


@pytest.fixture(scope="module")
def server():
    with LiveServer(load_embedded()) as live:
        yield live


@pytest.fixture(scope="module")
def llm():
    return load_embedded()()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(server, **fields):
    return post(server, "/v1/completions", {"model": "story", "prompt": "Once", **fields})


def error_of(answer):
    status, body, _ = answer
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return status, body["error"]


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["story"]
    assert client.models.retrieve("story").id == "story"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_name_with_a_slash_is_found_as_the_client_writes_it():
    with (
        LiveServer(load_embedded(), model_name="us/story") as live,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert client.models.retrieve("us/story").id == "us/story"
        assert get(live, "/v1/models/us/story")[1]["id"] == "us/story"
        assert get(live, "/v1/models/")[1] == get(live, "/v1/models")[1]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_completion_is_the_librarys_answer(client, llm, temperature):
    (expected,) = llm.generate(
        [PROMPTS[0]], SamplingParams(temperature=temperature, seed=7, max_tokens=40, top_k=20)
    )

    answer = client.completions.create(
        model="story",
        prompt=PROMPTS[0],
        temperature=temperature,
        top_p=1,
        seed=7,
        max_tokens=40,
        extra_body={"top_k": 20},
    )

    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage.completion_tokens == len(expected.token_ids)
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)


def test_streamed_pieces_are_the_whole_answer(client):
    fields = {
        "model": "story",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 1.0,
        "seed": 3,
        "max_tokens": 60,
    }
    whole = client.chat.completions.create(**fields)

    chunks = list(
        client.chat.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}
        )
    )

    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) <= {None}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_answers_at_the_same_time_equal_those_alone(server, llm):
    def params(seed):
        return {"temperature": 0.8, "seed": seed, "max_tokens": 50}

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(
                *(
                    client.completions.create(
                        model="story", prompt=PROMPTS[seed % len(PROMPTS)], **params(seed)
                    )
                    for seed in range(12)
                )
            )

    answers = asyncio.run(ask_all())

    for seed, answer in enumerate(answers):
        defaults = llm.default_params()
        alone = llm.generate(PROMPTS[seed % len(PROMPTS)], _with(defaults, **params(seed)))[0]
        assert answer.choices[0].text == alone.text


def _with(defaults, **changes):
    from dataclasses import replace

    return replace(defaults, **changes)


def test_several_choices_of_several_prompts_come_in_order(server, llm):
    _, body, _ = complete(server, prompt=PROMPTS[:2], n=3, seed=5, temperature=1.0, max_tokens=12)

    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    for i, prompt in enumerate(PROMPTS[:2]):
        params = _with(llm.default_params(), n=3, seed=5, temperature=1.0, max_tokens=12)
        texts = [output.text for output in llm.generate(prompt, params)]
        assert [choice["text"] for choice in body["choices"][3 * i : 3 * i + 3]] == texts
    assert body["usage"]["completion_tokens"] <= 6 * 12


def test_token_ids_are_prompts_too(server, llm):
    ids = llm.encode(PROMPTS[1])
    by_text = complete(server, prompt=PROMPTS[1], temperature=0, max_tokens=10)[1]
    by_ids = complete(server, prompt=ids, temperature=0, max_tokens=10)[1]
    several = complete(server, prompt=[ids, ids], temperature=0, max_tokens=10)[1]

    assert by_ids["choices"][0]["text"] == by_text["choices"][0]["text"]
    assert [choice["text"] for choice in several["choices"]] == [by_ids["choices"][0]["text"]] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_across_tokens_is_cut_and_never_shown(client, llm, stream):
    text = llm.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=40))[0].text
    stop = text[17:26]  # begins and ends inside words

    answer = client.completions.create(
        model="story", prompt=PROMPTS[0], temperature=0, max_tokens=40, stop=[stop, "@@"],
        stream=stream,
    )  # fmt: skip

    pieces = [c.choices[0] for c in answer] if stream else answer.choices
    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
    assert pieces[-1].finish_reason == "stop"


def test_chat_logprobs_name_the_tokens_and_their_rivals(client):
    answer = client.chat.completions.create(
        model="story",
        messages=[{"role": "user", "content": "Hi"}],
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )

    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 3
        best = entry.top_logprobs[0]
        assert (best.token, best.logprob) == (entry.token, entry.logprob)
        assert entry.logprob <= 0


def test_completion_logprobs_are_four_lists_and_the_same_in_pieces(client):
    fields = {"model": "story", "prompt": PROMPTS[0], "temperature": 0, "max_tokens": 9}
    whole = client.completions.create(**fields, logprobs=2).choices[0]
    pieces = [c.choices[0] for c in client.completions.create(**fields, logprobs=2, stream=True)]

    assert "".join(whole.logprobs.tokens) == whole.text
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        joined = [value for piece in pieces for value in getattr(piece.logprobs, name)]
        assert joined == getattr(whole.logprobs, name)
    assert all(len(top) == 2 for top in whole.logprobs.top_logprobs)


def test_echo_repeats_the_prompt(client):
    answer = client.completions.create(
        model="story", prompt=PROMPTS[2], echo=True, temperature=0, max_tokens=5
    )
    plain = client.completions.create(model="story", prompt=PROMPTS[2], temperature=0, max_tokens=5)

    assert answer.choices[0].text == PROMPTS[2] + plain.choices[0].text


@pytest.mark.parametrize("max_tokens", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_echo_scores_the_prompt_too(client, llm, max_tokens, stream):
    ids = llm.encode("Once upon a time, a small dragon named Ember")
    fields = {"prompt": ids, "echo": True, "logprobs": 2, "max_tokens": max_tokens}
    answer = client.completions.create(model="story", **fields, temperature=0, stream=stream)

    pieces = [c.choices[0] for c in answer] if stream else answer.choices
    found = {
        name: [value for piece in pieces for value in getattr(piece.logprobs, name)]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
    text = "".join(piece.text for piece in pieces)
    assert {len(values) for values in found.values()} == {len(ids) + max_tokens}
    assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
    logits = llm.logits(ids).astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    chosen = [expected[i, token_id] for i, token_id in enumerate(ids[1:])]
    assert found["token_logprobs"][1 : len(ids)] == pytest.approx(chosen, abs=1e-4)
    best = expected[:-1].max(axis=1)
    assert [max(top.values()) for top in found["top_logprobs"][1 : len(ids)]] == pytest.approx(
        best, abs=1e-4
    )
    for token, offset in list(zip(found["tokens"], found["text_offset"], strict=True))[1:]:
        assert text[offset:].startswith(token)
    if not stream:
        assert answer.usage.completion_tokens == max_tokens
        assert answer.usage.prompt_tokens == len(ids)


def test_a_second_turn_reuses_the_first_and_says_so(server):
    messages = [{"role": "user", "content": "Tell me a story about a dragon and a very old clock."}]
    fields = {"model": "story", "temperature": 0, "max_tokens": 40}
    _, first, _ = post(server, "/v1/chat/completions", {**fields, "messages": messages})
    messages += [first["choices"][0]["message"], {"role": "user", "content": "more"}]
    messages[1].pop("refusal")

    _, second, _ = post(server, "/v1/chat/completions", {**fields, "messages": messages})

    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > first["usage"]["prompt_tokens"] // 2
    assert second["timings"]["cache_n"] == cached
    assert second["timings"]["prompt_n"] == second["usage"]["prompt_tokens"] - cached
    assert second["timings"]["predicted_n"] == second["usage"]["completion_tokens"]


def test_penalties_and_bias_change_the_answer_as_in_the_library(server, llm):
    changes = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3}
    expected = llm.generate(
        PROMPTS[0],
        _with(llm.default_params(), temperature=0, max_tokens=30, logit_bias={300: 3.0}, **changes),
    )[0]

    _, body, _ = complete(
        server, prompt=PROMPTS[0], temperature=0, max_tokens=30, logit_bias={"300": 3.0}, **changes
    )

    assert body["choices"][0]["text"] == expected.text


def test_tokenize_and_detokenize_are_inverse(server, llm):
    text = "Bücher, 猫 and a dragon 🐉"
    _, body, _ = post(server, "/tokenize", {"prompt": text, "add_special_tokens": False})

    assert body["count"] == len(body["tokens"])
    assert post(server, "/detokenize", {"tokens": body["tokens"]})[1] == {"prompt": text}
    _, chat, _ = post(server, "/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
    assert chat["tokens"] == llm.encode_chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"n": 0}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"n": 10_000}, "n"),
        ({"prompt": ["Once"] * 10_000}, "prompt"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logprobs": 1000}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, 99999]}, "prompt"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"echo": True, "logprobs": -1}, "logprobs"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(server, fields, param):
    status, error = error_of(complete(server, **fields))

    assert status == 400
    assert error["param"] is not None and error["param"].split(".")[0] == param
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            "tools",
        ),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": {}}, "tools"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities.1"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_wrong_field_of_a_chat_is_a_400_that_names_it(server, fields, param):
    body = {"model": "story", "messages": [{"role": "user", "content": "Hi"}], **fields}

    status, error = error_of(post(server, "/v1/chat/completions", body))

    assert (status, error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"[]", 400),
        (b'{"model": "story", "prompt": "\xff\xfe"}', 400),
        (b'{"model": "story", "prompt": "\\ud800"}', 400),
        (b" " * (9 << 20), 413),
    ],
)
def test_a_broken_body_is_refused_and_the_next_one_served(server, body, status):
    assert error_of(post(server, "/v1/completions", body))[0] == status
    assert complete(server, max_tokens=1)[0] == 200


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/completions", ("stream", "echo", "suffix", "best_of", "logprobs", "n")),
        ("/v1/chat/completions", ("stream", "tools", "tool_choice", "store", "logprobs", "n")),
    ],
)
def test_a_field_that_is_null_is_as_good_as_not_there(server, path, names):
    prompt = {"prompt": "Once"}
    if "chat" in path:
        prompt = {"messages": [{"role": "user", "content": "Hi", "name": None}]}
    body = {"model": "story", "max_tokens": 3, "temperature": 0, **prompt}

    status, expected, _ = post(server, path, body)
    nulls_status, answer, _ = post(server, path, {**body, **dict.fromkeys(names)})

    assert (status, nulls_status) == (200, 200)
    assert answer["choices"] == expected["choices"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": False},
        {"modalities": ["text"], "response_format": {"type": "text"}},
        {"store": False, "service_tier": "auto", "metadata": {"run": "7"}},
        {"prompt_cache_key": "a", "safety_identifier": "b", "user": "c"},
        {"logprobs": False, "top_logprobs": 0},
    ],
)
def test_a_field_that_clients_send_and_that_asks_for_nothing_changes_nothing(server, fields):
    said = {"role": "assistant", "content": "Hello", "refusal": None}
    asked = {"role": "user", "content": "Hi"}
    body = {"model": "story", "max_tokens": 3, "temperature": 0}

    _, expected, _ = post(
        server, "/v1/chat/completions", {**body, "messages": [asked, said, asked]}
    )
    said = {**said, "tool_calls": [], "annotations": []}
    status, answer, _ = post(
        server, "/v1/chat/completions", {**body, "messages": [asked, said, asked], **fields}
    )

    assert status == 200
    assert answer["choices"] == expected["choices"]


def test_parts_of_a_message_are_lines_of_it(server):
    def tokens(content):
        messages = [{"role": "user", "content": content}]
        return post(server, "/tokenize", {"messages": messages})[1]["tokens"]

    parts = [{"type": "text", "text": text} for text in ("Is this a story?", "Once upon a time")]

    assert tokens(parts) == tokens("Is this a story?\nOnce upon a time")
    assert tokens(parts[:1]) == tokens("Is this a story?")
    assert tokens([]) == tokens("")


def test_one_more_way_to_ask_for_as_many_answers_and_no_suffix_change_nothing(server):
    _, expected, _ = complete(server, max_tokens=3, temperature=0, n=2)
    status, answer, _ = complete(server, max_tokens=3, temperature=0, n=2, best_of=2, suffix="")

    assert status == 200, answer
    assert answer["choices"] == expected["choices"]


def test_messages_may_hold_what_clients_add_to_them(server):
    messages = [
        {"role": "user", "content": "Hi", "type": "text"},  # lm-evaluation-harness writes that
        {"role": "assistant", "content": "Yes?", "tool_calls": [], "annotations": []},
        {"role": "tool", "content": "4", "tool_call_id": "call_1"},
    ]

    status, answer, _ = post(
        server, "/v1/chat/completions", {"model": "story", "messages": messages, "max_tokens": 2}
    )

    assert status == 200, answer


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": ["a"] * 1_000_000 + [1]}, "prompt"),
        ("/v1/completions", {"prompt": "a", **{f"x{i}": 1 for i in range(500_000)}}, "x0"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a", "x": 1}] * 180_000},
            "messages.0.x",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"x": 1}] * 800_000}]},
            "messages.0.content.0.x",
        ),
    ],
)
def test_of_many_mistakes_one_is_named_and_nobody_waits(server, path, fields, param):
    data = json.dumps({"model": "story", **fields}).encode()
    began = time.process_time()  # the server is a thread of this process

    status, error = error_of(post(server, path, data))

    assert (status, error["param"]) == (400, param)
    assert time.process_time() - began < 4


def test_an_answers_message_can_be_sent_back_as_it_came(client):
    user = {"role": "user", "content": "Hi"}
    first = client.chat.completions.create(model="story", messages=[user], max_tokens=3)

    second = client.chat.completions.create(
        model="story", messages=[user, first.choices[0].message, user], max_tokens=3
    )

    assert second.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages.0.content.0.image_url",
        ),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages.0.tool_calls"),
        ({"role": "user", "content": 3}, "messages.0.content"),
    ],
)
def test_what_a_message_may_not_hold_is_named_as_the_client_wrote_it(server, message, param):
    answer = post(server, "/v1/chat/completions", {"model": "story", "messages": [message]})

    status, error = error_of(answer)

    assert (status, error["param"]) == (400, param)


def test_a_prompt_that_is_too_long_is_refused_with_its_code(server):
    for prompt in ([5] * 100_000, "word " * 100_000):
        status, error = error_of(complete(server, prompt=prompt))
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert "511" in error["message"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_page_loads_scripts_from_elsewhere(server, path):
    assert error_of(get(server, path))[0] == 404


def test_unknown_paths_and_methods_are_errors_of_the_same_form(server):
    assert error_of(get(server, "/v1/nothing"))[0] == 404
    assert error_of(get(server, "/v1/completions"))[0] == 405
    assert error_of(complete(server, model="gpt-9"))[1]["code"] == "model_not_found"


def test_many_threads_of_clients_are_served(client, llm):
    expected = llm.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=20))[0].text

    def ask(_):
        answer = client.completions.create(
            model="story", prompt=PROMPTS[0], temperature=0, max_tokens=20
        )
        return answer.choices[0].text

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(24))) == {expected}


MANY = 20_000


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/v1/completions", "prompt", ["a"] * MANY),
        ("/v1/completions", "prompt", [[1]] * MANY),
        ("/v1/chat/completions", "messages", [{"role": "user", "content": "a"}] * MANY),
        ("/v1/responses", "input", [{"role": "user", "content": "a"}] * MANY),
        ("/tokenize", "messages", [{"role": "user", "content": "a"}] * MANY),
        (
            "/v1/chat/completions",
            "messages.0.content",
            [{"role": "user", "content": [{"type": "text", "text": "a"}] * MANY}],
        ),
    ],
)
def test_lists_of_very_many_parts_are_refused_unread(server, path, name, value):
    status, error = error_of(post(server, path, {"model": "story", name.split(".")[0]: value}))
    assert status == 400 and error["param"] == name
    assert error["message"].startswith(f"{name}: List should have at most 16384 items")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, "a"], "prompt.1: Input should be a valid integer"),
        ([["a"]], "prompt.0"),
        (5, "prompt: Input should be a valid"),
    ],
)
def test_a_prompt_of_a_wrong_kind_is_told_where_it_is_wrong(server, prompt, message):
    status, error = error_of(complete(server, prompt=prompt))
    assert status == 400 and error["message"].startswith(message)


def test_langchain_speaks_to_it(server):
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    chat = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="story", temperature=0, max_tokens=20
    )

    whole = chat.invoke("Hello").content
    pieces = [chunk.content for chunk in chat.stream("Hello")]

    assert whole and "".join(pieces) == whole


def test_metrics_count_what_was_served(server):
    def value(name):
        text = get(server, "/metrics")[1]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        )

    before = {n: value(f"llama_cu_{n}_total") for n in ("requests", "generated_tokens")}
    complete(server, max_tokens=7, ignore_eos=True)

    assert value("llama_cu_requests_total") == before["requests"] + 1
    assert value("llama_cu_generated_tokens_total") == before["generated_tokens"] + 7
    assert value("llama_cu_requests_running") == 0
    assert value("llama_cu_time_to_first_token_seconds_count") >= 1


def test_the_documents_are_there(server):
    assert get(server, "/health")[1] == {"status": "ready"}
    assert set(get(server, "/version")[1]) == {"version"}
    status, page, headers = get(server, "/")
    assert status == 200 and "<title>" in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert json.dumps(get(server, "/openapi.json")[1]).count("/v1/chat/completions") >= 1
