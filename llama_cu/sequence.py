"""One request as it moves through the engine. Only scheduler and engine write to it."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, Protocol

from llama_cu.errors import RequestError
from llama_cu.sampling_params import SamplingParams
from llama_cu.stopping import StopStrings

Array = Any


class Decoder(Protocol):
    """Ids to text, piece by piece; the checkpoint room's StreamDecoder is one."""

    def push(self, token_id: int) -> str: ...

    def finish(self) -> str: ...


class Constraint(Protocol):
    """Decides which tokens may come; it knows those that came. One sequence has it for itself.

    Where it cannot go on, `mask` and `accept` raise RequestError.
    """

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, so that nothing may follow it."""

    def mask(self) -> Array:
        """The tokens that may come next: a row of `LogitMasks.words` with a bit that is set.

        Tokens that end the answer are among them exactly when it may end here.
        """

    def accept(self, token_id: int) -> None:
        """Take the token that was drawn."""


class Drafter(Protocol):
    """Guesses at the tokens that come next; one sequence has it for itself."""

    def propose(self, token_ids: Seq[int], most: int) -> list[int]: ...

    def judge(self, num_drafted: int, num_accepted: int) -> None: ...


@dataclass(frozen=True)
class Logprob:
    """Natural log of a token's probability, before penalties and temperature."""

    logprob: float
    rank: int | None  # 1 for the most likely; None beyond the tokens asked for


@dataclass(slots=True, eq=False)
class Sequence:
    """Prompt and answer of one request, and how far they are computed.

    A step computes token_ids[num_computed : num_computed + n]. Prefill is n > 1, decode is
    n == 1; nothing else tells them apart.
    """

    token_ids: list[int]
    prompt_len: int
    params: SamplingParams
    seed: int
    eos_token_ids: frozenset[int]
    max_len: int  # prompt and answer together
    decoder: Decoder | None
    stops: StopStrings
    cache_salt: int = 0
    num_computed: int = 0
    num_registered: int = 0  # full blocks that others can find
    num_cached_tokens: int | None = None  # prompt tokens that were found; None until scheduled
    block_table: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[dict[int, Logprob]] = field(default_factory=list)  # from token 1 on
    prompt_tokens: frozenset[int] = frozenset()  # filled where a penalty looks at them
    counts: Counter[int] = field(default_factory=Counter)  # likewise, of the answer
    constraint: Constraint | None = None
    drafter: Drafter | None = None
    failure: str | None = None  # why the constraint gave up; finish_reason becomes "error"
    sampling_words: tuple[int, ...] = ()  # the draw's parameters as int32 words, for the upload
    arrival_s: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None
    finish_s: float | None = None

    def __post_init__(self) -> None:
        self.sampling_words = _sampling_words(self.params, self.seed)
        if self.params.counts_tokens:
            self.prompt_tokens = frozenset(self.token_ids)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.prompt_len

    @property
    def answer_ids(self) -> list[int]:
        return self.token_ids[self.prompt_len :]

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether some are wanted of prompt tokens that no step has computed yet."""
        wanted = 0 if self.params.prompt_logprobs is None else self.prompt_len - 1
        return len(self.prompt_logprobs) < wanted

    @property
    def needs_host(self) -> bool:
        """Whether the host changes the logits of each token, or looks at them."""
        params = self.params
        looks = self.constraint is not None or params.logprobs is not None
        return params.edits_logits or looks

    @property
    def num_missing(self) -> int:
        """Tokens after which the answer is at its longest."""
        room, most = self.max_len - len(self), self.params.max_tokens
        return room if most is None else min(room, most - self.num_generated)

    def ends_within(self, num_tokens: int) -> bool:
        """Whether the answer is at its longest once it has so many tokens more."""
        return self.num_missing <= num_tokens

    def append(self, token_id: int) -> None:
        """Take the drawn token, extend the text, and decide whether the answer ends."""
        if self.failure is not None:  # nobody knows whether the token was allowed
            self.finish("error")
            return
        self.token_ids.append(token_id)
        if self.params.counts_tokens:
            self.counts[token_id] += 1
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter()
        if self._ends_at(token_id):
            self.finish("stop")
            return
        if self.constraint is not None:
            try:
                self.constraint.accept(token_id)
            except RequestError as error:
                self.failure = str(error)
                self.finish("error")
                return
        if self.decoder is not None:
            piece = self.decoder.push(token_id)
            late = self.num_generated >= self.params.min_tokens
            self.text += self.stops.push(piece, may_end=late)
        complete = self.constraint is not None and self.constraint.finished
        if complete or self.stops.matched is not None:
            self.finish("stop")
        elif self.ends_within(0):
            self.finish("length")

    def _ends_at(self, token_id: int) -> bool:
        if self.num_generated < self.params.min_tokens:
            return False
        ends = token_id in self.eos_token_ids and not self.params.ignore_eos
        return ends or token_id in self.params.stop_token_ids

    def allowed_words(self) -> Array | None:
        """The constraint's mask for the next token; None without one, or where it gave up."""
        if self.constraint is None:
            return None
        try:
            return self.constraint.mask()
        except RequestError as error:
            self.failure = str(error)
            return None

    def banned_ids(self) -> set[int]:
        """Tokens that would end the answer before min_tokens."""
        if self.num_generated >= self.params.min_tokens:
            return set()
        ends = set() if self.params.ignore_eos else set(self.eos_token_ids)
        return ends | set(self.params.stop_token_ids)

    def finish(self, reason: str) -> None:
        """End the answer; text that was held back comes out unless a stop string cut it."""
        if self.decoder is not None and self.stops.matched is None:
            self.text += self.stops.push(self.decoder.finish())
            self.text += self.stops.finish()
        self.finish_reason = reason
        self.finish_s = time.perf_counter()


def _sampling_words(params: SamplingParams, seed: int) -> tuple[int, ...]:
    """temperature, top_p and min_p as float32, top_k, and the seed's halves: six words."""
    temperature = 0.0 if params.greedy else params.temperature
    top_k = min(max(0, params.top_k), 2**31 - 1)
    packed = struct.pack("<fffiQ", temperature, params.top_p, params.min_p, top_k, seed)
    return struct.unpack("<6i", packed)
