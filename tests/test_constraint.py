"""Constraints in the engine: only what they allow is drawn, in every batch and on every device."""

import numpy as np
import pytest

from llama_cu.errors import RequestError
from llama_cu.sampling_params import SamplingParams
from tests.backends import BACKENDS, make_ops
from tests.tiny import make_engine, make_sequence, run

VOCAB_SIZE, EOS = 101, 0
FLOAT32_BACKENDS = [backend for backend in BACKENDS if backend.id.endswith("-float32")]

PROMPTS = [[5], [17, 3, 99, 4], list(range(1, 20)), [8, 8, 8], list(range(60, 93))]
GREEDY = SamplingParams(temperature=0, max_tokens=12)
DRAWN = SamplingParams(temperature=1.0, top_p=0.9, max_tokens=12, seed=7)
PENALISED = SamplingParams(
    temperature=1.2, top_k=20, max_tokens=12, seed=3, repetition_penalty=1.3, frequency_penalty=0.2
)


class Classes:
    """Allows the tokens whose remainder by 7 is the number of tokens so far; ends as it is told."""

    def __init__(self, *, ends_at=None, finishes_at=None, fails_at=None):
        self.accepted = []
        self._ends_at, self._finishes_at, self._fails_at = ends_at, finishes_at, fails_at

    @property
    def finished(self):
        return len(self.accepted) == self._finishes_at

    def allows(self, token_id, position):
        if token_id == EOS:
            return position == self._ends_at
        return token_id % 7 == position % 7

    def mask(self):
        position = len(self.accepted)
        if position == self._fails_at:
            raise RequestError("the rules ran out")
        bits = np.zeros(128, np.uint8)
        bits[:VOCAB_SIZE] = [self.allows(i, position) for i in range(VOCAB_SIZE)]
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id):
        if not self.allows(token_id, len(self.accepted)):
            raise RequestError(f"token {token_id} is against the rules")
        self.accepted.append(token_id)


def constrained(prompt, params, constraint=None, seed=None):
    sequence = make_sequence(prompt, params, seed)
    sequence.constraint = constraint or Classes()
    return sequence


def finish(engine, *sequences):
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert engine.scheduler.allocator.num_free == engine.cache.num_blocks
    return sequences[0]


@pytest.mark.parametrize("params", [GREEDY, DRAWN, PENALISED], ids=["greedy", "drawn", "penalised"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_batch_tokens": 6},
        {"num_blocks": 12},
        {"block_size": 1, "num_blocks": 200},
        {"max_batch_tokens": 1},
    ],
    ids=str,
)
def test_batching_never_changes_a_constrained_answer(params, changes):
    alone = [finish(make_engine(), constrained(prompt, params)).answer_ids for prompt in PROMPTS]
    free = run(make_engine(), PROMPTS, params)
    together = [constrained(prompt, params) for prompt in PROMPTS]
    beside = [make_sequence(prompt, params) for prompt in PROMPTS]

    finish(
        make_engine(**changes), *(s for pair in zip(together, beside, strict=True) for s in pair)
    )

    assert [sequence.answer_ids for sequence in together] == alone
    assert [sequence.answer_ids for sequence in beside] == free
    for sequence in together:
        assert sequence.constraint.accepted == sequence.answer_ids
        assert [token_id % 7 for token_id in sequence.answer_ids] == [k % 7 for k in range(12)]


@pytest.mark.parametrize("backend", FLOAT32_BACKENDS)
@pytest.mark.parametrize("params", [GREEDY, DRAWN, PENALISED], ids=["greedy", "drawn", "penalised"])
def test_every_device_draws_the_same_tokens_under_a_mask(backend, params):
    wanted = [finish(make_engine(), constrained(prompt, params)).answer_ids for prompt in PROMPTS]
    sequences = [constrained(prompt, params) for prompt in PROMPTS]

    finish(make_engine(make_ops(backend)), *sequences)

    assert [sequence.answer_ids for sequence in sequences] == wanted


def test_n_answers_have_a_constraint_each():
    sequences = [constrained([5], DRAWN, seed=seed) for seed in range(4)]

    finish(make_engine(), *sequences)

    assert len({tuple(sequence.answer_ids) for sequence in sequences}) > 1
    assert all(s.constraint.accepted == s.answer_ids for s in sequences)


def test_the_end_comes_exactly_where_it_is_allowed():
    wants_to_end = SamplingParams(temperature=0, max_tokens=12, logit_bias={EOS: 100.0})
    sequence = finish(make_engine(), constrained([5], wants_to_end, Classes(ends_at=4)))
    assert sequence.answer_ids.index(EOS) == 4
    assert (len(sequence.answer_ids), sequence.finish_reason) == (5, "stop")
    assert sequence.constraint.accepted == sequence.answer_ids[:4]


def test_min_tokens_puts_off_an_end_that_is_allowed():
    params = SamplingParams(temperature=0, max_tokens=9, min_tokens=6, logit_bias={EOS: 100.0})
    sequence = finish(make_engine(), constrained([5], params, Classes(ends_at=4)))
    assert EOS not in sequence.answer_ids
    assert sequence.finish_reason == "length"


class OnlyTheEnd(Classes):
    """Two tokens, then the end and nothing else."""

    def allows(self, token_id, position):
        return (token_id == EOS) == (position == 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_but_the_end_may_come_min_tokens_gives_way(temperature):
    params = SamplingParams(temperature=temperature, seed=1, max_tokens=9, min_tokens=6)
    sequence = finish(make_engine(), constrained([5], params, OnlyTheEnd(finishes_at=3)))
    assert sequence.answer_ids[2:] == [EOS]
    assert sequence.finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_allowed_token_wins_over_a_bias_that_bans_it(temperature):
    bias = {token_id: -float("inf") for token_id in range(VOCAB_SIZE)}
    params = SamplingParams(temperature=temperature, seed=1, max_tokens=8, logit_bias=bias)
    sequence = finish(make_engine(), constrained([5], params))
    assert [token_id % 7 for token_id in sequence.answer_ids] == [0, 1, 2, 3, 4, 5, 6, 0]
    assert EOS not in sequence.answer_ids


@pytest.mark.parametrize("max_tokens", [5, 9])
def test_a_complete_answer_has_stopped(max_tokens):
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    sequence = finish(make_engine(), constrained([5], params, Classes(finishes_at=5)))
    assert (len(sequence.answer_ids), sequence.finish_reason) == (5, "stop")


def test_logprobs_are_those_of_the_unmasked_logits():
    params = SamplingParams(temperature=0.7, max_tokens=6, seed=5, logprobs=3)
    sequence = finish(make_engine(), constrained(PROMPTS[1], params))
    logits = make_engine().score(make_sequence(sequence.token_ids, GREEDY)).astype(np.float64)
    for i, (token_id, entry) in enumerate(zip(sequence.answer_ids, sequence.logprobs, strict=True)):
        row = logits[len(PROMPTS[1]) - 1 + i]
        expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert entry[token_id].logprob == pytest.approx(expected[token_id], abs=1e-5)


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_constraint_that_cannot_go_on_ends_its_answer_alone(fails_at):
    (alone,) = run(make_engine(), [PROMPTS[1]], DRAWN)
    doomed = constrained(PROMPTS[2], DRAWN, Classes(fails_at=fails_at))
    kept, held = make_sequence(PROMPTS[1], DRAWN), constrained(PROMPTS[3], DRAWN)

    finish(make_engine(), doomed, kept, held)

    assert (doomed.finish_reason, doomed.failure) == ("error", "the rules ran out")
    assert len(doomed.answer_ids) == fails_at
    assert kept.answer_ids == alone
    assert held.answer_ids == finish(make_engine(), constrained(PROMPTS[3], DRAWN)).answer_ids


def test_a_token_that_the_constraint_does_not_take_ends_the_answer():
    class Forgetful(Classes):
        def accept(self, token_id):
            super().accept(token_id + 1 if len(self.accepted) == 3 else token_id)

    sequence = finish(make_engine(), constrained([5], GREEDY, Forgetful()))
    assert sequence.finish_reason == "error"
    assert "against the rules" in sequence.failure
