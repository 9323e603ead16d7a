"""Writes children's stories: a cast is drawn, a plot is chosen, its templates are filled in.

    python grammar.py --count 5 --seed 1

The same random generator gives the same stories. `Wish` says what a story must be about; what it
leaves open is drawn at random.
"""

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lexicon as lex
from cues import CUE_PLOTS, CUES, Cue
from plots import AFTER_THING_OPENINGS, OPENINGS, PLOTS, THING_OPENINGS
from short_plots import SHORT_PLOTS

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([^{}]+)\}")
_OPTIONAL = re.compile(r"^(\{H|[A-Z])[^\"]*[.!]$", re.DOTALL)
_IN_PLACE = re.compile(r"\b(in|at) \{place\}")
_INTRODUCED = re.compile(r"\{F\}, \{a friend_kind\},?")
_SPEECH = r"(?:said|asked|cried|shouted|called|whispered|thought)\b"
_SENTENCE_START = re.compile(r"(^|[.!?] |\n|\.\" |(?<=[ \n])\"|^\")([a-z])", re.MULTILINE)
_AFTER_SHOUT = re.compile(rf"([!?]\" )(?!(?:\w+ ){{0,2}}{_SPEECH})([a-z])")
PRONOUNS = {
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
    "it": ("it", "it", "its", "itself"),
}
FEMALE_KINDS = ("girl", "woman", "lady", "queen", "princess", "mermaid", "fairy", "witch", "mother")
MALE_KINDS = ("boy", "man", "king", "prince", "wizard", "father", "fisherman", "policeman")
LONG_SHARE = 0.15
UNNAMED_SHARE = 0.12
MADE_UP_FEAT_SHARE = 0.15
CUE_SHARE = 0.5
FAMILY_SHARE = 0.1
ALL_PLOTS = PLOTS | SHORT_PLOTS | CUE_PLOTS
PARENTLESS_PLOTS = frozenset(name for name, text in ALL_PLOTS.items() if "{p}" not in text)
_OPENINGS = [opening.strip() for opening in OPENINGS.split("#")]
_THING_OPENINGS = [opening.strip() for opening in THING_OPENINGS.split("#")]


@dataclass(frozen=True)
class Wish:
    """What a story must be about. `None` leaves it to chance."""

    kind: str | None = None  # the hero: "dragon", "purple cat"
    name: str | None = None  # the hero's name
    pronoun: str | None = None  # the hero's: "he", "she", "it"
    friend: str | None = None  # the friend's kind
    friend_name: str | None = None
    opening: str | None = None  # the first sentences, which present the hero and a named friend
    thing: str | None = None  # "red ball"
    place: str | None = None  # with its article: "the moon"
    skill: str | None = None  # a verb of lexicon.SKILLS
    fear: str | None = None  # a fear of lexicon.FEARS
    trait: str | None = None  # an adjective
    want: str | None = None  # "see the ocean"
    plots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Character:
    name: str  # how the story calls it: "Lily", "Pip", "the owl"
    kind: str  # "girl", "owl"
    pronoun: str


def article(noun: str) -> str:
    vowel = noun[0].lower() in "aeiou" and not noun.lower().startswith(("uni", "one", "eu"))
    return f"{'an' if vowel else 'a'} {noun}"


def plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "sh", "ch", "o")):
        return noun + "es"
    return noun + "s"


def made_up_word(rng: random.Random) -> str:
    """A word nobody has heard: "flimple", "zorbit"."""
    word = rng.choice(lex.MADE_UP_ONSETS) + rng.choice(lex.MADE_UP_VOWELS)
    if rng.random() < 0.25:
        word += rng.choice("bdglmnprstvz") + rng.choice(lex.MADE_UP_VOWELS)
    return word + rng.choice(lex.MADE_UP_ENDINGS)


def unwrap(text: str) -> str:
    """Paragraphs without line breaks, a blank line between them."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def expand(template: str, rng: random.Random, brevity: float = 0.0) -> str:
    """Choose among all `[a|b]`, the innermost first.

    Where every choice is a whole sentence outside quotation marks, there is none with
    probability `brevity`.
    """
    template = unwrap(template)
    while match := _CHOICE.search(template):
        options = match.group(1).split("|")
        chosen = rng.choice(options)
        spoken = template.rfind("\n\n", 0, match.start())
        quoted = template.count('"', max(0, spoken), match.start()) % 2 == 1
        optional = not quoted and all(_OPTIONAL.match(option.strip()) for option in options)
        if optional and rng.random() < brevity:
            chosen = ""
        template = template[: match.start()] + chosen + template[match.end() :]
    return template


def draw_hero(rng: random.Random, wish: Wish) -> Character:
    kind = wish.kind
    if kind is None:
        pools = ("girl", "boy", "animal", "magic", "thing", "grown-up")
        pool = rng.choices(pools, (28, 28, 29, 5, 5, 5))[0]
        if pool in ("girl", "boy"):
            kind = pool
        elif pool == "animal":
            kind = rng.choice(lex.ANIMALS if rng.random() < 0.6 else lex.COMMON_ANIMALS)
        elif pool == "grown-up":
            kind = rng.choice(lex.GROWN_UPS)
        else:
            kind = rng.choice(lex.MAGIC_BEINGS if pool == "magic" else lex.LIVELY_THINGS)
    pronoun = wish.pronoun or rng.choice(("he", "she"))
    name = wish.name or (draw_name(rng) if rng.random() < 0.75 else f"the {kind}")
    if kind in FEMALE_KINDS or name in GIRL_SET:
        pronoun = "she"
    elif kind in MALE_KINDS or name in BOY_SET:
        pronoun = "he"
    if not wish.name and kind in ("girl", "boy"):
        name = f"the {kind}" if rng.random() < UNNAMED_SHARE else draw_child_name(rng, pronoun)
    elif not wish.name and kind in lex.GROWN_UPS and not name.startswith("the "):
        name = draw_child_name(rng, pronoun)
    return Character(name, kind, pronoun)


ANIMAL_SET = {animal.split()[-1] for animal in lex.ANIMALS}
GIRL_SET = {*lex.GIRL_NAMES, "Misty", "Rosie", "Tilly", "Roxy", "Shelly", "Hazel", "Olive"}
FAMILY_NAMES = {name for name, _, _ in lex.FAMILY}
BOY_SET = {*lex.BOY_NAMES, "Buddy", "Bruno", "Rex", "Benny", "Freddy", "Wally", "Gus"}


def draw_child_name(rng: random.Random, pronoun: str) -> str:
    """Mostly a common name, now and then one that must be copied letter by letter."""
    names = lex.GIRL_NAMES if pronoun == "she" else lex.BOY_NAMES
    drawn = rng.random()
    if drawn < 0.55:
        return rng.choice(names[:25])
    return rng.choice(names) if drawn < 0.75 else made_up_name(rng, pronoun)


def made_up_name(rng: random.Random, pronoun: str) -> str:
    """A name that sounds like one: "Marbelina", "Toskin"."""
    endings = lex.GIRL_NAME_ENDINGS if pronoun == "she" else lex.BOY_NAME_ENDINGS
    middle = rng.choice(lex.NAME_MIDDLES) if rng.random() < 0.35 else ""
    return rng.choice(lex.NAME_ONSETS) + middle + rng.choice(endings)


def draw_name(rng: random.Random) -> str:
    if rng.random() < 0.15:
        return made_up_word(rng).capitalize()
    return rng.choice(lex.PET_NAMES[:40] if rng.random() < 0.7 else lex.PET_NAMES)


def draw_friend(rng: random.Random, hero: Character, wish: Wish) -> Character:
    child = wish.friend is None and rng.random() < (0.5 if hero.kind in ("girl", "boy") else 0.08)
    while True:
        pronoun = rng.choice(("he", "she"))
        if wish.friend in ("girl", "boy", None) and (child or wish.friend):
            kind = wish.friend or ("girl" if pronoun == "she" else "boy")
            pronoun = "she" if kind == "girl" else "he"
            name = wish.friend_name or draw_child_name(rng, pronoun)
        else:
            kind = wish.friend or rng.choice(
                lex.COMMON_ANIMALS if rng.random() < 0.4 else lex.ANIMALS
            )
            drawn = draw_name(rng) if rng.random() < 0.4 else f"the {kind}"
            name = wish.friend_name or drawn
            pronoun = "she" if name in GIRL_SET else "he" if name in BOY_SET else pronoun
        alike = kind.split()[-1] == hero.kind.split()[-1] or kind in hero.name.split()
        if alike and (wish.friend or child):  # two of a kind need names to be told apart
            alike = name.startswith("the ")
        if name != hero.name and not alike:
            return Character(name, kind, pronoun)


def draw_thing(rng: random.Random) -> str:
    noun = rng.choice(lex.TOYS if rng.random() < 0.6 else lex.TREASURES)
    return f"{rng.choice(lex.COLORS if rng.random() < 0.6 else lex.LOOKS)} {noun}"


def draw_want(rng: random.Random, forms: Sequence[str]) -> str:
    """A verb phrase: "see the ocean", "ride a camel", "find a flimple"."""
    noun = made_up_word(rng) if rng.random() < 0.08 else rng.choice(lex.SUBJECT_NOUNS)
    values = {
        "sight": rng.choice(lex.SIGHTS), "spot": rng.choice(lex.SUBJECT_PLACES),
        "high": rng.choice(lex.HEIGHTS), "noun": noun, "job": rng.choice(lex.JOBS),
        "instrument": rng.choice(lex.INSTRUMENTS), "food": rng.choice(lex.FOODS),
        "skill": rng.choice(lex.SKILL_VERBS), "duty": rng.choice(lex.DUTIES),
        "feat": made_up_word(rng) if rng.random() < MADE_UP_FEAT_SHARE else rng.choice(lex.FEATS),
    }  # fmt: skip
    phrase = _SLOT.sub(lambda match: values[match.group(1)], rng.choice(forms))
    return re.sub(r"\ba (?=[aeiou])", "an ", phrase)


def draw_cue(rng: random.Random, wish: Wish) -> tuple[Cue, Wish]:
    """A cue, and the wish with what the cue needs."""
    cue = CUES[rng.choice(list(CUES))]
    if cue.wants:
        wish = replace(wish, want=draw_want(rng, cue.wants))
    if cue.things:
        wish = replace(wish, thing=rng.choice(cue.things))
    if cue.strangers:
        kind = wish.kind or rng.choice(lex.ANIMALS)
        wish = replace(wish, kind=kind, name=f"the {kind}")
        if cue.strangers == 2:
            friend = rng.choice([a for a in lex.ANIMALS if a not in kind and kind not in a])
            wish = replace(wish, friend=friend, friend_name=f"the {friend}")
    elif wish.kind is None and rng.random() < FAMILY_SHARE:
        name, kind, pronoun = rng.choice(lex.FAMILY)
        wish = replace(wish, name=name, kind=kind, pronoun=pronoun)
    return cue, replace(wish, plots=cue.plots)


def slots(
    rng: random.Random, hero: Character, friend: Character, wish: Wish, trait: str
) -> dict[str, str]:
    """All that templates may name; later draws do not depend on which of them are used."""
    he, him, his, himself = PRONOUNS[hero.pronoun]
    fhe, fhim, fhis, _ = PRONOUNS[friend.pronoun]
    parent, phe, phim, phis = rng.choice(
        [("mom", "she", "her", "her")] * 4
        + [("dad", "he", "him", "his")] * 2
        + [("mommy", "she", "her", "her"), ("grandma", "she", "her", "her")]
    )
    thing = wish.thing or draw_thing(rng)
    place = wish.place or rng.choice(lex.OUTDOOR_PLACES)
    skill = next((s for s in lex.SKILLS if s[0] == wish.skill), None) or rng.choice(lex.SKILLS)
    fear = next((f for f in lex.FEARS if f[0] == wish.fear), None) or rng.choice(lex.FEARS)
    spot1, spot2, spot3, spot4 = rng.sample(lex.HIDING_SPOTS, 4)
    landmark, landmark2 = rng.sample(
        ["a big red barn", "an old mill", "the tall oak tree", "a white bridge", "a stone well",
         "a blue gate", "a little church", "the green hill", "a pond with ducks"], 2)  # fmt: skip
    danger = rng.choice(lex.DANGERS)
    gift = rng.choice(lex.GIFTS)
    singular = rng.choice(lex.FOODS)
    foods = plural(singular)
    friend_trait = rng.choice([*lex.HERO_TRAITS, "old", "little", "big", "wise"])
    small = rng.choice(lex.SMALL_ANIMALS)
    others = [plural(a) for a in rng.sample(lex.COMMON_ANIMALS, 3)]
    named = not friend.name.startswith("the ")
    friend_kind = article(f"{friend_trait} {friend.kind}")
    hero_named = not hero.name.startswith("the ")
    hero_size = rng.choice(["little ", "little ", "little ", "", "young ", f"{trait} "])
    hero_intro = article(hero_size + hero.kind) + (f" named {hero.name}" if hero_named else "")
    values = {
        "H": hero.name, "he": he, "him": him, "his": his, "himself": himself, "kind": hero.kind,
        "F": friend.name, "fhe": fhe, "fhim": fhim, "fhis": fhis,
        "a friend": friend_kind + (f" named {friend.name}" if named else ""),
        "a friend_kind": friend_kind,
        "p": parent, "phe": phe, "phim": phim, "phis": phis,
        "thing": thing, "a thing": article(thing), "it_noun": thing.split()[-1],
        "place": place, "spot1": spot1, "spot2": spot2, "spot3": spot3, "spot4": spot4,
        "landmark": landmark, "landmark2": landmark2,
        "color": thing.split()[0] if thing.split()[0] in lex.COLORS else "shiny",
        "skill": skill[0], "skilling": skill[1], "skilled": skill[2], "how": skill[3],
        "fear": fear[0], "fear_line": fear[1], "comfort": fear[2],
        "danger": danger[0], "danger_why": danger[1], "danger_act": danger[2],
        "danger_result": danger[3], "precious": rng.choice(lex.PRECIOUS),
        "project": rng.choice(lex.PROJECTS),
        "material": rng.choice(["some wood", "a lot of blocks", "many sticks", "an old box"]),
        "gift": gift, "gift_cap": gift.capitalize(), "foods": foods,
        "food": singular, "a food": f"a plate of {foods}",
        "foods_garden": rng.choice(["red tomatoes", "sweet berries", "big pumpkins",
                                    "yellow flowers", "orange carrots", "white flowers"]),
        "wish": rng.choice(["a room full of " + foods, "a hundred " + plural(thing.split()[-1]),
                            "a mountain of candy", "a house full of toys", "more and more snow"]),
        "veg": rng.choice(lex.SOUP_FOODS), "small": small, "a small": f"a little {small}",
        "petname": rng.choice([n for n in lex.PET_NAMES if n not in (hero.name, friend.name)]),
        "trap": rng.choice(lex.TRAPS), "odd": rng.choice(["small", "big", "slow", "loud", "shy"]),
        "small_list": f"the {others[0]}, the {others[1]}, and the {others[2]}",
        "a hero_intro": hero_intro, "a trait kind": article(f"{trait} {hero.kind}"), "trait": trait,
        "nature": rng.choice(lex.NATURES.get(trait, ["play"])),
        "home": rng.choice(lex.ANIMAL_HOMES if hero.kind.split()[-1] in ANIMAL_SET else lex.HOMES),
    }  # fmt: skip
    values |= {
        "want": wish.want or draw_want(rng, lex.DUTIES), "a bare kind": article(hero.kind),
        "a bare friend": article(friend.kind), "building": rng.choice(lex.BUILDINGS),
        "noise_place": rng.choice(lex.NOISE_PLACES), "hatchling": rng.choice(lex.HATCHLINGS),
        "home_noun": rng.choice(lex.HOME_NOUNS),
    }  # fmt: skip
    at_start = ("he", "his", "a friend", "a hero_intro", "a thing", "a bare kind")
    capitals = {
        k[0].upper() + k[1:]: v[0].upper() + v[1:] for k, v in values.items() if k in at_start
    }
    return capitals | values | {"FHe": fhe.capitalize()}


def fill(template: str, values: dict[str, str], friend_is_known: bool = False) -> str:
    """Slots replaced (a slot's text may hold slots), then white space and capitals put right."""
    if friend_is_known:
        template = _INTRODUCED.sub("{F}", template).replace("{a friend}", "{F}")
    preposition = lex.PLACE_PREPOSITIONS.get(values["place"].split()[-1], "in")
    template = _IN_PLACE.sub(f"{preposition} {{place}}", template)
    if values["F"].startswith("the "):  # no name: "an old owl" first, "the owl" from then on
        template = _INTRODUCED.sub("{a friend_kind}", template)
    while _SLOT.search(template):
        template = _SLOT.sub(lambda match: values[match.group(1)], template)
    text = unwrap(template)
    text = re.sub(r" ([.,!?])", r"\1", text)
    text = re.sub(r"([.!?]\")\.", r"\1", text)
    text = re.sub(r"([.!?]) \"(?= |$)", r'\1"', text, flags=re.MULTILINE)
    for name in (values["H"], values["F"]):
        if name.startswith("the "):  # nobody is called "the owl" to their face
            text = re.sub(rf", {name}([.!?]|,\")", rf", {name[4:]}\1", text)
            text = re.sub(rf"\"{name}([,!])", rf'"{name[4:]}\1', text)
    text = _SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)
    text = _AFTER_SHOUT.sub(lambda m: m.group(1) + m.group(2).upper(), text)
    return text.replace(', "But ', ', "but ')


@dataclass(frozen=True)
class Story:
    """A story with what it was made from, so that one can speak about it afterwards."""

    text: str
    plot: str
    hero: Character
    friend: Character
    values: dict[str, str]


def compose(rng: random.Random, wish: Wish) -> Story:
    cue = None
    if not wish.plots and not wish.opening and rng.random() < CUE_SHARE:
        cue, wish = draw_cue(rng, wish)
    hero = draw_hero(rng, wish)
    friend = draw_friend(rng, hero, wish)
    trait = wish.trait or rng.choice(lex.HERO_TRAITS)
    plots = wish.plots or tuple(PLOTS if rng.random() < LONG_SHARE else SHORT_PLOTS)
    if hero.name in FAMILY_NAMES or hero.kind in lex.GROWN_UPS:
        plots = tuple(plot for plot in plots if plot in PARENTLESS_PLOTS) or plots
    plot = rng.choice(plots)
    values = slots(rng, hero, friend, wish, trait)
    brevity = rng.choice((0.1, 0.5, 0.8))
    opening = wish.opening
    if opening is None:
        with_thing = plot in AFTER_THING_OPENINGS and rng.random() < 0.5
        openings = cue.openings if cue else _THING_OPENINGS if with_thing else _OPENINGS
        opening = rng.choice(fitting_openings(openings, hero, wish))
        opening = expand(opening, rng, 0 if cue else brevity / 2)
        if hero.name == f"the {hero.kind}" and opening.startswith("{H} ") and rng.random() < 0.5:
            opening = f"The {rng.choice(lex.LITTLE)} {{kind}}" + opening.removeprefix("{H}")
    friend_is_known = wish.friend_name is not None or "{F}" in opening
    body = expand(ALL_PLOTS[plot], rng, brevity).strip()
    starts_anew = cue is not None or body.startswith(("One ", "It was"))
    joint = "\n\n" if starts_anew and rng.random() < (0.3 if cue else 0.7) else " "
    text = fill(opening + joint + body, values, friend_is_known)
    if rng.random() < 0.1 and len(text) < 600:
        text = text.replace("\n\n", " ")
    return Story(text, plot, hero, friend, values)


def fitting_openings(openings: Sequence[str], hero: Character, wish: Wish) -> Sequence[str]:
    """Those that can present this hero; all of them where none can."""
    named = not hero.name.startswith("the ")
    child = hero.kind in ("girl", "boy")
    fit = [o for o in openings if named or "{H} the" not in o]
    if hero.name in FAMILY_NAMES:
        fit = [o for o in fit if "kind}" not in o and "intro}" not in o]
    elif child:
        fit = [o for o in fit if "{H} the" not in o]
    elif wish.kind and named:
        fit = [o for o in fit if "kind}" in o or "hero_intro}" in o]
    return fit or openings


def write_story(rng: random.Random) -> str:
    """Any story; three in ten have an unusual hero."""
    kind = rng.choice(lex.SUBJECT_NOUNS) if rng.random() < 0.3 else None
    return compose(rng, Wish(kind=kind)).text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    print("\n\n---\n\n".join(write_story(rng) for _ in range(args.count)))


if __name__ == "__main__":
    main()
