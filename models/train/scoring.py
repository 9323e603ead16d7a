"""Bits per byte of whole stories: start token in front, the end token predicted as well."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from tokenizer import END, STORY

CONTEXT = 512

Logits = Callable[[Tensor], Tensor]  # [rows, length] token ids -> [rows, length, vocab_size]


@torch.no_grad()
def story_nats(logits: Logits, tokenizer: Tokenizer, story: str) -> float:
    """Sum of -log p over the tokens of a story and its end token.

    A story longer than the context is scored in windows that overlap by half.
    """
    ids = [
        tokenizer.token_to_id(STORY),
        *tokenizer.encode(story, add_special_tokens=False).ids,
        tokenizer.token_to_id(END),
    ]
    total = 0.0
    scored = 1
    while scored < len(ids):
        begin = 0 if scored == 1 else scored - CONTEXT // 2
        window = torch.tensor([ids[begin : begin + CONTEXT + 1]])
        first = scored - begin - 1
        predicted = logits(window[:, :-1])[0, first:].float()
        total += F.cross_entropy(predicted, window[0, first + 1 :], reduction="sum").item()
        scored = begin + window.shape[1]
    return total


def bits_per_byte(logits: Logits, tokenizer: Tokenizer, stories: list[str]) -> float:
    nats = sum(story_nats(logits, tokenizer, story) for story in stories)
    return nats / math.log(2) / sum(len(story.encode()) for story in stories)
