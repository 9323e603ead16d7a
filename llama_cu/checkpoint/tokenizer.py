"""Text to token ids and back. A library tokenizes; special tokens, chat and streaming are ours."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_cu.checkpoint.fields import Fields
from llama_cu.checkpoint.pieces import read_decoding
from llama_cu.checkpoint.tokenizer_parts import TokenizerParts, read_tokenizer_parts
from llama_cu.errors import ModelError, RequestError

# A character has at most four bytes, so what lies further back cannot be a part of the next one.
_CONTEXT_TOKENS = 4
# Characters from which a text is encoded as a batch of one.
_LONG_TEXT = 4096
# Where ChatML is from, which stands in for a template.
_NO_TEMPLATE = "ChatML"


class Tokenizer:
    """A checkpoint's tokenizer: from tokenizer.json and the files beside it, or from its parts.

    `special_tokens` maps names such as "bos_token" to their text; `vocab_size` counts added tokens.
    """

    def __init__(self, source: str | Path | TokenizerParts) -> None:
        parts = source
        if not isinstance(parts, TokenizerParts):
            parts = read_tokenizer_parts(Path(parts))
        self.source = parts.source
        self._tokenizer = parts.library
        self._decoding = read_decoding(parts.source, parts.decoder)
        self.special_tokens = parts.special_tokens
        self._config = parts.config
        self._template_path = parts.template_path
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")
        self._adds_bos = self._config.flag("add_bos_token", False)
        added = self._tokenizer.get_added_tokens_decoder()
        named = map(self._tokenizer.token_to_id, self.special_tokens.values())
        marked = (i for i, token in added.items() if token.special)
        self._special_ids = frozenset((*marked, *named))
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens written out in it are recognised.

        With add_special_tokens the tokenizer's post-processor adds its own, and BOS is added where
        tokenizer_config.json asks for it; a text that begins with BOS gets no second one.
        RequestError for a text that is not valid Unicode.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(f"the text is not valid Unicode: {error}") from error
        ids = self._ids(text, add_special_tokens)
        bos = self.bos_token_id
        if not add_special_tokens or bos is None:
            return ids
        if self._adds_bos and ids[:1] != [bos]:
            return [bos, *ids]
        return ids[1:] if ids[:2] == [bos, bos] else ids

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        """What the library makes of a text.

        Its `encode` keeps the interpreter lock: three million characters stopped every other
        thread for 3 s. A batch gives it back, and takes 0.04 ms more for a short text.
        """
        if len(text) < _LONG_TEXT:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
            return ids
        (encoding,) = self._tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        return list(encoding.ids)

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no character become U+FFFD."""
        decoder = StreamDecoder(self, skip_special_tokens=skip_special_tokens)
        pieces = [decoder.push(token_id) for token_id in token_ids]
        return "".join(pieces) + decoder.finish()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Messages of role and content as a prompt, by the checkpoint's template or else ChatML.

        `variables` go to the template, as for example `tools` or `enable_thinking`. The text holds
        its special tokens already: encode it with add_special_tokens=False. RequestError for
        messages that the template refuses, ModelError for a broken template, ValueError for
        messages of another kind.
        """
        from llama_cu.checkpoint.chat_template import render

        if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
            raise ValueError(f"messages must be a list of mappings, got {messages!r}")
        if not messages:
            raise ValueError("messages must hold at least one message, got none")
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise ValueError(f"messages must be mappings of role and content, got {message!r}")
        source, template = self._chat_template(variables.get("tools"))
        return render(
            template,
            messages,
            source=source,
            variables={
                **self.special_tokens,
                "tools": None,
                "documents": None,
                **variables,
                "add_generation_prompt": add_generation_prompt,
            },
        )

    def is_special(self, token_id: int) -> bool:
        """Whether a token is one that skip_special_tokens leaves out."""
        return token_id in self._special_ids

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token inside a text; none for an id that the tokenizer does not have."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._bytes(token_id, first=False)
        return piece

    def first_piece(self, token_id: int) -> bytes:
        """The bytes of one token at the very start of a text, where some lose their space."""
        return self._bytes(token_id, first=True)

    @property
    def library(self) -> Any:
        """The object of the tokenizers library."""
        return self._tokenizer

    def own_template(self) -> str | None:
        """The checkpoint's chat template, None where it has none."""
        source, template = self._chat_template(None)
        return None if source == _NO_TEMPLATE else template

    @property
    def stripped(self) -> tuple[str, int]:
        """What is taken off the start of a decoded text: a character, and how often at most."""
        return self._decoding.strip, self._decoding.strip_count

    def _bytes(self, token_id: int, *, first: bool) -> bytes:
        if token_id in self._added:
            return self._decoding.piece(self._added[token_id], added=True, first=first)
        token = self._tokenizer.id_to_token(token_id)
        return b"" if token is None else self._decoding.piece(token, first=first)

    def _special_id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self._tokenizer.token_to_id(text)

    def _chat_template(self, tools: object) -> tuple[str, str]:
        """(where it is from, template)."""
        from llama_cu.checkpoint.chat_template import CHATML

        if self._template_path is not None and self._template_path.exists():
            try:
                return str(self._template_path), self._template_path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ModelError(f"{self._template_path}: cannot be read: {error}") from error
        template = self._config.values.get("chat_template")
        if isinstance(template, list):
            template = _named_template(self._config, template, tools)
        if template is None:
            return _NO_TEMPLATE, CHATML
        if not isinstance(template, str):
            raise self._config.refuse("chat_template", "must be a string or named templates")
        return self._config.source, template


class StreamDecoder:
    """Decodes an answer token by token: never half a character, never a lost or added space.

    All pieces and `finish` together are the text by which the answer's tokens lengthen the text of
    `prompt_ids`. A character that the prompt's last tokens began belongs to the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip, self._strip_count = tokenizer.stripped
        self._at_start = True
        for token_id in self._context(prompt_ids):
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often one token's, sometimes none."""
        if self._skip_special_tokens and self._tokenizer.is_special(token_id):
            return ""
        if self._at_start:
            self._at_start = False
            piece = self._tokenizer.first_piece(token_id)
        else:
            piece = self._tokenizer.piece(token_id)
        return self._stripped(self._utf8.decode(piece))

    def finish(self) -> str:
        """The rest at the end of the answer: U+FFFD where a character was left incomplete."""
        return self._stripped(self._utf8.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        while self._strip_count and text:
            if text[0] != self._strip:
                self._strip_count = 0
                break
            text = text[1:]
            self._strip_count -= 1
        return text

    def _context(self, prompt_ids: Sequence[int]) -> list[int]:
        """The last tokens of the prompt that have text, enough to hold an incomplete character."""
        found: list[int] = []
        for token_id in reversed(prompt_ids):
            if not (self._skip_special_tokens and self._tokenizer.is_special(token_id)):
                found.append(token_id)
            if len(found) == _CONTEXT_TOKENS:
                break
        return found[::-1]


def _named_template(config: Fields, templates: list[Any], tools: object) -> str:
    try:
        named = {entry["name"]: entry["template"] for entry in templates}
    except (TypeError, KeyError) as error:
        raise config.refuse("chat_template", "must hold objects with name and template") from error
    name = "tool_use" if tools is not None and "tool_use" in named else "default"
    if name not in named:
        raise config.refuse("chat_template", "must hold a template named default")
    template = named[name]
    if not isinstance(template, str):
        raise config.refuse("chat_template", "must hold objects with name and template")
    return template
