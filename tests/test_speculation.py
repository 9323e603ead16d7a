"""Guesses change how fast an answer comes, and nothing else about it."""

from __future__ import annotations

import random

import pytest

from llama_cu.engine import Engine
from llama_cu.llm import LLM
from llama_cu.sampling_params import SamplingParams
from llama_cu.scheduler import Slice
from llama_cu.speculation import NgramDrafter
from tests.backends import make_cpu_ops
from tests.tiny import make_engine, make_sequence, run, tiny_config

PROMPTS = [[5, 9, 5, 9, 5], [17, 3, 99, 4], list(range(1, 38))]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.9, top_k=30, top_p=0.9, max_tokens=24, seed=4)


class Prophet:
    """Knows the answer, and tells the truth for some tokens of each guess."""

    def __init__(self, prompt, answer, *, seed, truth=0.7):
        self.tokens = [*prompt, *answer]
        self.rng, self.truth = random.Random(seed), truth
        self.judged = []

    def propose(self, token_ids, most):
        assert token_ids == self.tokens[: len(token_ids)]
        coming = self.tokens[len(token_ids) :][: min(most, 6)]
        wrong = [self.rng.random() > self.truth for _ in coming]
        return [token ^ 1 if lie else token for token, lie in zip(coming, wrong, strict=True)]

    def judge(self, num_drafted, num_accepted):
        assert 0 <= num_accepted <= num_drafted
        self.judged.append((num_drafted, num_accepted))


def guessing(prompts, answers, params, **options):
    sequences = [make_sequence(prompt, params) for prompt in prompts]
    for seed, (sequence, answer) in enumerate(zip(sequences, answers, strict=True)):
        sequence.drafter = Prophet(sequence.token_ids, answer, seed=seed, **options)
    return sequences


def finish(engine: Engine, sequences):
    """The answers, and in how many steps they came."""
    for sequence in sequences:
        engine.submit(sequence)
    num_steps = 0
    while engine.has_work:
        engine.step()
        num_steps += 1
    return [sequence.answer_ids for sequence in sequences], num_steps


def test_what_followed_before_is_guessed_to_follow_again():
    drafter = NgramDrafter()

    assert drafter.propose([1, 2, 3, 4, 5, 6, 7, 2, 3], 9) == [4, 5, 6, 7, 2, 3]
    assert drafter.propose([1, 2, 3, 4, 5, 6, 7, 2, 3], 2) == [4, 5]
    assert NgramDrafter().propose([1, 2, 3, 4, 5, 6], 9) == []
    assert NgramDrafter().propose([8], 9) == []


def test_more_of_the_past_is_believed_before_less_and_the_latest_first():
    assert NgramDrafter().propose([1, 2, 3, 10, 9, 2, 3, 11, 1, 2, 3], 1) == [10]
    assert NgramDrafter().propose([2, 3, 10, 2, 3, 11, 2, 3], 1) == [11]


def test_the_past_grows_with_the_answer():
    drafter, tokens = NgramDrafter(), [4, 5, 6]
    assert drafter.propose(tokens, 4) == []
    tokens += [7, 4, 5]
    assert drafter.propose(tokens, 4) == [6, 7, 4, 5]


def test_after_a_wrong_guess_there_is_none_for_a_while_and_longer_each_time():
    drafter, past = NgramDrafter(), [*range(40), 0, 1, 2]

    def tokens_until_next_guess():
        return next(n for n in range(99) if drafter.propose(past, 7))

    assert tokens_until_next_guess() == 0
    drafter.judge(7, 0)
    assert tokens_until_next_guess() == 2
    drafter.judge(7, 0)
    assert tokens_until_next_guess() == 4
    drafter.judge(7, 1)
    assert tokens_until_next_guess() == 0
    drafter.judge(7, 0)
    assert tokens_until_next_guess() == 2
    for _ in range(9):
        drafter.judge(7, 0)
    assert tokens_until_next_guess() == 32
    assert (drafter.num_drafted, drafter.num_accepted) == (7 * 13, 1)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("changes", [{}, {"num_blocks": 26}, {"max_batch_tokens": 9}], ids=str)
def test_half_true_guesses_change_no_answer(params, changes):
    expected = run(make_engine(), PROMPTS, params)
    _, plain_steps = finish(make_engine(**changes), [make_sequence(p, params) for p in PROMPTS])

    engine = make_engine(**changes)
    sequences = guessing(PROMPTS, expected, params)
    answers, steps = finish(engine, sequences)

    assert answers == expected
    assert steps < plain_steps
    judged = [pair for sequence in sequences for pair in sequence.drafter.judged]
    assert any(accepted == drafted for drafted, accepted in judged)
    assert any(accepted < drafted for drafted, accepted in judged)
    assert engine.scheduler.allocator.num_free == engine.cache.num_blocks


def test_a_step_checks_no_more_than_pays():
    expected = run(make_engine(), PROMPTS, GREEDY)
    engine = make_engine()
    rows = []
    forward = engine._forward

    def counted(slices, **options):
        hidden, batch = forward(slices, **options)
        rows.append(batch.num_tokens)
        return hidden, batch

    engine._forward = counted
    finish(engine, guessing(PROMPTS, expected, GREEDY, truth=1.0))

    assert rows[0] == sum(map(len, PROMPTS))
    assert max(rows[1:]) == 8


def test_right_guesses_are_all_taken_in_one_step():
    expected = run(make_engine(), [PROMPTS[1]], GREEDY)
    sequences = guessing([PROMPTS[1]], expected, GREEDY, truth=1.0)

    answers, steps = finish(make_engine(), sequences)

    assert answers == expected
    # One token comes from the prefill, then seven from each step: a drawn one behind six guesses.
    assert steps == 1 + -(-23 // 7)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("enforce_eager", [False, True], ids=["graphs", "eager"])
def test_on_the_kernels_a_guess_is_checked_by_the_bits_of_a_step_of_its_own(
    params, dtype, enforce_eager
):
    ops = make_cpu_ops(dtype, lazy=True)
    config = tiny_config(sliding_windows=(9, None))
    options = {"enforce_eager": enforce_eager, "max_num_seqs": 3}
    expected = run(make_engine(ops, config, **options), PROMPTS, params)

    engine = make_engine(ops, config, **options)
    sequences = guessing(PROMPTS, expected, params)
    answers, _ = finish(engine, sequences)

    assert answers == expected
    assert sum(accepted for s in sequences for _, accepted in s.drafter.judged) > 10


def test_logits_of_a_draft_are_those_of_its_own_step_bit_for_bit():
    ops = make_cpu_ops("bfloat16")
    tokens = [5, 9, 5, 9, 5, 70, 8, 12]
    alone, together = [], []
    for drafts, found in ((0, alone), (4, together)):
        engine = make_engine(ops, max_num_seqs=1)
        sequence = make_sequence(tokens[:4], SamplingParams(temperature=0))
        sequence.block_table = [engine.scheduler.allocator.allocate() for _ in range(4)]
        engine._forward([Slice(sequence, 3)])
        sequence.num_computed = 3
        for last in range(4, len(tokens) + 1):
            sequence.token_ids[:] = tokens[:last]
            piece = Slice(sequence, 1, tuple(tokens[last : last + drafts]))
            logits = engine._chunk_logits([piece])
            found.append(ops.download(logits))
            sequence.num_computed = last
    for i, row in enumerate(alone):
        assert (row[0] == together[i][0]).all()
    for i, row in enumerate(alone[:5]):
        assert (row[0] == together[0][i]).all()


def test_an_answer_ends_inside_a_guess_where_it_would_end_without():
    (whole,) = run(make_engine(), [PROMPTS[1]], GREEDY)
    stop = next(t for i, t in enumerate(whole) if i > 4 and t not in whole[:i])
    for params in (
        SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, stop_token_ids=[stop]),
        SamplingParams(temperature=0, max_tokens=9, ignore_eos=True),
        SamplingParams(temperature=0, max_tokens=1, ignore_eos=True),
    ):
        plain, guessed = make_sequence(PROMPTS[1], params), *guessing([PROMPTS[1]], [whole], params)
        finish(make_engine(), [plain])
        guessed.drafter.truth = 1.0
        engine = make_engine()
        finish(engine, [guessed])
        assert (guessed.answer_ids, guessed.finish_reason) == (
            plain.answer_ids,
            plain.finish_reason,
        )
        assert engine.scheduler.allocator.num_free == engine.cache.num_blocks


def test_wrong_guesses_leave_nothing_in_the_cache_that_others_find():
    (answer,) = run(make_engine(), [PROMPTS[2]], GREEDY)
    engine = make_engine()
    (liar,) = guessing([PROMPTS[2]], [answer], GREEDY, truth=0.5)
    finish(engine, [liar])

    follow_up = [*PROMPTS[2], *answer, 11]
    follower = make_sequence(follow_up, GREEDY)
    answers, _ = finish(engine, [follower])

    assert follower.num_cached_tokens > len(PROMPTS[2])
    assert answers == run(make_engine(), [follow_up], GREEDY)


@pytest.mark.parametrize(
    "changes", [{"presence_penalty": 0.5}, {"logprobs": 2}, {"min_tokens": 3}], ids=str
)
def test_where_the_host_looks_at_each_token_nothing_is_guessed(changes):
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, **changes)
    expected = run(make_engine(), [PROMPTS[0]], params)
    (sequence,) = guessing([PROMPTS[0]], expected, params)

    answers, _ = finish(make_engine(), [sequence])

    assert answers == expected
    assert sequence.drafter.judged == []


def test_where_blocks_run_out_nothing_is_guessed():
    (answer,) = run(make_engine(), [PROMPTS[1]], GREEDY)
    engine = make_engine(num_blocks=7)  # 28 tokens, which is prompt and answer
    (sequence,) = guessing([PROMPTS[1]], [answer], GREEDY, truth=1.0)

    answers, _ = finish(engine, [sequence])

    assert answers == [answer]


def test_the_library_guesses_where_it_is_asked_to(monkeypatch):
    params = SamplingParams(temperature=0, max_tokens=60)
    prompt = "Tom had a red ball. Tom had a red ball. Tom had a red"
    plain, guessing = (LLM("models/story", device="cpu", speculate=s) for s in (None, "ngram"))
    steps = {}
    for llm in (plain, guessing):
        step = llm.engine.step
        counted = steps.setdefault(llm, [])
        monkeypatch.setattr(llm.engine, "step", lambda s=step, c=counted: c.append(1) or s())

    answers = [llm.generate([prompt], params)[0].token_ids for llm in (plain, guessing)]

    assert answers[0] == answers[1]
    assert len(steps[guessing]) < len(steps[plain])


def test_another_way_to_guess_is_refused_by_name():
    with pytest.raises(ValueError, match="speculate must be 'ngram' or None, got 'eagle'"):
        LLM("models/story", device="cpu", speculate="eagle")
