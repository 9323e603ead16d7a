"""What a request gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llama_cu.sequence import Logprob, Sequence


@dataclass(frozen=True)
class Timings:
    """Seconds by the wall clock, from the request's arrival."""

    prompt_tokens: int
    generated_tokens: int
    time_to_first_token_s: float
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """Decode speed: tokens after the first over the time after the first; 0 for one token."""
        decode_s = self.total_s - self.time_to_first_token_s
        return (self.generated_tokens - 1) / decode_s if self.generated_tokens > 1 else 0.0


@dataclass(frozen=True)
class Output:
    """One answer. finish_reason: "stop" (EOS, stop token, stop string), "length", "abort"."""

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: str
    logprobs: list[dict[int, Logprob]] | None
    prompt_logprobs: list[dict[int, Logprob] | None] | None  # None for the first token
    num_cached_tokens: int
    timings: Timings


def output_of(sequence: Sequence) -> Output:
    assert sequence.finish_reason is not None and sequence.finish_s is not None
    first_s = sequence.first_token_s or sequence.finish_s
    params = sequence.params
    of_prompt = None if params.prompt_logprobs is None else [None, *sequence.prompt_logprobs]
    return Output(
        text=sequence.text,
        token_ids=sequence.answer_ids,
        prompt_token_ids=sequence.token_ids[: sequence.prompt_len],
        finish_reason=sequence.finish_reason,
        logprobs=sequence.logprobs if params.logprobs is not None else None,
        prompt_logprobs=of_prompt,
        num_cached_tokens=sequence.num_cached_tokens or 0,
        timings=Timings(
            prompt_tokens=sequence.prompt_len,
            generated_tokens=sequence.num_generated,
            time_to_first_token_s=first_s - sequence.arrival_s,
            total_s=sequence.finish_s - sequence.arrival_s,
        ),
    )


class TextStream:
    """An answer on its way: iterate its text pieces, then read `output`.

    `close` (or leaving the `with` block, or garbage collection) ends the answer early and frees
    its cache blocks; its finish_reason is then "abort".
    """

    def __init__(
        self, sequence: Sequence, step: Callable[[], object], abort: Callable[[Sequence], None]
    ) -> None:
        self._sequence = sequence
        self._step = step
        self._abort = abort
        self._shown = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        sequence = self._sequence
        while len(sequence.text) == self._shown:
            if sequence.finished:
                raise StopIteration
            self._step()
        piece = sequence.text[self._shown :]
        self._shown = len(sequence.text)
        return piece

    @property
    def output(self) -> Output:
        """The whole answer; ValueError while it is still on its way."""
        if not self._sequence.finished:
            raise ValueError("output must be read after the stream has ended or was closed")
        return output_of(self._sequence)

    def close(self) -> None:
        self._abort(self._sequence)

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
