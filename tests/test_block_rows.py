"""RowAllocator: a sequence's blocks follow each other, and nothing else is different."""

import itertools
import random

import numpy as np
import pytest

from llama_cu.block_rows import RowAllocator, _highest
from llama_cu.scheduler import Scheduler
from tests.test_kv_cache import fill
from tests.test_scheduler import make_sequence, run_step


def make_allocator(num_blocks=32, block_size=2):
    return RowAllocator(num_blocks, block_size)


def grown(allocator, num_blocks, *, room):
    table = []
    allocator.extend(table, num_blocks, room)
    return table


def in_a_row(table):
    return table == list(range(table[0], table[0] + len(table)))


def cached(allocator, token_ids):
    """The blocks of a prompt that is done with, and can be found."""
    table = fill(allocator, token_ids)
    allocator.release(table)
    return table


def test_sequences_that_grow_in_turns_have_rows_of_their_own():
    allocator = make_allocator()
    tables = [grown(allocator, 2, room=8) for _ in range(4)]
    for grown_by in range(6):
        for table in tables:
            allocator.extend(table, 1, 6 - grown_by)
    assert sorted(itertools.chain(*tables)) == list(range(32))
    assert all(map(in_a_row, tables))


def test_room_that_is_held_is_handed_out_when_no_other_is_left():
    allocator = make_allocator(num_blocks=8)
    first = grown(allocator, 1, room=8)
    second = grown(allocator, 7, room=7)
    assert allocator.num_free == 0
    assert sorted(first + second) == list(range(8))
    with pytest.raises(IndexError, match="1 KV-cache blocks wanted, 0 free"):
        allocator.extend(first, 1, 7)


def test_a_sequence_that_lost_its_room_gets_on_elsewhere():
    allocator = make_allocator(num_blocks=8)
    first = grown(allocator, 1, room=8)
    second = grown(allocator, 3, room=3)
    allocator.extend(first, 4, 7)
    assert sorted(first + second) == list(range(8))


def test_room_is_smaller_where_there_is_not_so_much_and_more_is_found_later():
    allocator = make_allocator(num_blocks=12)
    first = grown(allocator, 1, room=8)
    second = grown(allocator, 1, room=8)
    allocator.extend(second, 3, 7)
    assert first == [0] and second == [8, 9, 10, 11]
    allocator.release(first)
    allocator.extend(second, 2, 4)
    assert second == [8, 9, 10, 11, 0, 1]


def test_who_needs_more_than_was_held_goes_on_where_nothing_is_kept():
    allocator = make_allocator()
    table = grown(allocator, 2, room=2)
    allocator.extend(table, 3, 3)
    assert table == [0, 1, 2, 3, 4]


def test_who_needs_more_than_was_held_does_not_go_into_the_room_of_others():
    allocator = make_allocator()
    first, second = grown(allocator, 2, room=2), grown(allocator, 1, room=4)
    assert second == [2]
    allocator.release(first)
    first = grown(allocator, 2, room=2)
    allocator.extend(first, 1, 6)
    assert first == [0, 1, 6]
    third = grown(allocator, 1, room=2)
    allocator.release(second)
    assert third[0] not in range(2, 6)


def test_room_lies_where_what_is_cached_was_unused_the_longest():
    allocator = make_allocator(num_blocks=8)
    old, new = list(range(9)), list(range(20, 29))  # 4 full blocks and a part of another
    oldest, newest = cached(allocator, old[:8]), cached(allocator, new[:8])
    assert oldest == [0, 1, 2, 3] and newest == [4, 5, 6, 7]
    allocator.claim(allocator.find(old, 0))
    allocator.release(oldest)  # now it is the one that was used last
    table = grown(allocator, 2, room=4)
    assert table == [4, 5]
    assert allocator.find(old, 0) == oldest


def test_what_is_cached_in_room_that_is_held_can_be_found_until_it_is_used():
    allocator = make_allocator(num_blocks=8)
    table = cached(allocator, list(range(16)))
    first = grown(allocator, 1, room=4)
    assert first == table[4:5]  # 0 to 3 were released last
    assert allocator.find([*range(16), 0], 0) == table[:4]
    second = grown(allocator, 1, room=2)
    assert second == table[2:3]


def test_a_second_turn_goes_on_behind_the_first():
    scheduler = Scheduler(make_allocator(num_blocks=320), max_batch_tokens=64, max_num_seqs=8)
    first = make_sequence([1, 2, 3, 4], max_tokens=3)
    scheduler.add(first)
    while scheduler.has_work:
        run_step(scheduler)
    second = make_sequence([*first.token_ids, 8, 9], max_tokens=20)
    scheduler.add(second)
    while scheduler.has_work:
        table = list(second.block_table)
        run_step(scheduler)
    assert second.num_cached_tokens == 6
    assert in_a_row(table) and len(table) == 14


def test_many_sequences_that_come_and_go_lie_in_rows():
    """With a cache that is full of old ones, and answers that may be longer than they become."""
    rng = random.Random(5)
    scheduler = Scheduler(make_allocator(num_blocks=256), max_batch_tokens=64, max_num_seqs=8)
    looked_at = 0
    for step in range(2000):
        if len(scheduler.running) + len(scheduler.waiting) < 8:
            prompt = [rng.randrange(1000) for _ in range(rng.randrange(1, 12))]
            scheduler.add(make_sequence(prompt, max_tokens=rng.randrange(1, 21)))
        run_step(scheduler, token_id=step)
        for sequence in scheduler.running:
            assert in_a_row(sequence.block_table)
            looked_at += 1
    assert looked_at > 10_000
    assert len(scheduler.allocator._cached) > 150  # of 256: the cache is in use


def test_every_block_has_one_owner_and_comes_back_whatever_happens():
    rng = random.Random(7)
    for _ in range(30):
        allocator = make_allocator(num_blocks=rng.randrange(1, 24))
        scheduler = Scheduler(allocator, max_batch_tokens=16, max_num_seqs=6)
        alive = []
        for step in range(150):
            if rng.random() < 0.4:
                prompt = [rng.randrange(3) for _ in range(rng.randrange(1, 10))]
                most = 2 * allocator.num_blocks - len(prompt)
                if most > 0:
                    alive.append(make_sequence(prompt, max_tokens=rng.randrange(1, most + 1)))
                    scheduler.add(alive[-1])
            if alive and rng.random() < 0.1:
                sequence = alive.pop(rng.randrange(len(alive)))
                if not sequence.finished:
                    scheduler.remove(sequence)
            run_step(scheduler, token_id=step % 3)
            users = [0] * allocator.num_blocks
            for sequence in scheduler.running:
                assert len(set(sequence.block_table)) == len(sequence.block_table)
                for block_id in sequence.block_table:
                    users[block_id] += 1
            assert users == [block.num_users for block in allocator._blocks]
            assert set(allocator._free) == {i for i, count in enumerate(users) if count == 0}
            ends = {sequence.block_table[-1] for sequence in scheduler.running}
            assert set(allocator._ends) <= ends
        for sequence in [*scheduler.running, *scheduler.waiting]:
            scheduler.remove(sequence)
        assert allocator.num_free == allocator.num_blocks
        assert not allocator._ends


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 15, 31, 32])
def test_the_highest_of_some_neighbours(size):
    ranks = np.random.default_rng(1).permutation(32)
    want = [max(ranks[first : first + size]) for first in range(33 - size)]
    np.testing.assert_array_equal(_highest(ranks, size), want)
