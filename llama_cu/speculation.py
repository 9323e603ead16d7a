"""Guesses at the next tokens, which a step then checks all at once. Knows no model and no array."""

from __future__ import annotations

from collections.abc import Sequence as Seq

KINDS = ("ngram",)
"""What `LLM(speculate=...)` takes."""

# The tokens that are looked for: long ones first, which are seldom there and mostly right.
_LONGEST, _SHORTEST = 4, 2
# So many tokens are drawn without a guess after one that was all wrong, doubled each time.
_FIRST_PAUSE, _MAX_PAUSE = 2, 32


class NgramDrafter:
    """Guesses that what followed the last tokens before will follow them again.

    It is right where an answer repeats its prompt or itself: summaries, edits, quotations, lists.
    After "Prompt Lookup Decoding" (Saxena, 2023). One sequence has it for itself.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # where each n-gram ended last
        self._num_indexed = 0
        self._pause = _FIRST_PAUSE
        self._resting = 0
        self.num_drafted = self.num_accepted = 0

    def propose(self, token_ids: Seq[int], most: int) -> list[int]:
        """At most `most` tokens that may come next; none where nothing is known.

        It is called with the same sequence, longer each time.
        """
        self._index(token_ids)
        if self._resting > 0:
            self._resting -= 1
            return []
        for size in range(_LONGEST, _SHORTEST - 1, -1):
            end = self._ends.get(tuple(token_ids[-size:]))
            if end is not None:
                return list(token_ids[end : end + most])
        return []

    def judge(self, num_drafted: int, num_accepted: int) -> None:
        """Learn how many of the proposed tokens were the right ones."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        if num_accepted > 0:
            self._pause = _FIRST_PAUSE
        else:
            self._resting, self._pause = self._pause, min(2 * self._pause, _MAX_PAUSE)

    def _index(self, token_ids: Seq[int]) -> None:
        """Remember the n-grams that something follows, which the last ones have not yet."""
        for end in range(max(self._num_indexed, _SHORTEST), len(token_ids)):
            for size in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._ends[tuple(token_ids[end - size : end])] = end
        self._num_indexed = max(self._num_indexed, len(token_ids))
