"""Times an engine from outside, by the steps that every user's requests go through."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from llama_cu.engine import Engine
from llama_cu.sampling_params import SamplingParams
from llama_cu.sequence import Sequence
from llama_cu.stopping import StopStrings

# The first step of a shape compiles, the second is captured; two more fill the queue.
WARM_UP_STEPS = 4
# The first token comes from the prefill; a step may be queued behind the last one that is read.
_BESIDE_STEPS = 2


def tokens_beside_context(num_steps: int) -> int:
    """Tokens that a sequence grows by, at most, while so many steps of it are timed."""
    return WARM_UP_STEPS + num_steps + _BESIDE_STEPS


@dataclass(frozen=True)
class Decoded:
    """Some steps that were timed together."""

    seconds: float
    num_steps: int
    context_lens: tuple[int, ...]  # of each sequence in the first of the steps, new token included

    def context_lens_of(self, step: int) -> tuple[int, ...]:
        return tuple(length + step for length in self.context_lens)


class Stopwatch:
    """Submits random prompts to an engine, greedy and past EOS, and looks at the clock."""

    def __init__(self, engine: Engine, *, seed: int = 0) -> None:
        self._engine = engine
        self._rng = np.random.default_rng(seed)
        self._prompts: list[list[int]] = []

    def prefill_s(self, prompt_len: int) -> float:
        """Seconds from a new random prompt to its first token."""
        sequence = self._sequence(self._random_prompt(prompt_len), max_tokens=1)
        started = time.perf_counter()
        self._engine.submit(sequence)
        self._run_until_finished([sequence])
        return time.perf_counter() - started

    def decode(self, batch_size: int, context: int, *, num_steps: int) -> Decoded:
        """Time steps of sequences that have `context` tokens of prompt before their answers.

        The prompts are prefilled one after another first and found in the cache again: so that
        all start their answers in the same step, and that shorter and fewer ones need no prefill
        once longer and more have been measured, and the other way round.
        """
        prompts = self._prompts_of(batch_size, context)
        for prompt in prompts:
            self._engine.submit(self._sequence(prompt, max_tokens=1))
            self._run_until_idle()
        sequences = [self._sequence(prompt, max_tokens=None) for prompt in prompts]
        try:
            for sequence in sequences:
                self._engine.submit(sequence)
            while any(sequence.num_generated == 0 for sequence in sequences):
                self._engine.step()
            for _ in range(WARM_UP_STEPS):
                self._engine.step()
            return self._timed(sequences, num_steps)
        finally:
            for sequence in sequences:
                self._engine.abort(sequence)

    def _timed(self, sequences: list[Sequence], num_steps: int) -> Decoded:
        context_lens = tuple(map(len, sequences))
        started = time.perf_counter()
        for _ in range(num_steps):
            self._engine.step()
        seconds = time.perf_counter() - started
        grown = {len(s) - before for s, before in zip(sequences, context_lens, strict=True)}
        if grown != {num_steps}:
            raise RuntimeError(f"{num_steps} steps gave {sorted(grown)} tokens to a sequence")
        return Decoded(seconds, num_steps, context_lens)

    def _run_until_finished(self, sequences: list[Sequence]) -> None:
        while not all(sequence.finished for sequence in sequences):
            self._engine.step()

    def _run_until_idle(self) -> None:
        while self._engine.has_work:
            self._engine.step()

    def _prompts_of(self, count: int, length: int) -> list[list[int]]:
        """The same prompts each time, as long as they are asked for."""
        missing = count - len(self._prompts)
        self._prompts += [[] for _ in range(missing)]
        for prompt in self._prompts[:count]:
            prompt += self._random_prompt(max(0, length - len(prompt)))
        return [prompt[:length] for prompt in self._prompts[:count]]

    def _random_prompt(self, length: int) -> list[int]:
        vocab_size = self._engine.model.config.vocab_size
        drawn: list[int] = self._rng.integers(0, vocab_size, length).tolist()
        return drawn

    def _sequence(self, prompt: list[int], *, max_tokens: int | None) -> Sequence:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        return Sequence(
            token_ids=list(prompt),
            prompt_len=len(prompt),
            params=params,
            seed=0,
            eos_token_ids=frozenset(),
            max_len=self._engine.model.max_model_len,
            decoder=None,
            stops=StopStrings(()),
        )
