"""BlockAllocator: who owns a block, and what can be found in it."""

import pytest

from llama_cu.kv_cache import BlockAllocator


def fill(allocator, token_ids, salt=0):
    size = allocator.block_size
    table = [allocator.allocate() for _ in range(-(-len(token_ids) // size))]
    for index in range(len(token_ids) // size):
        tokens = tuple(token_ids[index * size : (index + 1) * size])
        allocator.register(table, index, tokens, salt)
    return table


def test_released_blocks_can_all_be_allocated_again():
    allocator = BlockAllocator(num_blocks=4, block_size=2)
    table = [allocator.allocate() for _ in range(4)]
    assert sorted(table) == [0, 1, 2, 3]
    with pytest.raises(IndexError, match="no free"):
        allocator.allocate()
    allocator.release(table)
    assert allocator.num_free == 4


def test_a_prefix_is_found_up_to_the_last_full_block_before_the_last_token():
    allocator = BlockAllocator(num_blocks=8, block_size=2)
    table = fill(allocator, [1, 2, 3, 4, 5])
    assert allocator.find([1, 2, 3, 4, 9], 0) == table[:2]
    assert allocator.find([1, 2, 3, 4], 0) == table[:1]  # token 4 must be computed
    assert allocator.find([1, 2, 9, 4, 5], 0) == table[:1]
    assert allocator.find([9, 2, 3, 4, 5], 0) == []


def test_equal_blocks_after_different_prefixes_are_not_confused():
    allocator = BlockAllocator(num_blocks=8, block_size=2)
    fill(allocator, [1, 2, 7, 8])
    table = fill(allocator, [3, 4, 7, 8])
    assert allocator.find([3, 4, 7, 8, 5], 0) == table


def test_another_salt_finds_nothing():
    allocator = BlockAllocator(num_blocks=8, block_size=2)
    fill(allocator, [1, 2, 3, 4], salt=1)
    assert allocator.find([1, 2, 3, 4, 5], 0) == []
    assert len(allocator.find([1, 2, 3, 4, 5], 1)) == 2


def test_a_claimed_block_is_not_reused_while_it_has_a_user():
    allocator = BlockAllocator(num_blocks=3, block_size=2)
    table = fill(allocator, [1, 2, 3, 4])
    found = allocator.find([1, 2, 3, 4, 5], 0)
    allocator.claim(found)
    allocator.release(table)
    assert allocator.num_free == 1
    assert allocator.allocate() not in table


def test_an_evicted_block_is_no_longer_found_and_its_children_neither():
    allocator = BlockAllocator(num_blocks=2, block_size=2)
    table = fill(allocator, [1, 2, 3, 4])
    allocator.release(table)
    assert allocator.allocate() == table[1]  # what follows goes before what it follows
    assert allocator.find([1, 2, 3, 4, 5], 0) == table[:1]
    assert allocator.allocate() == table[0]
    assert allocator.find([1, 2, 3, 4, 5], 0) == []


def test_two_sequences_that_computed_the_same_block_share_its_children():
    allocator = BlockAllocator(num_blocks=8, block_size=2)
    first = fill(allocator, [1, 2])
    twin = fill(allocator, [1, 2])
    twin.append(allocator.allocate())
    allocator.register(twin, 1, (3, 4), 0)
    assert allocator.find([1, 2, 3, 4, 5], 0) == [first[0], twin[1]]


def test_a_block_with_nothing_to_find_is_reused_before_one_with_something():
    allocator = BlockAllocator(num_blocks=3, block_size=2)
    table = fill(allocator, [1, 2, 3])
    allocator.release([table[0]])
    allocator.release([table[1]])
    assert allocator.allocate() == table[1]
