"""Scheduler: budgets, fairness, preemption, reuse. No arrays at all."""

from llama_cu.kv_cache import BlockAllocator
from llama_cu.sampling_params import SamplingParams
from llama_cu.scheduler import Scheduler
from llama_cu.sequence import Sequence
from llama_cu.stopping import StopStrings


def make_sequence(prompt, max_tokens=4):
    return Sequence(
        token_ids=list(prompt),
        prompt_len=len(prompt),
        params=SamplingParams(max_tokens=max_tokens),
        seed=0,
        eos_token_ids=frozenset(),
        max_len=1000,
        decoder=None,
        stops=StopStrings(()),
    )


def make_scheduler(num_blocks=100, block_size=4, max_batch_tokens=64, max_num_seqs=8):
    allocator = BlockAllocator(num_blocks, block_size)
    return Scheduler(allocator, max_batch_tokens=max_batch_tokens, max_num_seqs=max_num_seqs)


def run_step(scheduler, token_id=7):
    slices = scheduler.schedule()
    drawing = [piece.sequence for piece in slices if piece.completes]
    for piece in slices:
        scheduler.computed(piece)
    for sequence in drawing:
        sequence.append(token_id)
        if sequence.finished:
            scheduler.remove(sequence)
    return [(piece.sequence, piece.num_tokens) for piece in slices]


def test_a_long_prompt_is_computed_in_chunks_beside_running_sequences():
    scheduler = make_scheduler(max_batch_tokens=5)
    short, long = make_sequence([1, 2]), make_sequence(range(12))
    scheduler.add(short)
    assert run_step(scheduler) == [(short, 2)]
    scheduler.add(long)
    assert run_step(scheduler) == [(short, 1), (long, 4)]
    assert run_step(scheduler) == [(short, 1), (long, 4)]
    assert run_step(scheduler) == [(short, 1), (long, 4)]
    assert short.finished and long.num_generated == 1


def test_at_most_max_num_seqs_run_and_the_queue_is_first_come_first_served():
    scheduler = make_scheduler(max_num_seqs=2)
    sequences = [make_sequence([i], max_tokens=2) for i in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert [s for s, _ in run_step(scheduler)] == sequences[:2]
    assert [s for s, _ in run_step(scheduler)] == sequences[:2]
    assert [s for s, _ in run_step(scheduler)] == sequences[2:]


def test_when_blocks_run_out_the_youngest_gives_way_and_finishes_later():
    scheduler = make_scheduler(num_blocks=3, block_size=2)
    old, young = make_sequence([1, 2], max_tokens=4), make_sequence([3, 4], max_tokens=4)
    scheduler.add(old)
    scheduler.add(young)
    run_step(scheduler)
    assert [s for s, _ in run_step(scheduler)] == [old]
    assert young.block_table == [] and young.num_computed == 0
    for _ in range(20):
        if not scheduler.has_work:
            break
        run_step(scheduler)
    assert old.finished and young.finished
    assert len(old) == len(young) == 6
    assert scheduler.allocator.num_free == 3


def test_a_second_turn_computes_only_what_is_new():
    scheduler = make_scheduler(block_size=2)
    first = make_sequence([1, 2, 3, 4], max_tokens=3)
    scheduler.add(first)
    while scheduler.has_work:
        run_step(scheduler)
    second = make_sequence([*first.token_ids, 8, 9])
    scheduler.add(second)
    assert run_step(scheduler) == [(second, 3)]
    assert second.num_cached_tokens == 6


def test_a_removed_sequence_returns_its_blocks_wherever_it_was():
    scheduler = make_scheduler(max_num_seqs=1)
    running, waiting = make_sequence([1, 2, 3]), make_sequence([4])
    scheduler.add(running)
    scheduler.add(waiting)
    run_step(scheduler)
    scheduler.remove(waiting)
    scheduler.remove(running)
    assert not scheduler.has_work
    assert scheduler.allocator.num_free == 100
