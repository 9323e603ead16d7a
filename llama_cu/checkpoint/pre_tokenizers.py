"""How byte-level BPE cuts a text before it merges, by the names that GGUF has for it."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s+(?!\S)|\s+"
_LINES = r"\s*[\r\n]+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+"
# A word of capitals and then small letters; letters without case count as both.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
)

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"


@dataclass(frozen=True)
class Cutting:
    """Expressions that cut one after the other, each what the one before left or matched."""

    expressions: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token is taken as it is
    adds_bos: bool = False  # where the file does not say

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The library's object; pieces come out as GPT-2's characters for bytes."""
        cuts = [pre_tokenizers.Split(Regex(text), "isolated") for text in self.expressions]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*cuts, to_bytes])


def _modern(words: str, numbers: str, lines: str = r"[\r\n]*") -> str:
    return rf"{words}|{numbers}|{_MARKS}{lines}|{_LINES}|{_SPACES}"


_LLAMA_3 = Cutting((_modern(f"{_CONTRACTIONS}|{_WORD}", r"\p{N}{1,3}"),), True, True)
_LLAMA_3_MERGED = Cutting(_LLAMA_3.expressions)
_QWEN_2 = Cutting((_modern(f"{_CONTRACTIONS}|{_WORD}", _DIGIT),))
_GPT_2_DIGITS = Cutting((_DIGIT, _GPT_2))
_GPT_4O = Cutting(
    (_modern("|".join(f"{word}{_CONTRACTIONS}?" for word in _CASED), r"\p{N}{1,3}", r"[\r\n/]*"),)
)

CUTTINGS = {
    # What llama.cpp does where a file does not say.
    "default": Cutting((r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "exaone4"), Cutting((_GPT_2,))),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        _GPT_2_DIGITS,
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA_3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA_3_MERGED),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "grok-2"), _QWEN_2
    ),
    "tekken": Cutting((_modern("|".join(_CASED), _DIGIT, r"[\r\n/]*"),), True, True),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT_4O),
    "deepseek-coder": Cutting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT)),
    "deepseek-v3": Cutting(
        (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",  # noqa: RUF001
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            rf"|{_LINES}|{_SPACES}",
        )
    ),
}
