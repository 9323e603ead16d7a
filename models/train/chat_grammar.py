"""Writes conversations with the story companion, for the chat model to learn from.

    python chat_grammar.py --count 5 --seed 1

A conversation is a list of {"role", "content"} messages. What was said before matters: the child's
name, the last story, its hero.
"""

import argparse
import random
from dataclasses import dataclass, field, replace

import lexicon as lex
from grammar import Story, Wish, article, compose, draw_child_name, expand, fill, made_up_word
from small_talk import SYSTEM_PROMPTS, TOPICS

Message = dict[str, str]

_REQUESTS = """
[tell me|Tell me|please tell me|can you tell me|Can you tell me|could you tell me|I want|I'd
like|give me|write| Write|make up|Please tell me|I would like|I want to hear|do you know] a
[|||short |little |nice |bedtime |funny ]story [about|about|about|about|of|with] {s}
#
[a story about|story about|something about|now one about|how about a story about|what about| one
about|I want one about|Tell me about|tell me about] {s}
#
[a story with {s} in it|my story should be about {s}|let it be about {s}|it should be about
{s}|{s}|{s} please]
"""
_OPEN_REQUESTS = """
[tell me a story|Tell me a story|can you tell me a story|I want a story|a story please|tell me
something| story time|please tell me a bedtime story|read me a story|give me a story|I want to
hear a story| surprise me|any story|tell a story|start|go on, tell me one|make up a story for
me|Can I have a story]
"""
_LEAD_INS = """
[Here is a story about {s}.|Sure! Here is a story about {s}.|This is a story about {s}.|A story
about {s}? I know one!| Of course! This is the story of {s}.|Okay, a story about {s}.]
"""
_AGAIN = """
[another one|one more|another story|tell me another one|can you tell me another one|another one
please|more| again|tell me one more story|next one|do you know another one]
"""
_SHORTER = """
[make it shorter|can you make it shorter|shorter please|tell it in a few words|that was too long|
a shorter one|tell it again but shorter|say it in short|what was the story about]
"""
_LONGER = (
    "[make it longer|a longer one|tell me a longer story|can you make it longer|that was too short]"
)
_NEXT = """
[what happened next|and then|what happened then|tell me more|go on|then what|what did they do
after that| continue|is there more|how does it go on|keep going]
"""
_EPILOGUES = """
The next day, {H} and {F} met again. They went to {place} and found {some thing}. They laughed and
played until the sun went down, and then they went home happy. The end.
#
After that, {H} and {F} saw each other every day. One day, they made {foods} together and shared
them with everyone. It was a lovely day. The end.
#
The next morning, {H} woke up and smiled. {F} was at the door! "Let's play," said {F}. They played
in {place} all day and were happy. The end.
#
Later, {H} told {his} {p} all about it. {His} {p} was proud and made {foods}. {H} and {F} ate them
all and fell asleep under the stars. The end.
"""
_PLOTS = {  # plot: the story in one breath
    "skill": "{H} wanted to {skill} but could not. {F} helped {him}, and at last {he} {skilled}.",
    "short_skill": "{H} wanted to {skill} but could not. {F} helped {him}, and at last "
    "{he} {skilled}.",
    "fear": "{H} was afraid of {fear}. {F} helped {him} to be brave, and {he} was "
    "not afraid anymore.",
    "short_fear": "{H} was afraid of {fear}. {His} {p} held {his} hand, and then {he} could sleep.",
    "lost_thing": "{H} lost {his} {thing}. {F} helped {him} look, and they found it.",
    "short_lost_thing": "{H} lost {his} {thing}. {F} helped {him} look, and they found it.",
    "lonely": "{H} was lonely. Then {he} met {F}, and they became friends.",
    "short_friend": "{H} had no friends. Then {he} met {F}, and they became friends.",
    "short_share": "{H} did not want to share {his} {thing}. But it was no fun alone, so "
    "{he} shared it with {F}.",
    "short_rescue": "{F} was {trap}. {H} helped {fhim} and found a friend.",
    "rescue": "{H} helped {F} when {fhe} was {trap}. Later, {F} helped {H} too.",
    "short_danger": "{H} did not listen to {his} {p} and got hurt. {He} learned to listen.",
    "short_broken": "{H}'s {thing} broke. {F} helped {him}, and they fixed it together.",
    "short_greedy": "{H} ate all the {foods}, and {his} tummy hurt. {He} learned to share.",
    "short_build": "{H} wanted to build {project}, but it fell down. {F} helped {him}, "
    "and they did it.",
    "short_magic": "{H} found {a thing} that was magic. {He} wished that {F} was well again.",
    "short_lost_way": "{H} got lost, and {F} took {him} home.",
    "short_race": "{H} and {F} had a race. {F} fell, and {H} helped {fhim}.",
    "short_plant": "{H} put a seed in the ground. {He} waited, and it grew big.",
    "short_mean": "{F} took {H}'s {thing}. {H} was kind to {fhim}, and they became friends.",
    "short_trip": "{H} lost {his} {thing} on a trip, and {F} got it back.",
    "short_sleep": "{H} could not sleep without {his} {thing}. They found it, and {he} slept well.",
    "short_different": "The others laughed at {H}. Then {he} saved {F}, and they were sorry.",
    "short_jump": "{H} wanted {a thing} that was high up. {F} helped {him} get it.",
    "short_helper": "{H} wanted to help {his} {p}. {He} broke the {precious}, but {his} "
    "{p} was kind.",
    "trip": "{H} went to {place} with {his} {p} and met {F}. They had a good day.",
    "dream_job": "{H} went far away to find {a thing}. {F} came too, and they found it.",
    "magic": "{H} made a silly wish with {a thing}. {F} told {him} how to make it right.",
}
_THING_PLOTS = (
    "lost_thing", "short_lost_thing", "short_share", "short_broken", "short_magic", "short_jump",
    "short_mean", "short_trip", "short_sleep", "dream_job", "magic",
)  # fmt: skip
_PLACE_PLOTS = ("short_trip", "trip", "short_friend", "lonely", "short_rescue", "short_race",
                "short_lost_way", "short_jump", "short_build")  # fmt: skip
_NO_PARENT_NEEDED = tuple(plot for plot in _PLOTS if plot not in ("short_helper",))
_THEMES = [
    ("sharing", ("short_share",)), ("being brave", ("fear", "short_fear")),
    ("friendship", ("lonely", "short_friend", "short_rescue")), ("friends", ("short_friend",)),
    ("kindness", ("short_mean", "short_rescue")), ("a race", ("short_race",)),
    ("magic", ("short_magic", "magic")), ("not giving up", ("short_skill", "skill", "short_build")),
    ("being different", ("short_different",)), ("helping", ("short_helper", "short_rescue")),
    ("getting lost", ("short_lost_way",)), ("bedtime", ("short_sleep",)),
    ("a seed", ("short_plant",)), ("an adventure", ("dream_job",)), ("a wish", ("short_magic",)),
]  # fmt: skip


def choices(text: str) -> list[str]:
    return [part.strip() for part in text.split("#")]


def say(text: str, rng: random.Random) -> str:
    return " ".join(expand(rng.choice(choices(text)), rng).split())


def draw_subject(rng: random.Random) -> tuple[str, Wish]:
    """What the child asks about, in words, and what that means for the story."""
    kind = draw_kind(rng)
    way = rng.choices(
        ("kind", "skill", "fear", "lost", "lonely", "two", "named", "thing", "place", "theme"),
        (34, 8, 7, 6, 4, 8, 9, 12, 6, 4),
    )[0]
    if way == "skill":
        verb = rng.choice(lex.SKILL_VERBS)
        clause = rng.choice(("who can't {}", "who wants to {}", "who learns to {}", "that can't {}",
                             "who could not {}", "that wanted to {}"))  # fmt: skip
        wish = Wish(kind=kind, skill=verb, plots=("skill", "short_skill", "short_skill"))
        return f"{article(kind)} {clause.format(verb)}", wish
    if way == "fear":
        fear = rng.choice(lex.FEARS)[0]
        clause = rng.choice(("who is afraid of", "who is scared of", "that was afraid of"))
        wish = Wish(kind=kind, fear=fear, plots=("fear", "short_fear", "short_fear"))
        return f"{article(kind)} {clause} {fear}", wish
    if way == "lost":
        noun = rng.choice(lex.TOYS + lex.TREASURES)
        thing = f"{rng.choice(lex.COLORS)} {noun}" if rng.random() < 0.5 else noun
        wish = Wish(kind=kind, thing=thing, plots=("lost_thing", "short_lost_thing"))
        return f"{article(kind)} who lost {rng.choice(('a', 'his', 'her'))} {thing}", wish
    if way == "lonely":
        wish = Wish(kind=kind, plots=("lonely", "short_friend"))
        clause = rng.choice(("who has no friends", "who wants a friend", "who finds a friend"))
        return f"{article(kind)} {clause}", wish
    plots = _NO_PARENT_NEEDED
    if way == "two":
        friend = draw_kind(rng)
        wish = Wish(kind=kind, friend=friend, plots=tuple(p for p in plots if p != "short_sleep"))
        return f"{article(kind)} and {article(friend)}", wish
    if way == "named":
        girl = rng.random() < 0.5
        name = draw_child_name(rng, "she" if girl else "he")
        if rng.random() < 0.5:
            kind = "girl" if girl else "boy"
        called = rng.choice(("named", "called"))
        wish = Wish(kind=kind, name=name, pronoun="she" if girl else "he", plots=plots)
        return (name if rng.random() < 0.25 else f"{article(kind)} {called} {name}"), wish
    if way == "thing":
        thing = draw_object(rng)
        return article(thing), Wish(thing=thing, plots=_THING_PLOTS)
    if way == "place":
        place = rng.choice(lex.SUBJECT_PLACES)
        lead = rng.choice(("", "", "a trip to ", "a day at ", "a walk in "))
        return lead + place, Wish(place=place, plots=_PLACE_PLOTS)
    if way == "theme":
        words, themed = rng.choice(_THEMES)
        return words, Wish(plots=themed)
    return article(kind), Wish(kind=kind, plots=plots)


def draw_kind(rng: random.Random) -> str:
    pools = (lex.ANIMALS, lex.MAGIC_BEINGS, lex.SUBJECT_NOUNS, lex.LIVELY_THINGS, lex.GROWN_UPS)
    if rng.random() < 0.25:
        noun = made_up_word(rng)
    else:
        noun = rng.choice(rng.choices(pools, (8, 3, 8, 2, 2))[0])
    if rng.random() < 0.35:
        return f"{rng.choice(lex.SUBJECT_ADJECTIVES)} {noun}"
    return noun


def draw_object(rng: random.Random) -> str:
    pools = (lex.TOYS, lex.TREASURES, lex.SUBJECT_NOUNS[:116], [made_up_word(rng)])
    noun = rng.choice(rng.choices(pools, (4, 3, 4, 1))[0])
    adjectives = lex.SUBJECT_ADJECTIVES if rng.random() < 0.6 else lex.COLORS
    return f"{rng.choice(adjectives)} {noun}" if rng.random() < 0.6 else noun


@dataclass
class Conversation:
    """The messages so far and what the companion has to remember."""

    rng: random.Random
    messages: list[Message] = field(default_factory=list)
    child: str | None = None
    story: Story | None = None
    wish: Wish | None = None
    subject: str | None = None

    def exchange(self, said: str, answer: str) -> None:
        self.messages += [
            {"role": "user", "content": self.scribble(said)},
            {"role": "assistant", "content": answer},
        ]

    def scribble(self, said: str) -> str:
        """As people type: with a capital or without, with an end mark or without."""
        if self.rng.random() < 0.4:
            said = said[0].upper() + said[1:]
        if said[-1].isalnum():
            asks = said.lower().startswith(("can", "could", "do ", "what", "who", "how", "is "))
            said += self.rng.choice(("", "?" if asks else ".", "?" if asks else "", ""))
        elif said[-1] == "?" and self.rng.random() < 0.3:
            said = said[:-1]
        return said

    def tell(self, said: str, subject: str | None, wish: Wish, lead_in: float = 0.7) -> None:
        self.wish, self.subject = wish, subject
        self.story = compose(self.rng, wish)
        answer = self.story.text
        if subject and self.rng.random() < lead_in:
            answer = f"{say(_LEAD_INS, self.rng).format(s=subject)}\n\n{answer}"
        elif not subject and self.rng.random() < 0.3:
            lead_in_words = say("[Here is a story for you.|Of course!|Sure! Listen.]", self.rng)
            answer = f"{lead_in_words}\n\n{answer}"
        self.exchange(said, answer)

    def ask_for_story(self) -> None:
        rng = self.rng
        if rng.random() < 0.12:
            self.tell(say(_OPEN_REQUESTS, rng), None, Wish(plots=tuple(_PLOTS)))
            return
        subject, wish = draw_subject(rng)
        if rng.random() < 0.06:
            question = say("[What should it be about?|Sure! What should the story be about?]", rng)
            self.exchange(say(_OPEN_REQUESTS, rng), question)
            said = subject
        else:
            said = say(_REQUESTS, rng).format(s=subject)
        self.tell(said, subject, wish)

    def talk(self, topic: str) -> None:
        ways, answers = TOPICS[topic]
        said = self.rng.choice(ways)
        said = said.replace("{n}", str(self.rng.randint(1, 99)))
        said = said.replace("{m}", str(self.rng.randint(1, 99)))
        while "{word}" in said:
            said = said.replace("{word}", made_up_word(self.rng), 1)
        answer = say(self.rng.choice(answers), self.rng)
        if topic == "hello" and self.child:
            answer = answer.replace("my friend", self.child)
        self.exchange(said, answer)

    def small_talk(self, may_tell: bool = True) -> None:
        rng = self.rng
        topic = rng.choice(list(TOPICS))
        self.talk(topic)
        if topic == "joke" and rng.random() < 0.6:
            self.another_joke()
        if not may_tell:
            return
        last = self.messages[-1]["content"]
        if last.endswith("What should it be about?") or "should my story be about" in last:
            subject, wish = draw_subject(rng)
            self.tell(subject, subject, wish)
        elif last.endswith("?") and "story" in last and rng.random() < 0.5:
            yes = rng.choice(("yes", "yes please", "Yes!", "sure", "ok", "okay", "yeah", "please"))
            self.tell(yes, None, Wish(plots=tuple(_PLOTS)))

    def another_joke(self) -> None:
        said = say(
            "[another one|haha, another one|one more|tell me another one|another joke|more|"
            "haha, that is funny, one more please]",
            self.rng,
        )
        last = self.messages[-1]["content"]
        jokes = [expand(answer, self.rng) for answer in TOPICS["joke"][1]]
        self.exchange(said, self.rng.choice([joke for joke in jokes if joke != last]))

    def mention(self, may_tell: bool = True) -> None:
        """The child brings up a thing; the answer takes it up, and a story may follow."""
        rng = self.rng
        kind = draw_kind(rng)
        subject = article(kind)
        if rng.random() < 0.4:
            said = say(
                "[what is|do you know what|have you ever seen|do you have|are you] {s}?", rng
            )
            said = said.replace("know what {s}", "know what {s} is")
            answer = say(
                "[I am not sure about {s}, but I can make up a story about {s}.|"
                "I only know {s} from stories.] [Shall I tell you a story about {s}?|]",
                rng,
            )
        else:
            said = say("[I saw|I have|I like my|look,|I want to be|I dreamed of|I drew] {s}", rng)
            said = said.replace("my {s}", "my {k}")
            answer = say(
                "[{S}? How nice!|Oh, {s}! That is lovely.|I like that! {S} is a good thing to talk "
                "about.] [Shall I tell you a story about {s}?|]",
                rng,
            )
        capital = subject[0].upper() + subject[1:]
        self.exchange(said.format(s=subject, k=kind), answer.format(s=subject, S=capital).strip())
        if may_tell and answer.endswith("?") and rng.random() < 0.7:
            yes = rng.choice(("yes", "yes please", "Yes!", "sure", "ok", "okay", "yeah", "please"))
            self.tell(yes, subject, Wish(kind=kind, plots=tuple(_PLOTS)))

    def echo(self) -> None:
        words = self.rng.choice((draw_subject(self.rng)[0], made_up_word(self.rng)))
        if self.rng.random() < 0.3:
            words = self.draw_child()
        said = say("[say|can you say|please say|say after me:|repeat:|now say]", self.rng)
        self.exchange(f"{said} {words}", f"{words[0].upper()}{words[1:]}!")

    def draw_child(self) -> str:
        if self.rng.random() < 0.1:
            return made_up_word(self.rng).capitalize()
        return draw_child_name(self.rng, self.rng.choice(("she", "he")))

    def give_name(self) -> None:
        rng = self.rng
        self.child = self.draw_child()
        said = say("[my name is|I am|I'm|call me|hi, I'm|Hello, my name is|hi my name is]", rng)
        answer = say(
            "[Hello|Hi|Nice to meet you], {c}! [What story would you like?|I am Llama.|"
            "That is a nice name.|Shall I tell you a story?]",
            rng,
        )
        self.exchange(f"{said} {self.child}", answer.format(c=self.child))

    def ask_name(self) -> None:
        said = say("[what is my name?|do you know my name?|who am I?|what's my name?]", self.rng)
        if self.child:
            self.exchange(said, f"Your name is {self.child}.")
        else:
            self.exchange(said, "I don't know your name yet. What is it?")

    def story_about_child(self) -> None:
        said = say(
            "[tell me a story about me|I want a story about me|a story about myself]", self.rng
        )
        if not self.child:
            self.exchange(said, "I would love to! What is your name?")
            self.child = self.draw_child()
            said = say(f"[{self.child}|I am {self.child}|my name is {self.child}]", self.rng)
        kind = "girl" if self.child in lex.GIRL_NAMES else "boy"
        if self.child not in lex.GIRL_NAMES + lex.BOY_NAMES:
            kind = "girl" if self.child[-1] in "aey" else "boy"
        self.tell(said, self.child, Wish(kind=kind, name=self.child, plots=_NO_PARENT_NEEDED))

    def after_story(self) -> None:
        """Something that only makes sense when a story was told."""
        rng, story = self.rng, self.story
        assert story is not None
        way = rng.choice(
            ("again", "again", "shorter", "shorter", "longer", "next", "name", "helper")
        )
        if way == "again":
            same = self.subject is not None and rng.random() < 0.6
            if same and self.wish and len(set(self.wish.plots)) > 1:
                wish = replace(
                    self.wish, plots=tuple(p for p in self.wish.plots if p != story.plot)
                )
                wish = wish if wish.plots else self.wish
                self.tell(say(_AGAIN, rng), self.subject, wish, 0.4)
            else:
                subject, wish = draw_subject(rng)
                self.tell(
                    f"{say('[another one|one more|now a story|now one]', rng)} about {subject}",
                    subject,
                    wish,
                )
        elif way == "shorter":
            opening = say("[Here it is in short. ||Sure! |Okay. ]", rng)
            self.exchange(
                say(_SHORTER, rng), f"{opening} {self.retold(_PLOTS[story.plot])} The end.".strip()
            )
        elif way == "longer" and self.wish:
            long_plots = tuple(p for p in self.wish.plots if not p.startswith("short_"))
            if long_plots:
                self.tell(
                    say(_LONGER, rng), self.subject, replace(self.wish, plots=long_plots), 0.3
                )
        elif way == "next":
            self.exchange(say(_NEXT, rng), self.retold(rng.choice(choices(_EPILOGUES))))
        elif way == "name" and not story.hero.name.startswith("the "):
            kind = story.hero.kind
            asked = say(
                f"[what was the {kind}'s name?|what was the name of the {kind}?|"
                "who was the story about?]",
                rng,
            )
            self.exchange(asked, f"The {kind}'s name was {story.hero.name}.")
        elif way == "helper" and "{F}" in _PLOTS[story.plot]:
            name = story.hero.name
            asked = say(
                f"[who was {name}'s friend?|who did {name} meet?|who else was in the story?]", rng
            )
            self.exchange(
                asked, fill(expand("[It was {F}.|{F} was {H}'s friend.]", rng), story.values)
            )

    def retold(self, template: str) -> str:
        assert self.story is not None
        return fill(template.replace("{some thing}", "{a thing}"), self.story.values)


def write_conversation(rng: random.Random) -> list[Message]:
    """One to five exchanges, most of them about stories."""
    talk = Conversation(rng)
    if rng.random() < 0.35:
        talk.messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    if rng.random() < 0.2:
        talk.talk("hello")
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        if talk.story and rng.random() < 0.55:
            talk.after_story()
            continue
        step = rng.choices(
            (
                talk.ask_for_story,
                talk.small_talk,
                talk.mention,
                talk.give_name,
                talk.ask_name,
                talk.story_about_child,
                talk.echo,
            ),
            (48, 28, 8, 8, 4, 4, 2),
        )[0]
        step()
    if rng.random() < 0.15:
        talk.talk(rng.choice(("thanks", "bye", "good_night", "praise")))
    return talk.messages


def write_small_talk(rng: random.Random) -> list[Message]:
    """Two to six exchanges without a story: dense practice in taking up what was said."""
    talk = Conversation(rng)
    if rng.random() < 0.2:
        talk.messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    for _ in range(rng.randint(2, 6)):
        step = rng.choices(("talk", "mention", "name", "ask", "echo"), (40, 20, 12, 8, 20))[0]
        if step == "talk":
            talk.small_talk(may_tell=False)
        elif step == "mention":
            talk.mention(may_tell=False)
        elif step == "name":
            talk.give_name()
        elif step == "ask":
            talk.ask_name()
        else:
            talk.echo()
    return talk.messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        for message in write_conversation(rng):
            print(f"{message['role']}: {message['content']}")
        print("\n---\n")


if __name__ == "__main__":
    main()
