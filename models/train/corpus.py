"""The public texts: reading, cutting into stories, holding out, and swapping names.

A TinyStories file is plain text. One of ours puts stories on consecutive lines with blank
lines between paragraphs, the other puts blank lines everywhere, so the only dependable sign of
a new story is how it opens. A file may begin and end in the middle of a story; those two
pieces are dropped.
"""

import random
import re
from pathlib import Path

from lexicon import BOY_NAMES, GIRL_NAMES

HELD_OUT_SHARE = 0.05

_BAD_QUOTES = {"\u00e2\u20ac\u2122": "'", "\u00e2\u20ac\u02dc": "'", "\u00e2\u20ac\u0153": '"',
               "\u00e2\u20ac": '"', "\u201c": '"', "\u201d": '"'}  # fmt: skip
_OPENING = re.compile(
    r"(Once upon a|Once there|Once, there|Once,? in a|There once|There was (once )?an? |"
    r"One (sunny |rainy |cold |hot |nice |warm |snowy )?day,? (an? |there )|"
    r"In an? \w+|Long ago|A long time ago|"
    r"[A-Z]\w+ and [A-Z]\w+ (are|were|like|liked|love|loved|live|lived|went|play|played) |"
    r"(?!She |He |They |It |We |This |That )[A-Z]\w+ (is|was|likes|liked|loves|loved) "
    r"(an? |to |in |playing ))"
)


def read_stories(path: Path) -> list[str]:
    """All whole stories of a TinyStories file, in their order."""
    text = re.sub(r"\n[ \t]+\n", "\n\n", path.read_text(encoding="utf-8"))
    blocks = re.split(r"\n+", text)
    separators = [*re.findall(r"\n+", text), ""]
    blank_between_stories = text.count("\n\nOnce ") > text.count("\n\n") / 20
    stories: list[str] = []
    for index, block in enumerate(blocks):
        block = block.strip()
        if not block:
            continue
        before = separators[index - 1] if index else ""
        starts = bool(_OPENING.match(block)) and (len(before) == 1 or blank_between_stories)
        starts = starts or (before == "\n" and len(block) > 100)
        strict = blank_between_stories and not block.startswith("Once ")
        if strict and stories and not _has_ended(stories[-1]):
            starts = False
        if starts or not stories:
            stories.append(block)
        else:
            stories[-1] += "\n\n" + block
    if not _OPENING.match(stories[0]):
        stories = stories[1:]
    return [story for story in stories[:-1] if len(story) > 150]


def _has_ended(story: str) -> bool:
    """Whether a story is long enough that a new one may begin after it."""
    return len(story) > 350


def split_held_out(stories: list[str]) -> tuple[list[str], list[str]]:
    """The training part, and the last stories that make up about 5 % of the text."""
    budget = HELD_OUT_SHARE * sum(map(len, stories))
    cut = len(stories)
    while budget > 0:
        cut -= 1
        budget -= len(stories[cut])
    return stories[:cut], stories[cut:]


def load_tinystories(data: Path) -> tuple[list[str], list[str]]:
    """(training stories, held-out stories) of every tinystories-*.txt in the folder."""
    train: list[str] = []
    held_out: list[str] = []
    for path in sorted(data.glob("tinystories-*.txt")):
        part, rest = split_held_out(read_stories(path))
        train += part
        held_out += rest
    return train, held_out


def load_fairytales(data: Path) -> list[str]:
    """The old tales, one string each."""
    text = (data / "fairytales.txt").read_text(encoding="utf-8")
    return [tale.strip() for tale in text.split("<|endoftext|>") if len(tale) > 200]


def clean(text: str) -> str:
    """Curly and wrongly decoded quotes made plain."""
    for bad, good in _BAD_QUOTES.items():
        text = text.replace(bad, good)
    return text


def swap_names(story: str, rng: random.Random) -> str:
    """The same story about somebody else: every child's name replaced, throughout."""
    words = set(re.findall(r"\b[A-Z][a-z]+\b", story))
    mapping: dict[str, str] = {}
    for pool in (GIRL_NAMES[:45], BOY_NAMES[:45]):
        present = [name for name in pool if name in words]
        weights = [1.0 / (rank + 3) for rank in range(len(pool))]
        for name in present:
            new = rng.choices(pool, weights)[0]
            while new in mapping.values() or (new in words and new != name):
                new = rng.choice(pool)
            mapping[name] = new
    if not mapping:
        return story
    pattern = re.compile(r"\b(" + "|".join(mapping) + r")\b")
    return pattern.sub(lambda match: mapping[match.group(1)], story)
