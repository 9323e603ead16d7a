"""Tokenizers of the library, written as GGUF's metadata; SentencePiece's rule, step by step."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def byte_level_metadata(library: Tokenizer, pre: str, **changes: Any) -> dict[str, Any]:
    """Metadata of byte-level BPE, as a converter writes it."""
    spec = json.loads(library.to_str())
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in spec["model"]["merges"]],
        **_tokens(library, spec),
        **changes,
    }
    return {key: value for key, value in metadata.items() if value is not None}


def sentence_piece_metadata(library: Tokenizer, **changes: Any) -> dict[str, Any]:
    """Metadata of BPE with byte fallback; a token's score is minus the place of its merge."""
    spec = json.loads(library.to_str())
    listed = _tokens(library, spec)
    tokens = listed["tokenizer.ggml.tokens"]
    place = {"".join(merge): index for index, merge in enumerate(spec["model"]["merges"])}
    lowest = float(len(place))
    scores = [-float(place.get(token, lowest)) for token in tokens]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        **listed,
        **changes,
    }
    return {key: value for key, value in metadata.items() if value is not None}


def _tokens(library: Tokenizer, spec: dict[str, Any]) -> dict[str, Any]:
    size = library.get_vocab_size(with_added_tokens=True)
    tokens = [library.id_to_token(index) for index in range(size)]
    special = {token["id"]: token["special"] for token in spec["added_tokens"]}
    types = []
    for index, token in enumerate(tokens):
        if token == "<unk>":
            types.append(UNKNOWN)
        elif index in special:
            types.append(CONTROL if special[index] else USER_DEFINED)
        elif len(token) == 6 and token.startswith("<0x"):
            types.append(BYTE)
        else:
            types.append(NORMAL)
    return {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}


def greedy_byte_level(texts: list[str], vocab_size: int, special: list[str]) -> Tokenizer:
    """Byte-level BPE learnt without any cutting, so that tokens show where a text is cut."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=12,
    )
    library.train_from_iterator(texts, trainer)
    return library


def merge_by_score(
    text: str, tokens: list[str], scores: list[float], *, add_space: bool
) -> list[int]:
    """SentencePiece's rule: merge the neighbours that make the token of the best score, the
    leftmost of equal ones, until there are none; what is no token then becomes its bytes."""
    ids = {token: index for index, token in enumerate(tokens)}
    parts = list("▁" * (add_space and text != "") + text.replace(" ", "▁"))
    while True:
        best = None
        for index, pair in enumerate(pairwise(parts)):
            token = ids.get("".join(pair))
            if token is not None and (best is None or scores[token] > scores[best[1]]):
                best = (index, token)
        if best is None:
            break
        parts[best[0] : best[0] + 2] = [tokens[best[1]]]
    found = []
    for part in parts:
        fallback = [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
        found += [ids[part]] if part in ids else fallback
    return found
