"""Answers that follow a JSON schema: llguidance says which tokens may come next.

It sees a token as the bytes that the answer's text gains by it, and no other way.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.errors import RequestError
from llama_cu.sequence import Sequence
from llama_cu.server.grammar_trial import compile_grammar, try_grammar
from llama_cu.server.openai_schema import ANY_OBJECT

Array = Any

_MAX_SCHEMA_CHARS = 200_000
_MAX_CACHED = 32
# Schemas that are compiled at the same time; more wait, so that they leave the model its cores.
_MAX_COMPILING = 2

# A model that lost its way writes white space for ever. Between two tokens of JSON there may be a
# space, or a line break and its indentation, unless the schema's "x-guidance" has its own rule.
_WHITE_SPACE: Any = {"whitespace_pattern": r" |\n[ \t]{0,32}"}

# Of a text that is the only one possible, so many characters are tokenized for the next token.
_MAX_FORCED_CHARS = 256


class Grammars:
    """Compiles schemas for one model, and remembers the latest. Lives on one event loop."""

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, eos_token_ids: Iterable[int]
    ) -> None:
        self._vocab_size = vocab_size
        vocabulary = _Vocabulary(tokenizer, vocab_size, frozenset(eos_token_ids))
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary))
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._compiling = asyncio.Semaphore(_MAX_COMPILING)

    async def of_schema(self, schema: dict[str, Any]) -> Grammar:
        """The grammar of a JSON schema. ValueError with the reason where there is none."""
        text = _schema_text(schema)
        if text not in self._compiled:
            async with self._compiling:
                guidance = schema.get("x-guidance")
                own = isinstance(guidance, dict) and "whitespace_flexible" in guidance
                matcher = await asyncio.to_thread(self._compile, text, {} if own else _WHITE_SPACE)
            self._compiled[text] = matcher
            while len(self._compiled) > _MAX_CACHED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(text)
        return Grammar(self._compiled[text], self._vocab_size)

    def _compile(self, schema: str, options: Any) -> LLMatcher:
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults=options)
        if schema != json.dumps(ANY_OBJECT):  # nobody outside has a hand in that one
            try_grammar(grammar)
        return compile_grammar(self._tokenizer, grammar)


class Grammar:
    """What an answer has to follow."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def constraint(self, sequence: Sequence) -> GrammarConstraint:
        """A constraint for this sequence, at the start of its answer."""
        ends = set() if sequence.params.ignore_eos else set(sequence.eos_token_ids)
        ends |= set(sequence.params.stop_token_ids)
        return GrammarConstraint(self._matcher.deep_copy(), self._vocab_size, ends)


class GrammarConstraint:
    """A sequence's `Constraint`: what follows the text so far, and may it end here?"""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end_ids: Iterable[int]) -> None:
        self.finished = False
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._end_ids = [token_id for token_id in end_ids if token_id < vocab_size]
        self._words: Array = np.zeros(vocab_size // 32 + 1, np.uint32)  # of the last mask

    def mask(self) -> Array:
        self._words = words = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        if self._matcher.is_error():
            raise self._failure()
        allowed = words.copy()
        if self._may_end():
            allowed[self._vocab_size // 32] ^= _bit(self._vocab_size)
            for token_id in self._end_ids:
                allowed[token_id // 32] |= _bit(token_id)
        if not allowed.any():
            raise RequestError("the grammar cannot go on with the tokens of this model")
        return allowed[: -(-self._vocab_size // 32)].view(np.int32)

    def accept(self, token_id: int) -> None:
        if self._may_end() and not self._words[token_id // 32] & _bit(token_id):
            self.finished = True  # it is no text, and the end was allowed
            return
        if not self._matcher.consume_token(token_id):
            raise self._failure()
        self.finished = self._matcher.is_stopped()

    def _may_end(self) -> bool:
        return bool(self._words[self._vocab_size // 32] & _bit(self._vocab_size))

    def _failure(self) -> RequestError:
        reason = self._matcher.get_error().removesuffix("\n<non-verbose/>")
        return RequestError(f"the grammar could not be followed any further: {reason}")


class _Vocabulary:
    """The model's tokens as llguidance asks for them; one more than the model has is the end.

    Special tokens and those that end answers are no text, whatever their bytes.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]
    ) -> None:
        self.eos_token_id = vocab_size
        self.bos_token_id = None
        self.tokens = [tokenizer.piece(token_id) for token_id in range(vocab_size)] + [b""]
        self.special_token_ids = [
            token_id
            for token_id in range(vocab_size)
            if tokenizer.is_special(token_id) or token_id in eos_token_ids
        ]
        self._special = frozenset(self.special_token_ids)
        self._tokenizer = tokenizer
        self._ids: dict[bytes, int] = {}
        for token_id, token in enumerate(self.tokens):
            if token_id not in self._special:
                self._ids.setdefault(token, token_id)
        self._longest = max(map(len, self._ids))

    def __call__(self, utf8: bytes) -> list[int]:
        """The tokens of a text's beginning, as the model would write it."""
        text = utf8.decode()[:_MAX_FORCED_CHARS]
        # A tokenizer may put a space in front of a text, which a line break keeps off it.
        for before in ("", "\n"):
            ids = self._tokenizer.encode(before + text, add_special_tokens=False)
            for skipped in range(4 if before else 1):
                if self._is(ids[skipped:], text.encode()):
                    return ids[skipped:]
        return self._greedily(text.encode())

    def _is(self, ids: list[int], text: bytes) -> bool:
        known = all(i < self.eos_token_id and i not in self._special for i in ids)
        return known and b"".join(self.tokens[i] for i in ids) == text

    def _greedily(self, text: bytes) -> list[int]:
        """The longest token of the vocabulary, again and again."""
        ids, start = [], 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), None)
            if end is None:
                break  # no token has this byte
            ids.append(self._ids[text[start:end]])
            start = end
        return ids


def _bit(token_id: int) -> np.uint32:
    return np.uint32(1 << token_id % 32)


def _schema_text(schema: dict[str, Any]) -> str:
    """The schema as JSON, its keys in their order. ValueError where it is too large."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if len(text) > _MAX_SCHEMA_CHARS:
        raise ValueError(
            f"it has {len(text)} characters, but at most {_MAX_SCHEMA_CHARS} are taken"
        )
    return text
