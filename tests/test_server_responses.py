"""OpenAI's Responses API, asked by OpenAI's own client and by raw requests."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("openai", reason="needs the openai client")

import openai
import pydantic

from live_server import LiveServer, load_embedded, post, slowly, until

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server():
    with LiveServer(slowly(0.002, "chat"), model_name="chat") as live:
        yield live


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(server, **fields):
    return post(server, "/v1/responses", {"model": "chat", "input": "Hello", **fields})


def chat_answer(client, messages, **fields):
    return client.chat.completions.create(model="chat", messages=messages, temperature=0, **fields)


def test_an_answer_is_the_one_that_chat_completions_gives(client):
    chat = chat_answer(client, HELLO)

    response = client.responses.create(model="chat", input="Hello", temperature=0)

    assert response.output_text == chat.choices[0].message.content
    assert response.status == "completed" and response.incomplete_details is None
    assert response.object == "response" and response.id.startswith("resp_")
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")


def test_instructions_are_a_system_message_in_front(client):
    system = {"role": "system", "content": "You are a pirate."}
    chat = chat_answer(client, [system, *HELLO])

    by_instructions = client.responses.create(
        model="chat", input="Hello", instructions=system["content"], temperature=0
    )
    by_item = client.responses.create(
        model="chat", input=[{**system, "role": "developer"}, *HELLO], temperature=0
    )

    assert by_instructions.usage.input_tokens == chat.usage.prompt_tokens
    assert by_instructions.output_text == chat.choices[0].message.content == by_item.output_text
    assert by_instructions.instructions == system["content"]


def test_an_answer_goes_back_as_it_came_and_its_tokens_are_reused(client):
    first = client.responses.create(model="chat", input=HELLO, temperature=0)
    more = {"role": "user", "content": [{"type": "input_text", "text": "Tell me a story."}]}

    second = client.responses.create(
        model="chat", input=[*HELLO, *first.output, more], temperature=0
    )

    said = {"role": "assistant", "content": first.output_text}
    chat = chat_answer(client, [*HELLO, said, {"role": "user", "content": "Tell me a story."}])
    assert second.output_text == chat.choices[0].message.content
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    assert 0 < second.usage.input_tokens_details.cached_tokens < second.usage.input_tokens


def test_a_stream_tells_of_every_step_and_adds_up_to_the_whole(client):
    fields = {"model": "chat", "input": "Tell me a story.", "temperature": 0}
    whole = client.responses.create(**fields)

    events = list(client.responses.create(**fields, stream=True))

    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert len(deltas) == len(kinds) - 8 > 1
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    text = "".join(delta.delta for delta in deltas)
    assert text == events[-4].text == events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage.model_copy(
        update={"input_tokens_details": events[-1].response.usage.input_tokens_details}
    )
    item = events[-1].response.output[0].id
    assert {event.item_id for event in [*deltas, events[3], events[-4], events[-3]]} == {item}


def test_a_stream_names_its_events_for_readers_of_event_streams(server):
    status, text, headers = ask(server, stream=True, temperature=0, max_output_tokens=3)

    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    frames = [frame.split("\n") for frame in text.strip().split("\n\n") if "data:" in frame]
    for name, data in frames:
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_is_incomplete(client, stream):
    fields = {"model": "chat", "input": "Tell me a story.", "max_output_tokens": 5}
    answer = client.responses.create(**fields, stream=stream)
    if stream:
        last = list(answer)[-1]
        assert last.type == "response.incomplete"
        answer = last.response

    assert answer.status == "incomplete" and answer.output[0].status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 5 and answer.max_output_tokens == 5


def test_a_parsed_answer_follows_its_schema(client):
    class Animal(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)
        legs: int = pydantic.Field(ge=0, le=9)

    response = client.responses.parse(model="chat", input="Hello", text_format=Animal)

    assert isinstance(response.output_parsed, Animal)
    assert response.text.format.type == "json_schema" and response.text.format.name == "Animal"


def test_log_probabilities_come_where_they_are_included(client):
    fields = {"model": "chat", "input": "Hello", "temperature": 0, "max_output_tokens": 6}
    wish = {"include": ["message.output_text.logprobs"], "top_logprobs": 3}
    chat = chat_answer(client, HELLO, logprobs=True, top_logprobs=3, max_tokens=6)

    response = client.responses.create(**fields, **wish)
    events = client.responses.create(**fields, **wish, stream=True)

    entries = response.output[0].content[0].logprobs
    streamed = [
        entry for e in events if e.type == "response.output_text.delta" for entry in e.logprobs
    ]
    wanted = [(entry.token, entry.logprob) for entry in chat.choices[0].logprobs.content]
    assert [(entry.token, entry.logprob) for entry in entries] == wanted
    assert [(entry.token, entry.logprob) for entry in streamed] == wanted
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert client.responses.create(**fields).output[0].content[0].logprobs == []


def test_langchain_speaks_to_it(server):
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    chat = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        model="chat",
        temperature=0,
        use_responses_api=True,
    )

    whole = chat.invoke("Hello").text
    pieces = [chunk.text for chunk in chat.stream("Hello")]

    assert whole and "".join(pieces) == whole and len(pieces) > 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"store": True}, "store"),
        ({"n": 2}, "n"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": ""}]}, None),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, None),
    ],
)
def test_what_is_not_here_is_refused_by_name(server, fields, param):
    status, body, _ = ask(server, **fields)

    assert status == 400
    named = param or "input"
    assert (body["error"]["param"] or "").startswith(named), body
    assert named.rsplit(".", 1)[-1] in body["error"]["message"]


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="the model 'gpt-9' is not here"):
        client.responses.create(model="gpt-9", input="Hello")


def test_a_conversation_that_does_not_fit_is_refused(server):
    status, body, _ = ask(server, input="word " * 5000)

    assert status == 400
    assert body["error"]["code"] == "context_length_exceeded" and body["error"]["param"] == "input"


def test_a_step_that_raises_ends_the_stream_with_a_failed_response():
    with LiveServer(load_embedded("chat"), model_name="chat") as live:
        engine = live.service.llm.engine
        compute = engine._compute

        def broken(slices):
            raise RuntimeError("planted")

        engine._compute = broken
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            events = list(client.responses.create(model="chat", input="Hello", stream=True))
            with pytest.raises(openai.InternalServerError):
                client.responses.create(model="chat", input="Hello")
        engine._compute = compute

        assert events[-1].type == "response.failed"
        assert events[-1].response.status == "failed"
        assert "planted" in events[-1].response.error.message
        assert ask(live)[0] == 200 and live.all_blocks_free


def test_a_reader_that_leaves_gives_its_blocks_back():
    with (
        LiveServer(slowly(0.02, "chat"), model_name="chat") as live,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.responses.create(
            model="chat", input="Hello", stream=True, extra_body={"ignore_eos": True}
        )
        for event in stream:
            if event.type == "response.output_text.delta":
                break
        stream.close()

        until(lambda: live.all_blocks_free and not live.scheduler.running)
