"""What each token id stands for: its bytes, by the decoder that tokenizer.json describes.

Decoding is a concatenation of bytes, so that it can stop and go on after any token. Of the
decoders that exist, those whose text depends on more than that are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from llama_cu.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Decoding:
    """A tokenizer's decoder, reduced to rules that act on one token at a time."""

    byte_level: bool = False  # token characters stand for bytes (GPT-2's table)
    byte_fallback: bool = False  # tokens <0x00> to <0xFF> stand for bytes
    replacements: tuple[tuple[str, str], ...] = ()
    first_replacements: tuple[tuple[str, str], ...] = ()  # for the first token of a text
    strip: str = ""  # character taken off the start of a text
    strip_count: int = 0

    def piece(self, token: str, *, added: bool = False, first: bool = False) -> bytes:
        """The bytes of a token: of the vocabulary or an `added` one, `first` of a text or not."""
        for pattern, content in self.first_replacements if first else self.replacements:
            token = token.replace(pattern, content)
        match = _BYTE_TOKEN.fullmatch(token) if self.byte_fallback else None
        if match:
            return bytes.fromhex(match[1])
        if self.byte_level and not added and all(character in _BYTE_OF for character in token):
            return bytes(_BYTE_OF[character] for character in token)
        return token.encode("utf-8", "replace")


def read_decoding(source: str, decoder: dict[str, Any] | None) -> Decoding:
    """Decoding from the `decoder` of tokenizer.json; ModelError names what it cannot express."""
    if decoder is None:
        raise ModelError(f"{source}: decoder is required and missing")
    decoding, fused = Decoding(), False
    for step in decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]:
        fused = fused or step["type"] == "Fuse"
        after = _add_step(decoding, step, fused=fused)
        if after is None:
            raise ModelError(f"{source}: decoder is not supported, got {step}")
        decoding = after
    return decoding


def _add_step(decoding: Decoding, step: dict[str, Any], *, fused: bool) -> Decoding | None:
    """The decoding with one more step; None where it would need more than one token to look at."""
    kind = step["type"]
    if kind == "Fuse":
        return decoding
    if kind == "ByteLevel":
        return replace(decoding, byte_level=True)
    if kind == "ByteFallback":
        return replace(decoding, byte_fallback=True)
    if kind == "Strip" and fused and step["stop"] == 0:
        return replace(decoding, strip=step["content"], strip_count=step["start"])
    if kind == "Replace" and not fused and "String" in step["pattern"]:
        pair = (step["pattern"]["String"], step["content"])
        return _add_replacements(decoding, pair, pair)
    if kind == "Metaspace" and not fused:
        mark = step["replacement"]
        first = " " if step.get("prepend_scheme", "always") == "never" else ""
        return _add_replacements(decoding, (mark, " "), (mark, first))
    return None


def _add_replacements(
    decoding: Decoding, pair: tuple[str, str], first_pair: tuple[str, str]
) -> Decoding:
    return replace(
        decoding,
        replacements=(*decoding.replacements, pair),
        first_replacements=(*decoding.first_replacements, first_pair),
    )


def _byte_table() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 for itself, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_table()
