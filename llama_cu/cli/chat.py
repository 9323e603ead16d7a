"""llama-cu chat: read, answer, obey commands. Answers go to stdout, everything else to stderr."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_cu.cli.chat_input import Reader, open_reader, read_message
from llama_cu.cli.chat_session import OPTIONS, ChatSession
from llama_cu.cli.interrupt import CtrlC
from llama_cu.cli.load import sampling_params
from llama_cu.cli.terminal import TextWriter, note
from llama_cu.errors import LlamaCuError
from llama_cu.folders import user_path
from llama_cu.llm import LLM
from llama_cu.output import Output
from llama_cu.sampling_params import MAX_SEED, SamplingParams

# Narrow enough for a phone.
HELP = '''\
/system [TEXT]    the system prompt; off
/set [NAME VALUE] sampling options
/regen            another answer
/undo             take back a turn
/save FILE        keep it, as JSON
/load FILE        go on from a file
/stats            tokens and speed
/clear            forget all turns
/quit             end; Ctrl-D too
"""               begins and ends a
                  message of many lines
Ctrl-C            stops an answer'''


def run_chat(llm: LLM, *, model: str, system: str | None, options: dict[str, Any]) -> int:
    """Talk until the input ends. The exit code: 1 when a line of a pipe could not be served."""
    if llm.tokenizer is None:
        raise ValueError("chat needs a tokenizer, but the model has no tokenizer.json")
    model_options = sampling_params(llm, {"max_tokens": None})
    defaults = {name: getattr(model_options, name) for name in OPTIONS}
    session = ChatSession(defaults=defaults, options=options, system=system)
    return Chat(llm, session, reader=open_reader(), model=model).run()


class Chat:
    """A session, a model, and somebody who types."""

    def __init__(self, llm: LLM, session: ChatSession, *, reader: Reader, model: str) -> None:
        self._llm = llm
        self._session = session
        self._reader = reader
        self._model = model
        self._last: Output | None = None
        self._retries = 0
        self._ended = self._failed = False
        self._ctrl_c = CtrlC()
        self._commands = {
            "help": lambda _: note(HELP),
            "system": self._system,
            "set": self._set,
            "regen": self._regen,
            "undo": self._undo,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
            "clear": self._clear,
        }

    def run(self) -> int:
        """Read and obey until the end; 1 when some line of a pipe could not be served."""
        if self._reader.person:
            note(f"{self._model} on {self._llm.device_name}; /help for commands")
        while not self._ended:
            try:
                self._turn()
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self._reader.person:
                    raise
                note("Ctrl-D or /quit ends the chat")
            except (ValueError, LlamaCuError, OSError) as error:
                self._failed = True
                note(f"error: {error}")
        return int(self._failed and not self._reader.person)

    def _turn(self) -> None:
        """One message: an answer, a command, or the end."""
        message = read_message(self._reader)
        if not message.quoted and message.text in ("/quit", "/exit", "quit", "exit"):
            self._ended = True
            return
        with CtrlC() as self._ctrl_c:
            self._handle(message.text, is_command=not message.quoted)
        if self._ctrl_c.pressed and not self._reader.person:
            raise KeyboardInterrupt

    def _handle(self, text: str, *, is_command: bool) -> None:
        if not text:
            return
        if not is_command or not text.startswith("/"):
            self._retries = 0
            self._answer(text)
            return
        name, _, argument = text[1:].partition(" ")
        if name not in self._commands:
            raise ValueError(f"there is no command /{name}; /help lists them")
        self._commands[name](argument.strip())

    def _answer(self, user: str) -> bool:
        """Stream the answer to `user` and remember the turn; False when nothing was answered."""
        llm, session = self._llm, self._session
        dropped = session.make_room(user, llm.count_chat_tokens, llm.context_len)
        if dropped:
            note(f"the context is full: the oldest {_turns(dropped)} dropped")
        stream = llm.chat_stream(session.messages(user), self._params())
        writer = TextWriter()
        with stream:
            while not self._ctrl_c.pressed and (piece := next(stream, None)) is not None:
                writer.write(piece)
        writer.end()
        self._last = output = stream.output
        if output.text:
            session.add(user, output.text)
        self._tell_end(output, stopped=self._ctrl_c.pressed)
        return bool(output.text)

    def _tell_end(self, output: Output, *, stopped: bool) -> None:
        if stopped:
            note("stopped" if output.text else "stopped; the message is not remembered")
        elif output.finish_reason == "length":
            used = output.timings.prompt_tokens + output.timings.generated_tokens
            full = used >= self._llm.context_len
            note("cut: the context is full" if full else "cut at max_tokens; /set max_tokens N")
        elif not output.text:
            note("the model had nothing to say")

    def _params(self) -> SamplingParams:
        """The session's parameters; a fixed seed moves on with every /regen."""
        params = self._session.params
        if params.seed is None or not self._retries:
            return params
        return replace(params, seed=(params.seed + self._retries) & MAX_SEED)

    def _system(self, text: str) -> None:
        if text:
            self._session.set_system(None if text == "off" else text)
        note(f"system: {self._session.system or '(none)'}")

    def _set(self, argument: str) -> None:
        if argument:
            name, _, value = argument.replace("=", " ").partition(" ")
            if not value.strip():
                raise ValueError("use /set NAME VALUE; the value default gives it back")
            self._session.set_option(name, value.strip())
        params = self._session.params
        note("\n".join(f"{name} = {getattr(params, name)}" for name in OPTIONS))

    def _regen(self, _: str) -> None:
        turn = self._session.undo()
        self._retries += 1
        answered = False
        try:
            answered = self._answer(turn.user)
        finally:
            if not answered:
                self._session.add(turn.user, turn.assistant)

    def _undo(self, _: str) -> None:
        turn = self._session.undo()
        note(f"taken back: {' '.join(turn.user.split())[:60]}")

    def _save(self, name: str) -> None:
        path = user_path(name) if name else self._session.file
        if path is None:
            raise ValueError("use /save FILE")
        self._session.save(path, model=self._model)
        note(f"saved {_turns(len(self._session.turns))} to {path}")

    def _load(self, name: str) -> None:
        if not name:
            raise ValueError("use /load FILE")
        self._session.load(user_path(name))
        note(f"loaded {_turns(len(self._session.turns))} from {name}")

    def _clear(self, _: str) -> None:
        self._session.clear()
        self._last = None
        note("all turns forgotten")

    def _stats(self, _: str) -> None:
        llm, session = self._llm, self._session
        # Some templates refuse a conversation in which the user has said nothing.
        told = len(session.turns) > session.num_dropped
        used = llm.count_chat_tokens(session.messages()) if told else 0
        lines = [
            f"turns: {len(session.turns)} ({session.num_dropped} dropped)",
            f"context: {used} of {llm.context_len} tokens",
        ]
        if self._last is not None:
            timings, reused = self._last.timings, self._last.num_cached_tokens
            lines += [
                f"last prompt: {timings.prompt_tokens} tokens, {reused} reused",
                f"last answer: {timings.generated_tokens} tokens",
                f"first after {timings.time_to_first_token_s:.2f} s, "
                f"then {timings.tokens_per_s:.0f} tok/s",
            ]
        lines += [f"model: {self._model}", f"device: {llm.device_name}, {llm.dtype}"]
        note("\n".join(lines))


def _turns(count: int) -> str:
    return f"{count} turn" + ("" if count == 1 else "s")
