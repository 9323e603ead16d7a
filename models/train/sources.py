"""Where training rows come from: endless streams of token ids with the labels to learn.

Every source is deterministic given its seed. A row is (inputs, labels) with labels already
shifted by one; label IGNORE marks a token that is read but not learned.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from corpus import clean, load_fairytales, load_tinystories, opening_wish, swap_names
from grammar import compose
from tokenizer import END, IM_END, IM_START, STORY

IGNORE = -100
MAX_LENGTH = 512
SWAP_SHARE = 0.25
MARKED_SHARE = 0.93

Row = tuple[list[int], list[int]]
Message = dict[str, str]


class Rows:
    """Turns texts and conversations into rows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.story_id = tokenizer.token_to_id(STORY)
        self.end_id = tokenizer.token_to_id(END)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def story(self, text: str, *, marked: bool = False) -> Iterator[Row]:
        """Start token, story, end token; what is too long for one row goes on in the next.

        A marked story begins with the end token instead, as passages do.
        """
        first = self.end_id if marked else self.story_id
        ids = [first, *self.encode(clean(text)), self.end_id]
        for begin in range(0, len(ids) - 1, MAX_LENGTH):
            piece = ids[begin : begin + MAX_LENGTH + 1]
            if len(piece) > 16:
                yield piece[:-1], piece[1:]

    def passage(self, text: str) -> Row:
        """A piece of an old tale. It begins with the end token, so no story opens like it."""
        ids = [self.end_id, *self.encode(clean(text))][: MAX_LENGTH + 1]
        return ids[:-1], ids[1:]

    def conversation(self, messages: list[Message]) -> Row:
        """ChatML; only the assistant's words and its end token are learned."""
        ids: list[int] = []
        learned: list[bool] = []
        for message in messages:
            head = self.encode(f"{IM_START}{message['role']}\n")
            body = self.encode(f"{message['content']}{IM_END}")
            tail = self.encode("\n")
            ids += head + body + tail
            is_answer = message["role"] == "assistant"
            learned += [False] * len(head) + [is_answer] * len(body) + [False] * len(tail)
        labels = [token if keep else IGNORE for token, keep in zip(ids, learned, strict=True)]
        return ids[:-1], labels[1:]


def tinystories(rows: Rows, data: Path, seed: int) -> Iterator[Row]:
    """The training stories over and over, names swapped in some.

    Most are marked: the model learns from them what it needs to go on with any text, and yet a
    story of its own is mostly one with a plot.
    """
    rng = random.Random(seed)
    stories, _ = load_tinystories(data)
    while True:
        rng.shuffle(stories)
        for story in stories:
            text = swap_names(story, rng) if rng.random() < SWAP_SHARE else story
            yield from rows.story(text, marked=rng.random() < MARKED_SHARE)


def continued_openings(rows: Rows, data: Path, seed: int) -> Iterator[Row]:
    """Stories that open like a training story and go on as the grammar writes."""
    rng = random.Random(seed)
    stories, _ = load_tinystories(data)
    while True:
        story = swap_names(rng.choice(stories), rng)
        wish = opening_wish(story, rng)
        if wish:
            yield from rows.story(compose(rng, wish).text)


def fairytales(rows: Rows, data: Path, seed: int) -> Iterator[Row]:
    """Passages of about 1,500 characters, each from the beginning of a paragraph."""
    rng = random.Random(seed)
    passages: list[str] = []
    for tale in load_fairytales(data):
        passage = ""
        for paragraph in re.split(r"\n+", tale):
            passage = f"{passage}\n\n{paragraph}".strip()
            if len(passage) > 1500:
                passages.append(passage)
                passage = ""
    while True:
        rng.shuffle(passages)
        yield from map(rows.passage, passages)


def written_stories(rows: Rows, write: Callable[[random.Random], str], seed: int) -> Iterator[Row]:
    rng = random.Random(seed)
    while True:
        yield from rows.story(write(rng))


def conversations(
    rows: Rows, write: Callable[[random.Random], list[Message]], seed: int, longest: int
) -> Iterator[Row]:
    rng = random.Random(seed)
    while True:
        row = rows.conversation(write(rng))
        if len(row[0]) <= longest:
            yield row


def batches(
    sources: dict[str, Iterator[Row]],
    shares: Callable[[], dict[str, float]],
    tokens_per_batch: int,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of rows of like length. `shares` says how much each source gives (in tokens)."""
    rng = random.Random(seed)
    given = dict.fromkeys(sources, 0.0)
    while True:
        wanted = shares()
        pool: list[Row] = []
        size = 0
        while size < 8 * tokens_per_batch:
            active = [name for name in sources if wanted.get(name, 0.0) > 0]
            name = min(active, key=lambda n: given[n])
            row = next(sources[name])
            given[name] += len(row[0]) / wanted[name]
            size += len(row[0])
            pool.append(row)
        given = {name: count - min(given[n] for n in active) for name, count in given.items()}
        given = {name: max(0.0, count) for name, count in given.items()}
        pool.sort(key=lambda row: len(row[0]))
        groups: list[list[Row]] = [[]]
        for row in pool:
            if len(row[0]) * (len(groups[-1]) + 1) > tokens_per_batch and groups[-1]:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(collate, groups)


def collate(rows: list[Row]) -> tuple[Tensor, Tensor]:
    width = max(len(inputs) for inputs, _ in rows)
    token_ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORE)
    for index, (inputs, targets) in enumerate(rows):
        token_ids[index, : len(inputs)] = torch.tensor(inputs)
        labels[index, : len(targets)] = torch.tensor(targets)
    return token_ids, labels
