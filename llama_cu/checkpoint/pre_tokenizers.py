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
_GPT_2_ALONE = Cutting((_GPT_2,))
# What llama.cpp does where a file does not say.
_DEFAULT = Cutting((r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"))
_TEKKEN = Cutting((_modern("|".join(_CASED), _DIGIT, r"[\r\n/]*"),), True, True)
_GPT_2_DIGITS = Cutting((_DIGIT, _GPT_2))
_GPT_4O = Cutting(
    (_modern("|".join(f"{word}{_CONTRACTIONS}?" for word in _CASED), r"\p{N}{1,3}", r"[\r\n/]*"),)
)

_SEED_CODER = Cutting((_modern(f"{_CONTRACTIONS}|{_WORD}", _DIGIT, ""),))
# DeepSeek lists its letters: those with case, but for what Unicode had not or only lately.
_OLD_CASED = (
    r"[\p{Lu}\p{Ll}\p{Lt}&&[^\x{560}-\x{588}\x{10C6}-\x{10FF}\x{1C80}-\x{1C8F}\x{2D00}-\x{2D2D}"
    r"\x{A790}-\x{A7FF}\x{AB30}-\x{AB68}\x{10570}-\x{105BC}\x{10D50}-\x{10D85}\x{16E40}-\x{16E7F}"
    r"\x{1D400}-\x{1D7CB}\x{1DF00}-\x{1DFFF}]]"
)
_ASIAN = r"[\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK_LLM = Cutting(
    (
        r"[\r\n]",
        rf"\s?{_OLD_CASED}+",
        r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
        r"\s+$",
        _ASIAN,
        r"\p{N}+",
    )
)
_DEEPSEEK_CODER = Cutting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _ASIAN, _DIGIT))
_DEEPSEEK_V3 = Cutting(
    (
        r"\p{N}{1,3}",
        r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        rf"|{_LINES}|{_SPACES}",
    )
)

_NAMES = {
    _GPT_2_ALONE: "gpt-2 phi-2 mpt olmo exaone4 mellum a.x-4.0 trillion granite-docling",
    _GPT_2_DIGITS: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    _LLAMA_3: "llama-bpe llama3 llama-v3 falcon3 pixtral midm-2.0",
    _LLAMA_3_MERGED: "dbrx smaug-bpe",
    _QWEN_2: "qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan kormo grok-2",
    _TEKKEN: "tekken",
    _GPT_4O: "gpt-4o llama4",
    _SEED_CODER: "seed-coder",
    _DEEPSEEK_LLM: "deepseek-llm",
    _DEEPSEEK_CODER: "deepseek-coder",
    _DEEPSEEK_V3: "deepseek-v3",
    _DEFAULT: "default",
}
CUTTINGS = {name: cutting for cutting, names in _NAMES.items() for name in names.split()}
