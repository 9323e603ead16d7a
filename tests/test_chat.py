"""The chat's memory and its input, without a model; tests/test_cli.py runs the whole program."""

from __future__ import annotations

import json
import os

import pytest

from llama_cu.cli.chat_input import Message, PipeReader, history_file, open_history, read_message
from llama_cu.cli.chat_session import OPTIONS, ChatSession, Turn


def count_words(messages):
    return sum(len(message["content"].split()) for message in messages)


def filled(num_turns: int) -> ChatSession:
    session = ChatSession(defaults={"max_tokens": None})
    for index in range(num_turns):
        session.add(f"question {index} please", f"answer {index} gladly")
    return session


def test_messages_are_the_system_prompt_the_turns_and_the_new_message():
    session = ChatSession(system="Be kind.")
    session.add("Hello", "Hi!")
    assert session.messages("Who are you?") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Who are you?"},
    ]


def test_a_short_chat_drops_nothing():
    session = filled(3)
    assert session.make_room("and now", count_words, 100) == 0
    assert len(session.messages()) == 6


def test_a_full_context_drops_the_oldest_turns_and_keeps_them_in_the_file(tmp_path):
    session = filled(10)  # 6 words a turn
    dropped = session.make_room("and now", count_words, 40)  # 10 words are kept for the answer
    assert dropped == 6
    assert count_words(session.messages("and now")) + 10 <= 40
    assert session.messages()[0]["content"] == "question 6 please"
    session.save(tmp_path / "chat.json", model="m")
    assert len(json.loads((tmp_path / "chat.json").read_text())["messages"]) == 20


def test_room_for_the_answer_is_no_more_than_max_tokens():
    session = filled(10)
    session.set_option("max_tokens", "2")
    assert session.make_room("and now", count_words, 64) == 0


def test_a_message_that_cannot_fit_alone_is_refused_and_drops_nothing():
    session = filled(4)
    with pytest.raises(ValueError, match=r"too long: 50 tokens .* the context holds 50"):
        session.make_room("word " * 50, count_words, 50)
    assert session.num_dropped == 0
    assert session.make_room("word " * 49, count_words, 50) == 4


def test_undo_takes_back_the_last_turn_only():
    session = filled(2)
    assert session.undo() == Turn("question 1 please", "answer 1 gladly")
    assert len(session.turns) == 1


def test_undo_reaches_behind_dropped_turns():
    session = filled(3)
    session.make_room("word " * 10, count_words, 14)
    assert session.num_dropped == 3
    session.undo()
    assert session.num_dropped == 2
    session.undo()
    session.undo()
    with pytest.raises(ValueError, match="no turn"):
        session.undo()


def test_set_changes_one_option_and_default_gives_it_back():
    session = ChatSession(defaults={"temperature": 0.7})
    session.set_option("temperature", "0.5")
    session.set_option("seed", "11")
    assert (session.params.temperature, session.params.seed) == (0.5, 11)
    session.set_option("temperature", "default")
    session.set_option("seed", "none")
    assert (session.params.temperature, session.params.seed) == (0.7, None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "hot", "temperature must be a number, got 'hot'"),
        ("temperature", "-1", "temperature must be in .0, 100., got -1"),
        ("top_k", "2.5", "top_k must be a whole number, got '2.5'"),
        ("top_p", "0", "top_p must be in .0, 1., got 0"),
        ("max_tokens", "0", "max_tokens must be an integer of at least 1"),
        ("colour", "red", "colour is no option; there are temperature"),
    ],
)
def test_a_wrong_option_is_refused_and_the_old_one_stays(name, value, message):
    session = ChatSession(options={"temperature": 0.25})
    before = session.params
    with pytest.raises(ValueError, match=message):
        session.set_option(name, value)
    assert session.params == before


def test_every_option_of_set_is_a_sampling_parameter():
    params = ChatSession().params
    assert all(hasattr(params, name) for name in OPTIONS)


def test_a_saved_chat_loads_as_it_was(tmp_path):
    session = ChatSession(system="Be kind.", options={"temperature": 0.5})
    session.add("Grüße 🐢", "Once,\nthere was a turtle.")
    session.save(tmp_path / "chat.json", model="m")
    loaded = ChatSession()
    loaded.load(tmp_path / "chat.json")
    assert loaded.messages("next") == session.messages("next")
    assert loaded.options == {"temperature": 0.5}


def test_save_overwrites_its_own_file_and_no_other(tmp_path):
    session = filled(1)
    other = tmp_path / "other.json"
    other.write_text("precious")
    session.save(tmp_path / "mine.json", model="m")
    session.add("more", "text")
    session.save(tmp_path / "mine.json", model="m")
    with pytest.raises(ValueError, match=r"other\.json exists and is not this conversation"):
        session.save(other, model="m")
    assert other.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["mine.json", "other.json"]


def test_a_cleared_chat_does_not_overwrite_the_file_of_the_old_one(tmp_path):
    session = filled(1)
    session.save(tmp_path / "old.json", model="m")
    session.clear()
    session.add("new", "chat")
    with pytest.raises(ValueError, match="is not this conversation"):
        session.save(tmp_path / "old.json", model="m")


def test_load_refuses_to_lose_unsaved_turns(tmp_path):
    session = filled(1)
    session.save(tmp_path / "chat.json", model="m")
    session.load(tmp_path / "chat.json")
    session.add("unsaved", "turn")
    with pytest.raises(ValueError, match="not saved"):
        session.load(tmp_path / "chat.json")
    assert session.turns[-1] == Turn("unsaved", "turn")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    session = filled(1)
    session.save(tmp_path / "chat.json", model="m")
    before = (tmp_path / "chat.json").read_bytes()
    session.options["seed"] = object()
    with pytest.raises(TypeError):
        session.save(tmp_path / "chat.json", model="m")
    assert (tmp_path / "chat.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["chat.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "recursion"),
        (b"\xff\xfe\x00", "invalid start byte"),
        (b"[1]", '"format" is not'),
        (b'{"format": "llama-cu chat 1", "options": {}}', '"messages" must be a list'),
        (b'{"format": "llama-cu chat 1", "options": {"a": 1}, "messages": []}', '"options" must'),
        (
            b'{"format": "llama-cu chat 1", "options": {"top_p": 7}, "messages": []}',
            "top_p must be in",
        ),
        (
            b'{"format": "llama-cu chat 1", "messages": [], "options": {"min_p": 1%s}}'
            % (b"0" * 400),
            "min_p must be in",
        ),
        (
            b'{"format": "llama-cu chat 1", "options": {}, "messages": [{"role": "user"}]}',
            r"messages\[0\] must have role and content",
        ),
        (
            b'{"format": "llama-cu chat 1", "options": {}, '
            b'"messages": [{"role": "user", "content": "a"}]}',
            "by turns",
        ),
    ],
)
def test_a_file_that_is_no_chat_is_one_clear_error_and_changes_nothing(tmp_path, content, message):
    (tmp_path / "bad.json").write_bytes(content)
    session = ChatSession(system="Be kind.")
    with pytest.raises(ValueError, match=rf"bad\.json is not a saved chat: .*{message}"):
        session.load(tmp_path / "bad.json")
    assert (session.system, session.turns, session.options) == ("Be kind.", [], {})


def test_a_line_is_a_message():
    assert read_message(PipeReader(["  hello you \r\n"])) == Message("hello you", quoted=False)


def test_triple_quotes_hold_a_message_of_many_lines():
    reader = PipeReader(['"""first\n', "\n", "  /second\n", '"""\n', "next\n"])
    assert read_message(reader) == Message("first\n\n  /second", quoted=True)
    assert read_message(reader) == Message("next", quoted=False)


def test_triple_quotes_may_close_on_their_own_line():
    assert read_message(PipeReader(['"""/help me"""\n'])) == Message("/help me", quoted=True)


def test_the_end_of_input_ends_an_open_message():
    reader = PipeReader(['"""first\n', "second\n"])
    assert read_message(reader) == Message("first\nsecond", quoted=True)
    with pytest.raises(EOFError):
        read_message(reader)


def test_history_lives_in_the_state_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "llama-cu" / "chat_history"


def test_a_history_that_cannot_be_read_or_written_is_a_note_each(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history_file().mkdir(parents=True)
    history = open_history()
    assert list(history.load_history_strings()) == []
    history.append_string("hello")
    history.append_string("again")
    assert history.get_strings() == ["hello", "again"]
    read, written = capsys.readouterr().err.splitlines()
    assert read.startswith("history cannot be read: ") and "Is a directory" in read
    assert written.startswith("history is not kept: ")
