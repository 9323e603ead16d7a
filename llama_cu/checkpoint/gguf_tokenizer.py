"""The parts of a Tokenizer from a GGUF file: byte-level BPE, or SentencePiece's BPE by scores."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from llama_cu.checkpoint.fields import Fields
from llama_cu.checkpoint.gguf import GgufFile
from llama_cu.checkpoint.gguf_cursor import Strings
from llama_cu.checkpoint.pre_tokenizers import CUTTINGS
from llama_cu.checkpoint.tokenizer_parts import TokenizerParts
from llama_cu.errors import ModelError

Array = Any
Merges = list[tuple[str, str]]

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_SCORES, _MERGES = "tokenizer.ggml.scores", "tokenizer.ggml.merges"
_TEMPLATE, _TEMPLATE_NAMES = "tokenizer.chat_template", "tokenizer.chat_templates"
_SPACE = "▁"
# Longer tokens have no scores, or would have too many pairs of parts.
_LONGEST_MERGED = 256


def read_gguf_tokenizer(file: GgufFile) -> TokenizerParts | None:
    """The parts of a file's tokenizer, None where it has none.

    ModelError for a kind of tokenizer that is not known, by its name, and for a damaged one.
    """
    fields = file.fields()
    if fields.text("tokenizer.ggml.model", "none") in ("none", "no_vocab"):
        return None
    reader = _Reader(file, fields)
    kind = fields.text("tokenizer.ggml.model")
    if kind == "gpt2":
        library, adds_bos = reader.byte_level()
        decoder: dict[str, Any] = {"type": "ByteLevel"}
    elif kind == "llama":
        library, adds_bos = reader.sentence_piece(), True
        decoder = {"type": "Sequence", "decoders": reader.space_decoders()}
    else:
        raise fields.refuse("tokenizer.ggml.model", "must be gpt2 or llama")
    reader.add_special(library)
    config = {
        "add_bos_token": fields.flag("tokenizer.ggml.add_bos_token", adds_bos),
        "chat_template": _chat_template(file, fields),
    }
    config_fields = Fields(fields.source, config)
    return TokenizerParts(fields.source, library, decoder, config_fields, reader.special_tokens())


class _Reader:
    def __init__(self, file: GgufFile, fields: Fields) -> None:
        self.file = file
        self.fields = fields
        self.tokens = self.strings(_TOKENS).texts()
        for index, token in enumerate(self.tokens):
            if not token:  # the library would match it everywhere
                self.tokens[index] = f"[EMPTY_{index}]"
        self.vocab = {token: index for index, token in enumerate(self.tokens)}
        if len(self.vocab) < len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if self.vocab[t] != i)
            raise ModelError(
                f"{fields.source}: {_TOKENS}: expected no token twice, found {twice!r}"
            )
        types = self.per_token(_TYPES)
        self.types: Array = np.full(len(self.tokens), _NORMAL) if types is None else types

    def strings(self, key: str) -> Strings:
        found = self.file.strings(key)
        if found is None:
            raise ModelError(f"{self.fields.source}: {key} is required and missing")
        return found

    def per_token(self, key: str) -> Array | None:
        """An array with a number for each token, None where it is absent."""
        numbers = self.file.numbers(key)
        if numbers is not None and len(numbers) < len(self.tokens):
            raise ModelError(
                f"{self.fields.source}: {key}: expected {len(self.tokens)} elements, one for each "
                f"token, found {len(numbers)}"
            )
        return numbers

    def token_id(self, name: str) -> int | None:
        """A special token's id, None where the file names none or one that is no token."""
        key = f"tokenizer.ggml.{name}_token_id"
        if not self.fields.has(key):
            return None
        token_id = self.fields.integer(key, minimum=0)
        return token_id if token_id < len(self.tokens) else None

    def byte_level(self) -> tuple[Tokenizer, bool]:
        """The tokenizer, and whether it puts BOS first where the file does not say."""
        pre = self.fields.text("tokenizer.ggml.pre", "default")
        if pre not in CUTTINGS:
            rule = f"must be one of {', '.join(CUTTINGS)}"
            raise self.fields.refuse("tokenizer.ggml.pre", rule)
        merges = []
        for index, merge in enumerate(self.strings(_MERGES).texts()):
            left, _, right = merge.partition(" ")
            if not (left and right):
                raise ModelError(
                    f"{self.fields.source}: {_MERGES}: expected two tokens with a space between "
                    f"them in entry {index}, found {merge!r}"
                )
            merges.append((left, right))
        cutting = CUTTINGS[pre]
        library = self.library(merges, ignore_merges=cutting.ignore_merges)
        library.pre_tokenizer = cutting.pre_tokenizer()
        library.decoder = decoders.ByteLevel()
        return library, cutting.adds_bos

    def sentence_piece(self) -> Tokenizer:
        """Merges by score, and bytes for characters that are no token."""
        unknown = self.token_id("unknown")
        library = self.library(
            self.merges_by_score(),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else self.tokens[unknown],
        )
        spaces = normalizers.Replace(" ", _SPACE)
        library.normalizer = (
            normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
            if self.adds_space
            else spaces
        )
        return library

    @property
    def adds_space(self) -> bool:
        return self.fields.flag("tokenizer.ggml.add_space_prefix", True)

    def space_decoders(self) -> list[dict[str, Any]]:
        """tokenizer.json's words for decoding what `sentence_piece` encodes."""
        steps: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if self.adds_space:
            steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return steps

    def merges_by_score(self) -> Merges:
        """Every pair of tokens that together are a token, that of the best score first.

        llama.cpp merges whichever neighbours make the best token. As a list of merges that differs
        only where two pairs of equal rank overlap, which the list decides by the pair's ids.
        """
        scores = self.per_token(_SCORES)
        if scores is None:
            raise ModelError(f"{self.fields.source}: {_SCORES} is required and missing")
        normal = np.flatnonzero(self.types[: len(self.tokens)] == _NORMAL)
        best_first = normal[np.argsort(-scores[normal].astype(np.float64), kind="stable")]
        pairs = (self._parts(self.tokens[index]) for index in best_first.tolist())
        return list(chain.from_iterable(pairs))

    def _parts(self, token: str) -> Merges:
        if len(token) > _LONGEST_MERGED:
            return []
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        parts = [(a, b) for a, b in cuts if a in self.vocab and b in self.vocab]
        return sorted(parts, key=lambda part: (self.vocab[part[0]], self.vocab[part[1]]))

    def library(self, merges: Merges, **options: Any) -> Tokenizer:
        try:
            return Tokenizer(models.BPE(vocab=self.vocab, merges=merges, **options))
        # The library raises bare Exceptions.
        except Exception as error:
            raise ModelError(f"{self.fields.source}: {_MERGES}: {error}") from error

    def add_special(self, library: Tokenizer) -> None:
        """Tokens that a text may hold as they are, and EOS behind each where the file asks."""
        for kinds, special in (((_UNKNOWN, _CONTROL), True), ((_USER_DEFINED,), False)):
            found = np.flatnonzero(np.isin(self.types[: len(self.tokens)], kinds))
            texts = [self.tokens[index] for index in found.tolist()]
            added = [AddedToken(text, special=special, normalized=False) for text in texts]
            (library.add_special_tokens if special else library.add_tokens)(added)
        eos = self.token_id("eos")
        if self.fields.flag("tokenizer.ggml.add_eos_token", False) and eos is not None:
            steps: list[Any] = ["$A", self.tokens[eos]]
            library.post_processor = processors.TemplateProcessing(
                single=steps, special_tokens=[(self.tokens[eos], eos)]
            )

    def special_tokens(self) -> dict[str, str]:
        names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        ids = {name: self.token_id(key) for name, key in names.items()}
        return {
            f"{name}_token": self.tokens[token_id]
            for name, token_id in ids.items()
            if token_id is not None
        }


def _chat_template(file: GgufFile, fields: Fields) -> Any:
    """tokenizer_config.json's chat_template: a text, or named ones where the file has several."""
    default = fields.text(_TEMPLATE, "") or None
    names = file.strings(_TEMPLATE_NAMES)
    if names is None:
        return default
    named = {name: fields.text(f"{_TEMPLATE}.{name}") for name in names.texts()}
    if default is not None:
        named["default"] = default
    return [{"name": name, "template": template} for name, template in named.items()] or None
