"""Engine: batching never changes the answer, and a failing request fails alone."""

import numpy as np
import pytest

from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.errors import RequestError
from llama_cu.sampling_params import SamplingParams
from tests.tiny import make_engine, make_sequence, run, tiny_config

PROMPTS = [[5], [17, 3, 99, 4], list(range(1, 20)), [8, 8, 8], list(range(60, 93))]
GREEDY = SamplingParams(temperature=0, max_tokens=12)
DRAWN = SamplingParams(temperature=1.0, top_p=0.9, max_tokens=12, seed=7)
PENALISED = SamplingParams(
    temperature=0.8,
    top_k=20,
    min_p=0.01,
    max_tokens=12,
    seed=3,
    repetition_penalty=1.3,
    presence_penalty=0.4,
    frequency_penalty=0.2,
    logit_bias={7: 2.0, 50: -100.0},
)
WINDOWED = tiny_config(sliding_windows=(7, None))
STRETCHED = tiny_config(
    max_position_embeddings=16, rope=RopeConfig(rope_type="dynamic", factor=8.0)
)


@pytest.mark.parametrize("config", [tiny_config(), WINDOWED, STRETCHED])
@pytest.mark.parametrize("params", [GREEDY, DRAWN, PENALISED])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_batch_tokens": 6},
        {"num_blocks": 12},
        {"block_size": 1, "num_blocks": 200},
        {"block_size": 5, "max_num_seqs": 2},
        {"max_batch_tokens": 1},
    ],
)
def test_batching_never_changes_the_answer(config, params, changes):
    alone = [run(make_engine(config=config), [prompt], params)[0] for prompt in PROMPTS]
    assert run(make_engine(config=config, **changes), PROMPTS, params) == alone


@pytest.mark.parametrize("config", [tiny_config(), STRETCHED])
def test_a_reused_prefix_never_changes_the_answer(config):
    engine = make_engine(config=config)
    first = run(engine, [PROMPTS[4]], GREEDY)[0]
    turns = PROMPTS[4] + first + [9, 10, 11]
    sequence = make_sequence(turns, DRAWN)
    engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert sequence.answer_ids == run(make_engine(config=config), [turns], DRAWN)[0]
    reused = 0 if config is STRETCHED else 44
    assert sequence.num_cached_tokens == reused


def test_a_seed_decides_the_answer_and_another_seed_changes_it():
    engine = make_engine()
    params = SamplingParams(max_tokens=20, seed=1)
    assert run(engine, [[5, 6]], params) == run(engine, [[5, 6]], params)
    assert run(engine, [[5, 6]], SamplingParams(max_tokens=20, seed=2)) != run(
        engine, [[5, 6]], params
    )


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_scores_are_the_logits_that_decoding_sees(chunk):
    engine = make_engine(max_batch_tokens=chunk)
    prompt = PROMPTS[2]
    answer = run(engine, [prompt], GREEDY)[0]
    whole = make_sequence(prompt + answer, GREEDY)
    logits = engine.score(whole)
    assert logits.shape == (len(whole), 101) and logits.dtype == np.float32
    assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == answer
    assert engine.scheduler.allocator.num_free == engine.cache.num_blocks


def test_a_request_that_can_never_fit_is_refused_at_submit():
    engine = make_engine(num_blocks=3, block_size=4)
    with pytest.raises(RequestError, match="12 tokens, but at most 11 fit"):
        engine.submit(make_sequence(range(1, 13), GREEDY))
    assert not engine.has_work


def test_an_answer_ends_with_length_when_the_cache_is_full():
    engine = make_engine(num_blocks=3, block_size=4)
    sequence = make_sequence(
        [1, 2, 3], SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    )
    engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert (len(sequence), sequence.finish_reason) == (12, "length")


def test_an_abort_frees_the_blocks_and_leaves_the_others_alone():
    engine = make_engine()
    alone = run(make_engine(), [PROMPTS[1]], GREEDY)[0]
    doomed, kept = make_sequence(PROMPTS[2], GREEDY), make_sequence(PROMPTS[1], GREEDY)
    engine.submit(doomed)
    engine.submit(kept)
    engine.step()
    engine.abort(doomed)
    while engine.has_work:
        engine.step()
    assert doomed.finish_reason == "abort"
    assert kept.answer_ids == alone
    assert engine.scheduler.allocator.num_free == engine.cache.num_blocks


def test_a_vanishing_temperature_is_greedy_beside_drawn_rows_too():
    cold = make_sequence(PROMPTS[1], SamplingParams(temperature=1e-38, max_tokens=8))
    warm = make_sequence(PROMPTS[2], SamplingParams(temperature=1.0, max_tokens=8))
    engine = make_engine()
    engine.submit(cold)
    engine.submit(warm)
    while engine.has_work:
        engine.step()
    greedy = SamplingParams(temperature=0, max_tokens=8)
    assert cold.answer_ids == run(make_engine(), [PROMPTS[1]], greedy)[0]


def test_eos_ends_an_answer_unless_ignored_or_too_early():
    engine = make_engine()
    forced = {0: 100.0}
    ended = run(engine, [[5]], SamplingParams(temperature=0, max_tokens=9, logit_bias=forced))[0]
    ignoring = SamplingParams(temperature=0, max_tokens=9, logit_bias=forced, ignore_eos=True)
    late = SamplingParams(temperature=0, max_tokens=9, logit_bias=forced, min_tokens=4)
    assert ended == [0]
    assert run(engine, [[5]], ignoring)[0] == [0] * 9
    answer = run(engine, [[5]], late)[0]
    assert len(answer) == 5 and 0 not in answer[:4] and answer[4] == 0


@pytest.mark.parametrize("changes", [{}, {"max_batch_tokens": 7}, {"num_blocks": 9}])
def test_prompt_logprobs_are_those_of_the_prompts_logits(changes):
    engine = make_engine(block_size=4, **changes)
    params = SamplingParams(temperature=0, max_tokens=9, prompt_logprobs=2)
    plain = SamplingParams(temperature=0, max_tokens=9)
    prompts = [list(range(5, 20)), [7], [3, 1, 4, 1, 5], list(range(5, 20))]
    sequences = [make_sequence(p, params if i != 2 else plain) for i, p in enumerate(prompts)]
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert [s.answer_ids for s in sequences] == run(make_engine(), prompts, plain)
    assert sequences[2].prompt_logprobs == []
    for sequence in (sequences[0], sequences[1], sequences[3]):
        prompt = sequence.token_ids[: sequence.prompt_len]
        logits = engine.score(make_sequence(prompt, GREEDY)).astype(np.float64)
        expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        assert len(sequence.prompt_logprobs) == len(prompt) - 1
        for row, token_id, entry in zip(
            expected[:-1], prompt[1:], sequence.prompt_logprobs, strict=True
        ):
            assert entry[token_id].logprob == pytest.approx(row[token_id], abs=1e-5)
            ranked = sorted((i for i in entry if entry[i].rank), key=lambda i: entry[i].rank)
            assert ranked == np.argsort(-row)[:2].tolist()


def test_a_cached_prefix_does_not_hide_prompt_logprobs():
    engine = make_engine(block_size=4)
    prompt = list(range(5, 20))
    run(engine, [prompt], GREEDY)
    sequence = make_sequence(prompt, SamplingParams(max_tokens=1, prompt_logprobs=0))
    engine.submit(sequence)
    while engine.has_work:
        engine.step()
    assert [list(entry) for entry in sequence.prompt_logprobs] == [[i] for i in prompt[1:]]
    assert sequence.num_cached_tokens == 0


def test_logprobs_are_those_of_the_unedited_logits():
    engine = make_engine()
    params = SamplingParams(temperature=0.7, max_tokens=6, seed=5, logprobs=3, logit_bias={9: 4.0})
    sequence = make_sequence(PROMPTS[1], params)
    engine.submit(sequence)
    while engine.has_work:
        engine.step()
    logits = engine.score(make_sequence(sequence.token_ids, GREEDY)).astype(np.float64)
    for i, (token_id, entry) in enumerate(zip(sequence.answer_ids, sequence.logprobs, strict=True)):
        row = logits[len(PROMPTS[1]) - 1 + i]
        expected = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert entry[token_id].logprob == pytest.approx(expected[token_id], abs=1e-5)
        ranked = sorted(entry.items(), key=lambda item: item[1].rank or 99)[:3]
        assert [token for token, _ in ranked] == np.argsort(-expected)[:3].tolist()
        assert [value.rank for _, value in ranked] == [1, 2, 3]
