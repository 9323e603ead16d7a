"""Steps that run ahead of the host, captured or not: nobody can tell from the answers."""

from __future__ import annotations

import numpy as np
import pytest

from llama_cu import decode_loop
from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.decode_loop import batch_bucket, context_bucket
from llama_cu.decode_state import DecodeState
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_templates import overlaps
from llama_cu.sampling_params import SamplingParams
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler
from tests.tiny import make_engine, make_sequence, run, tiny_config

FLOAT32 = np.dtype(np.float32)
PROMPTS = [[5], [17, 3, 99, 4], list(range(1, 20)), [8, 8, 8], list(range(60, 93))]
GREEDY = SamplingParams(temperature=0, max_tokens=14)
DRAWN = SamplingParams(temperature=1.3, top_k=40, top_p=0.95, min_p=0.01, max_tokens=14, seed=7)
ENDLESS = SamplingParams(temperature=1.0, max_tokens=30, ignore_eos=True, seed=5)
PENALISED = SamplingParams(temperature=0.8, max_tokens=14, seed=3, repetition_penalty=1.3)
STRETCHED = tiny_config(
    max_position_embeddings=16, rope=RopeConfig(rope_type="dynamic", factor=8.0)
)
WINDOWED = tiny_config(sliding_windows=(7, None))
DEVICES = [
    "cpu_device",
    "lazy_cpu_device",
    "overlapping_cpu_device",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=DEVICES)
def ops(request):
    """CudaOps over devices that work at once, late, and on kernels that overlap; over a GPU."""
    return make_ops(request.param)


@pytest.fixture
def late_ops():
    return make_ops("lazy_cpu_device")


def make_ops(device):
    try:
        if device == "cuda":
            return get_ops("cuda", "float32")[0]
        find_compiler()
        if device == "overlapping_cpu_device":
            return CudaOps(CpuDevice(overlap=overlaps), FLOAT32)
        return CudaOps(CpuDevice(lazy=device == "lazy_cpu_device"), FLOAT32)
    except (BackendUnavailable, NoCompiler) as reason:
        pytest.skip(str(reason))


@pytest.fixture
def captures(monkeypatch, ops):
    """The graphs that the device has captured."""
    return watch_captures(monkeypatch, ops.device)


def watch_captures(monkeypatch, device):
    seen, capture = [], device.capture

    def watched(work):
        graph = capture(work)
        seen.append(graph)
        return graph

    monkeypatch.setattr(device, "capture", watched)
    return seen


def submit_all(engine, prompts, params):
    sequences = [make_sequence(prompt, params) for prompt in prompts]
    for sequence in sequences:
        engine.submit(sequence)
    return sequences


def finish(engine):
    while engine.has_work:
        engine.step()


def all_blocks_are_free(engine):
    return engine.scheduler.allocator.num_free == engine.cache.num_blocks


@pytest.mark.parametrize("config", [tiny_config(), WINDOWED, STRETCHED])
@pytest.mark.parametrize("params", [GREEDY, DRAWN])
def test_the_loop_gives_numpys_tokens(ops, captures, config, params):
    expected = run(make_engine(config=config), PROMPTS, params)
    engine = make_engine(ops, config)

    assert run(engine, PROMPTS, params) == expected
    assert len(captures) >= 1 and all_blocks_are_free(engine)


@pytest.mark.parametrize("params", [DRAWN, PENALISED])
@pytest.mark.parametrize(
    "changes",
    [
        {"num_blocks": 14},
        {"block_size": 1, "num_blocks": 200},
        {"block_size": 5, "max_num_seqs": 2},
        {"max_batch_tokens": 3},
        {"enforce_eager": True},
    ],
)
def test_nothing_around_it_changes_an_answer(late_ops, params, changes):
    alone = [run(make_engine(), [prompt], params)[0] for prompt in PROMPTS]
    engine = make_engine(late_ops, **changes)
    assert run(engine, PROMPTS, params) == alone
    assert all_blocks_are_free(engine)


def test_context_that_outgrows_a_graph_gets_another(monkeypatch, ops, captures):
    monkeypatch.setattr(decode_loop, "_LEAST_CONTEXT", 8)
    prompts = [[5], PROMPTS[1]]
    expected = run(make_engine(), prompts, ENDLESS)
    for block_size in (4, 3):  # of which one does not divide the context
        assert run(make_engine(ops, block_size=block_size), prompts, ENDLESS) == expected
    assert len(captures) >= 6  # contexts of 8, 16 and 32, twice


def test_a_second_request_of_the_same_shape_is_a_replay(ops, captures):
    engine = make_engine(ops)
    first = run(engine, [PROMPTS[1]], DRAWN)
    count = len(captures)
    launched = []
    kernel = ops.device.kernel
    ops.device.kernel = lambda *args: launched.append(args) or kernel(*args)

    assert run(engine, [PROMPTS[1]], DRAWN) == first
    assert len(captures) == count == 1
    # The prompt's step alone asks for kernels: one per launch, of which it has one embedding.
    assert [args[1] for args in launched].count("gather") <= 2
    del ops.device.kernel


def test_the_host_reads_one_step_behind(late_ops):
    engine = make_engine(late_ops)
    (sequence,) = submit_all(engine, [PROMPTS[1]], ENDLESS)
    engine.step()  # the prompt
    assert len(sequence.answer_ids) == 1

    engine.step()

    assert len(sequence.answer_ids) == 2 and engine._loop.active
    finish(engine)
    assert [sequence.answer_ids] == run(make_engine(), [PROMPTS[1]], ENDLESS)


def test_a_token_behind_the_end_leaves_no_trace(ops):
    # The fourth token of the answer, wherever it comes first, ends it: seen one step late.
    answer = run(make_engine(), [PROMPTS[2]], ENDLESS)[0]
    end = next(i for i, token in enumerate(answer) if token not in answer[:i] and i >= 3)
    params = SamplingParams(
        temperature=1.0, max_tokens=30, ignore_eos=True, seed=5, stop_token_ids=[answer[end]]
    )
    engine = make_engine(ops)

    (sequence,) = submit_all(engine, [PROMPTS[2]], params)
    finish(engine)

    assert sequence.answer_ids == answer[: end + 1] and sequence.finish_reason == "stop"
    assert all_blocks_are_free(engine)
    turns = [*PROMPTS[2], *sequence.answer_ids, 9, 10]
    assert run(engine, [turns], GREEDY) == run(make_engine(), [turns], GREEDY)


def test_sequences_come_and_go_while_others_run(ops):
    wanted = [run(make_engine(), [prompt], ENDLESS)[0] for prompt in PROMPTS]
    engine = make_engine(ops, num_blocks=40)
    waiting = [make_sequence(prompt, ENDLESS) for prompt in PROMPTS]
    gone = make_sequence([44, 45, 46], ENDLESS)
    engine.submit(gone)
    sequences = []
    for step in range(200):
        if step % 5 == 0 and waiting:
            sequences.append(waiting.pop(0))
            engine.submit(sequences[-1])
        if step == 8:
            engine.abort(gone)
        if not engine.has_work and not waiting:
            break
        engine.step()

    assert [sequence.answer_ids for sequence in sequences] == wanted
    assert gone.finish_reason == "abort" and 1 <= len(gone.answer_ids) <= 8
    assert all_blocks_are_free(engine)


def test_who_waits_is_admitted_at_once(ops):
    engine = make_engine(ops)
    submit_all(engine, [PROMPTS[0]], ENDLESS)
    for _ in range(5):
        engine.step()
    (late,) = submit_all(engine, [PROMPTS[1]], ENDLESS)
    for _ in range(2):  # what is in flight, then the prompt
        engine.step()
    assert len(late.answer_ids) == 1


def test_what_the_loop_computed_is_found_again(ops):
    engine = make_engine(ops, block_size=4)
    answer = run(engine, [PROMPTS[1]], ENDLESS)[0]
    (sequence,) = submit_all(engine, [[*PROMPTS[1], *answer, 9, 10]], GREEDY)
    finish(engine)
    assert sequence.num_cached_tokens == (len(PROMPTS[1]) + len(answer) - 1) // 4 * 4


def test_a_row_that_ended_writes_nothing_more(ops):
    # The first answer ends where a block does. Were its row still computed, its next token would
    # go to block 0, for a while in which no other sequence needs a block.
    params = SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True, seed=5)
    short = SamplingParams(temperature=1.0, max_tokens=3, ignore_eos=True, seed=5)
    prompts = [[3, 4], [5, 6], [7, 8], [9, 10], [11, 12], list(range(20, 33))]
    sequences = [make_sequence(prompt, params) for prompt in prompts[:5]]
    sequences.append(make_sequence(prompts[5], short))
    engine = make_engine(ops, block_size=16)
    for sequence in sequences:
        engine.submit(sequence)
    finish(engine)

    for sequence in sequences:
        prompt = sequence.token_ids[: sequence.prompt_len]
        assert [sequence.answer_ids] == run(make_engine(), [prompt], sequence.params)


def test_no_step_is_queued_behind_an_end_that_is_known(monkeypatch, ops):
    copies, copy_out = [], ops.device.copy_out
    monkeypatch.setattr(
        ops.device, "copy_out", lambda *args: copies.append(args) or copy_out(*args)
    )
    run(make_engine(ops), [PROMPTS[1]], ENDLESS)
    assert len(copies) == ENDLESS.max_tokens - 1  # the prompt's step drew the first token


def test_answers_of_many_lengths_shrink_the_batch(ops, captures):
    params = [
        SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
        for length in (3, 20, 4, 6, 9, 2, 12, 5, 7)
    ]
    prompts = [[5, 6, index] for index in range(len(params))]
    sequences = [make_sequence(p, q) for p, q in zip(prompts, params, strict=True)]
    engine = make_engine(ops)
    for sequence in sequences:
        engine.submit(sequence)
    finish(engine)

    for prompt, param, sequence in zip(prompts, params, sequences, strict=True):
        assert [sequence.answer_ids] == run(make_engine(), [prompt], param)
        assert sequence.finish_reason == "length"
    assert engine._loop._shape.num_rows == 1


def test_logprobs_and_edits_are_of_a_captured_step_too(ops, captures):
    params = SamplingParams(
        temperature=0.8, max_tokens=8, seed=3, repetition_penalty=1.3, logprobs=2, min_tokens=8
    )
    expected = submit_all(numpy_engine := make_engine(), PROMPTS[:2], params)
    finish(numpy_engine)
    sequences = submit_all(engine := make_engine(ops), PROMPTS[:2], params)
    finish(engine)

    assert len(captures) == 1
    for sequence, want in zip(sequences, expected, strict=True):
        assert sequence.answer_ids == want.answer_ids
        for got, entry in zip(sequence.logprobs, want.logprobs, strict=True):
            assert got.keys() == entry.keys()
            for token in entry:
                assert got[token].logprob == pytest.approx(entry[token].logprob, abs=1e-4)


def test_a_graph_that_cannot_be_captured_costs_one_warning_and_no_answer(monkeypatch, ops):
    attempts = []

    def refuse(work):
        attempts.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(ops.device, "capture", refuse)
    expected = run(make_engine(), PROMPTS, DRAWN)
    engine = make_engine(ops)

    with pytest.warns(RuntimeWarning, match="one by one, a CUDA graph failed: operation not"):
        assert run(engine, PROMPTS, DRAWN) == expected
    assert run(engine, PROMPTS, GREEDY) == run(make_engine(), PROMPTS, GREEDY)
    assert len(attempts) == 1


def test_a_graph_without_memory_costs_its_shape_alone(monkeypatch, ops):
    capture, attempts = ops.device.capture, []

    def scarce(work):
        attempts.append(work)
        if len(attempts) == 1:
            raise MemoryError("out of memory")
        return capture(work)

    monkeypatch.setattr(ops.device, "capture", scarce)
    engine = make_engine(ops)
    with pytest.warns(RuntimeWarning, match=r"of \d rows and 256 tokens .*: out of memory") as told:
        for params in (DRAWN, GREEDY, DRAWN):
            assert run(engine, PROMPTS, params) == run(make_engine(), PROMPTS, params)
    assert len(told) == 1 and len(attempts) > 1
    assert len(engine._loop._graphs) == len(attempts) - 1


def test_a_graph_keeps_logits_only_where_the_host_looks_at_them(ops):
    engine = make_engine(ops)
    for params in (DRAWN, GREEDY):
        run(engine, PROMPTS, params)
    kept = {shape.draw: logits for shape, (_, logits) in engine._loop._graphs.items()}
    assert kept == {"sampled": None, "greedy": None}


def test_a_step_that_raises_ends_its_sequences_alone(monkeypatch, ops):
    engine = make_engine(ops)
    sequences = submit_all(engine, PROMPTS[:2], ENDLESS)
    for _ in range(4):
        engine.step()
    record = ops.device.record

    def lost():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(ops.device, "record", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        engine.step()
    monkeypatch.setattr(ops.device, "record", record)

    assert [sequence.finish_reason for sequence in sequences] == ["error", "error"]
    assert not engine.has_work and all_blocks_are_free(engine) and not engine._loop.active
    assert run(engine, PROMPTS, DRAWN) == run(make_engine(), PROMPTS, DRAWN)


def test_what_is_sent_does_not_change_on_the_way(late_ops):
    device = late_ops.device
    state = DecodeState(device, 4, 3)
    seen = [device.pinned((4,), np.dtype(np.int32)) for _ in range(5)]
    for value, host in enumerate(seen):
        state.host.lengths[:] = value
        state.send()
        device.copy_out(state.on_device.lengths, host)
    device.synchronize()
    assert np.array(seen).tolist() == [[value] * 4 for value in range(5)]


@pytest.mark.parametrize(
    ("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (64, 64), (65, 72)]
)
def test_batches_are_padded_to_few_sizes(num_rows, bucket):
    assert batch_bucket(num_rows) == bucket


@pytest.mark.parametrize(("tokens", "context"), [(1, 256), (256, 256), (257, 512), (9000, 16384)])
def test_contexts_are_rounded_to_few_sizes(tokens, context):
    assert context_bucket(tokens) == context
