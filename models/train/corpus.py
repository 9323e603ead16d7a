"""The public texts: reading, cutting into stories, holding out, and swapping names.

A TinyStories file is plain text. One of ours puts stories on consecutive lines with blank
lines between paragraphs, the other puts blank lines everywhere, so the only dependable sign of
a new story is how it opens. A file may begin and end in the middle of a story; those two
pieces are dropped.
"""

import random
import re
from dataclasses import replace
from pathlib import Path

from cues import CUES
from grammar import Wish, made_up_name
from lexicon import (
    ANIMALS,
    BOY_NAMES,
    GIRL_NAMES,
    GROWN_UPS,
    LIVELY_THINGS,
    MAGIC_BEINGS,
    TOYS,
    TREASURES,
)
from plots import AFTER_THING_OPENINGS

HELD_OUT_SHARE = 0.05
MADE_UP_SHARE = 0.25
ASKING_SHARE = 0.7
SHORTEST_OPENING, LONGEST_OPENING = 25, 260

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
            if rng.random() < MADE_UP_SHARE:
                new = made_up_name(rng, "she" if pool[0] == GIRL_NAMES[0] else "he")
            while new in mapping.values() or (new in words and new != name):
                new = rng.choice(pool)
            mapping[name] = new
    if not mapping:
        return story
    pattern = re.compile(r"\b(" + "|".join(mapping) + r")\b")
    return pattern.sub(lambda match: mapping[match.group(1)], story)


_SENTENCE_END = re.compile(r"[.!?](?= |\n|$)")
_CALLED = re.compile(r"\b(?:named|called|name was) ([A-Z][a-z]+)")


def _one_of(nouns: list[str]) -> str:
    return "|".join(sorted(set(nouns), key=len, reverse=True))


_KIND = re.compile(
    r"\b(?:[Aa]n? (?:[a-z]+ ){0,2}?("
    + _one_of(["boy", "girl", *ANIMALS, *MAGIC_BEINGS, *GROWN_UPS])
    + r")|(?:was|lived) an? (?:[a-z]+ ){0,2}?("
    + _one_of(LIVELY_THINGS)
    + r"))\b"
)
_THING = re.compile(rf"\b[Aa]n? ((?:[a-z]+ )?(?:{_one_of([*TOYS, *TREASURES])}))\b")
_SAID_OF = {
    "she": re.compile(r"\b(girl|[Ss]he|[Hh]er)\b"),
    "he": re.compile(r"\b(boy|[Hh]e|[Hh]is)\b"),
    "it": re.compile(r"\b([Ii]t|[Ii]ts)\b"),
}


# What the last sentence of an opening may ask for: pattern, cue, and the slot its group fills
_PHRASE = r"((?!be\b)[a-z]+(?: (?!(?:and|but|so|when|because|that|as|if)\b)[a-z]+){0,5})[.!]$"
_OWN = r"(?:his|her|its|their) ((?:[a-z]+ )?[a-z]+)[.!]$"
_UNWILLING = r"(?:did not|didn't|never) (?:want|wanted|like|liked) to "
_CUES = [
    (re.compile(_UNWILLING + "share " + _OWN), "selfish", "thing"),
    (re.compile(_UNWILLING + _PHRASE), "refuse", "want"),
    (re.compile(r"could(?: not|n't) find " + _OWN), "lost", "thing"),
    (re.compile(r"(?:could(?: not|n't)|was too \w+ to) " + _PHRASE), "cannot", "want"),
    (re.compile(r"(?:wanted|wished|hoped|wants) to " + _PHRASE), "want", "want"),
    (re.compile(r"\blost " + _OWN), "lost", "thing"),
    (re.compile(r"\bhungry\b[^.]*[.!]$"), "hungry", None),
    (re.compile(r"heard (?:a|some)[^.]* (?:noise|sound|voice)\b[^.]*[.!]$"), "noise", None),
    (re.compile(r"\b(?:sad|lonely)[.!]$|\bhad no (?:friends|one to play with)[.!]$"), "sad", None),
    (re.compile(r"(?:found|saw|picked up) an? (?:[a-z]+ )?egg[.!]$"), "egg", None),
]
_FOUND = re.compile(r"\b(?:found|picked up|saw) an? ")
_OTHERS = re.compile(r"\b(mom|mum|dad|mommy|daddy|parents|friends?|people|everyone|others?)\b")
_PRONOUN = re.compile(
    r"\b(I|he|she|it|they|his|hers?|its|their|theirs|them|me|my|you|your|who|this|there|"
    r"him|himself|herself|itself|themselves|too|also)\b"
)


def cue_of(opening: str, about: Wish) -> Wish | None:
    """`about` with what the last sentence of the opening asks for, if it asks for something."""
    if about.friend_name:
        return None
    last = re.split(r"(?<=[.!?]) |\n", opening.strip())[-1]
    for pattern, name, slot in _CUES:
        found = pattern.search(last)
        if not found or _OTHERS.search(last, 0, found.start()):
            continue
        about = replace(about, plots=CUES[name].plots)
        if slot is None:
            return about
        phrase = found.group(1)
        return None if _PRONOUN.search(phrase) else replace(about, **{slot: phrase})
    if about.thing and _FOUND.search(last) and about.thing.split()[-1] != about.kind:
        return replace(about, plots=CUES["found"].plots)
    return None


def opening_wish(story: str, rng: random.Random) -> Wish | None:
    """A wish for a story that begins as this one does, with the same hero.

    `None` where the first sentences do not tell who that is. An opening that asks for something
    is preferred, and then the story is about that.
    """
    ends = [m.end() for m in _SENTENCE_END.finditer(story, 0, LONGEST_OPENING)]
    ends = [end for end in ends if end >= SHORTEST_OPENING and story.count('"', 0, end) % 2 == 0]
    if not ends:
        return None
    chosen = _opened_wish(story[: rng.choice(ends[:3])], rng)
    if rng.random() < ASKING_SHARE:
        for end in ends[:3]:
            about = _opened_wish(story[:end], rng)
            asking = about and cue_of(story[:end], about)
            if asking:
                return asking
    return chosen


def _opened_wish(opening: str, rng: random.Random) -> Wish | None:
    called = _CALLED.findall(opening)
    names = dict.fromkeys(re.findall(r"\b[A-Z][a-z]+\b", opening))
    names = [n for n in names if n in GIRL_NAMES or n in BOY_NAMES or n in called]
    creature, thing = _KIND.search(opening), _THING.search(opening)
    pronouns = [word for word, pattern in _SAID_OF.items() if pattern.search(opening)]
    about = Wish(opening=opening)
    if thing and rng.random() < 0.7:
        about = replace(about, thing=thing.group(1), plots=AFTER_THING_OPENINGS)
    if not names and creature:
        kind = creature.group(1) or creature.group(2)
        pronoun = pronouns[0] if pronouns else None
        return replace(about, kind=kind, name=f"the {kind}", pronoun=pronoun)
    kinds = [_child_kind(name, pronouns) for name in names]
    if None in kinds or len(kinds) not in (1, 2):
        return None
    child = re.search(r"\b(girl|boy)\b", opening)
    beast = creature and (creature.group(1) or creature.group(2))
    kind = beast if names[0] in called and beast and not child else kinds[0]
    friend, friend_name = (kinds[1], names[1]) if len(names) == 2 else (None, None)
    pronoun = "she" if kinds[0] == "girl" else "he"
    about = replace(about, kind=kind, name=names[0], pronoun=pronoun)
    return replace(about, friend=friend, friend_name=friend_name)


def _child_kind(name: str, pronouns: list[str]) -> str | None:
    if name in GIRL_NAMES or name in BOY_NAMES:
        return "girl" if name in GIRL_NAMES else "boy"
    return {("she",): "girl", ("he",): "boy"}.get(tuple(p for p in pronouns if p != "it"))
