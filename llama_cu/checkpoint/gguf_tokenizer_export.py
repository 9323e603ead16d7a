"""A tokenizer as GGUF's metadata; refused where what is rebuilt from it gives other tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.gguf import GgufFile
from llama_cu.checkpoint.gguf_tokenizer import read_gguf_tokenizer
from llama_cu.checkpoint.gguf_writer import write_gguf
from llama_cu.checkpoint.pre_tokenizers import CUTTINGS
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.errors import ModelError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

# Where tokenizers differ: spaces, line ends, digits, contractions, capitals, marks, scripts.
PROBES = (
    "Hello world, it's 12345 o'clock; YOU'LL see.\n\n  Two spaces\tand a tab   \n",
    "naïve café “quotes” — (a+b)**2 == c/d; x_1 = {'k': [1, 23, 456]}  # end\r\n\r\n",
    "Жила-была лиса. 从前有一只狐狸。むかし123。옛날 एक لومड़ी ثعلب ٣٤",
    "👩‍👩‍👧 ½ ²  \u00a0 \u3000 camelCase HTTPServer don't I'M 's",
    " leading",
    "trailing ",
    "\n",
    "   ",
    "a/b//c\n/d",
    "3.14159e-10",
)


def tokenizer_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """tokenizer.ggml.* of a tokenizer. ModelError where GGUF has no name for how it cuts a text."""
    spec = json.loads(tokenizer.library.to_str())
    if spec["model"]["type"] != "BPE":
        raise ModelError(f"{tokenizer.source}: expected BPE, found {spec['model']['type']}")
    listed = _tokens(spec, vocab_size)
    template = tokenizer.own_template()
    if template is not None:
        listed["tokenizer.chat_template"] = template
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = tokenizer.library.token_to_id(tokenizer.special_tokens.get(f"{name}_token", ""))
        if token_id is not None:
            listed[f"tokenizer.ggml.{key}_token_id"] = token_id
    begins = (
        tokenizer.bos_token_id is not None and tokenizer.encode("a")[0] == tokenizer.bos_token_id
    )
    listed["tokenizer.ggml.add_bos_token"] = begins
    for candidate in _candidates(tokenizer, spec, listed):
        if _agrees(tokenizer, candidate):
            return candidate
    raise ModelError(f"{tokenizer.source}: GGUF has no name for how this tokenizer cuts a text")


def _candidates(
    tokenizer: Tokenizer, spec: dict[str, Any], listed: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The metadata that it could be."""
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    if not spec["model"].get("byte_fallback"):
        byte_level = {**listed, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": merges}
        for name in _cuttings(tokenizer, ignore_merges=bool(spec["model"].get("ignore_merges"))):
            yield {**byte_level, "tokenizer.ggml.pre": name}
        return
    place = {merge.replace(" ", ""): index for index, merge in enumerate(merges)}
    tokens = listed["tokenizer.ggml.tokens"]
    scores = np.array([-float(place.get(token, len(place))) for token in tokens], np.float32)
    by_score = {**listed, "tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": scores}
    for adds_space in (True, False):
        yield {**by_score, "tokenizer.ggml.add_space_prefix": adds_space}


def _cuttings(tokenizer: Tokenizer, *, ignore_merges: bool) -> Iterator[str]:
    """The names of those that cut the probes as the tokenizer does."""
    own, seen = tokenizer.library.pre_tokenizer, set()
    for name, cutting in CUTTINGS.items():
        if cutting in seen or own is None:
            continue
        seen.add(cutting)
        other = cutting.pre_tokenizer()
        same = all(own.pre_tokenize_str(p) == other.pre_tokenize_str(p) for p in PROBES)
        if same and cutting.ignore_merges == ignore_merges:
            yield name


def _agrees(tokenizer: Tokenizer, metadata: dict[str, Any]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.gguf"
        write_gguf(path, {"general.architecture": "llama", **metadata}, ())
        parts = read_gguf_tokenizer(GgufFile(path))
    if parts is None:
        return False
    rebuilt = Tokenizer(parts)
    return all(rebuilt.encode(text) == tokenizer.encode(text) for text in PROBES)


def _tokens(spec: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    tokens: dict[int, str] = {index: token for token, index in spec["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, _NORMAL)
    for index, token in tokens.items():
        if spec["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
            types[index] = _BYTE
    for added in spec["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    unknown = spec["model"].get("unk_token")
    size = max(vocab_size, max(tokens) + 1)
    names = [tokens.get(index, f"[UNUSED_{index}]") for index in range(size)]
    kinds = [types.get(index, _UNUSED) for index in range(size)]
    if unknown in names:
        kinds[names.index(unknown)] = _UNKNOWN
    return {
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
    }
