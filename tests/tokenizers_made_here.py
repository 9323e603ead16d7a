"""Tokenizers of the kinds that Llama-family checkpoints have, trained on a few sentences."""

# ruff: noqa: RUF001 - texts in other scripts are the point here

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "Once upon a time, there was a little fox who lived by the sea.",
    "  Two spaces, a tab\tand\n\na blank line;  trailing spaces   ",
    "Déjà vu: la forêt était très calme, où l'été naïf s'endort.",
    "Es war einmal ein kleiner Bär, der wünschte sich größere Flügel.",
    "Жила-была маленькая лиса у самого синего моря.",
    "从前有一只小狐狸住在海边。你好，世界！",
    "むかしむかし、小さなキツネが海のそばに住んでいました。",
    "옛날 옛적에 작은 여우가 바닷가에 살았습니다.",
    "كان يا ما كان ثعلب صغير يعيش بجانب البحر.",
    "एक बार की बात है, एक छोटी लोमड़ी समुद्र के किनारे रहती थी।",
    "Emoji: 😀🎉👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 and ﬁ, ½ €5 £6",
    "def f(x):\n    return x ** 2  # ▁ is no space\n",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]


def write_tokenizer(folder: Path, tokenizer: Tokenizer, config: dict[str, Any] | None = None):
    """tokenizer.json and tokenizer_config.json in `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **(config or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def byte_level(*, adds_bos: bool = True) -> Tokenizer:
    """Byte-level BPE, as Llama 3 and Qwen have it."""
    tokenizer = Tokenizer.from_str(_trained_byte_level())
    if adds_bos:
        bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), bos])
    return tokenizer


@lru_cache
def _trained_byte_level() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS[:6], trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False)])
    return str(tokenizer.to_str())


@lru_cache
def _trained_byte_fallback() -> str:
    """BPE over the Latin sentences, in which all other characters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIAL, *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS[:4], trainer)
    spec = json.loads(tokenizer.to_str())
    spec["model"]["byte_fallback"] = True
    spec["added_tokens"] = spec["added_tokens"][: len(SPECIAL)]
    return json.dumps(spec)


def llama_2() -> Tokenizer:
    """SentencePiece-style BPE with byte fallback, as Llama 2 and Mistral have it."""
    tokenizer = Tokenizer.from_str(_trained_byte_fallback())
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    """SentencePiece-style BPE with the Metaspace pair, which makes no post-processing."""
    tokenizer = Tokenizer.from_str(_trained_byte_fallback())
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


KINDS = {"byte-level": byte_level, "llama-2": llama_2, "metaspace": metaspace}
