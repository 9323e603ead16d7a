"""The paged KV cache: arrays on the device, and the ids of their blocks on the host."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.base import Ops
from llama_cu.ops.int8_cache import Int8Cache, row_bytes

Array = Any


@dataclass(frozen=True)
class KVCache:
    """Per layer K and V, each [num_blocks, block_size, num_kv_heads, head_dim]."""

    layers: tuple[tuple[Array | Int8Cache, Array | Int8Cache], ...]
    num_blocks: int
    block_size: int


def allocate_kv_cache(
    ops: Ops, config: ModelConfig, *, num_blocks: int, block_size: int, kv_dtype: str = "auto"
) -> KVCache:
    """A cache in the type of the activations, or in int8; BackendUnavailable where memory lacks."""
    shape = (num_blocks, block_size, config.num_key_value_heads, config.head_dim)
    try:
        layers = tuple(
            (ops.empty_cache(shape, kv_dtype), ops.empty_cache(shape, kv_dtype))
            for _ in range(config.num_hidden_layers)
        )
    except (MemoryError, OSError, OverflowError) as error:
        raise BackendUnavailable(
            f"{ops.device_name} has no memory for a KV cache of {num_blocks * block_size} tokens: "
            f"take a smaller kv_cache_bytes, or leave it out"
        ) from error
    return KVCache(layers, num_blocks, block_size)


def kv_bytes_per_token(config: ModelConfig, itemsize: int, kv_dtype: str = "auto") -> int:
    """Bytes of K and V that one token occupies in all layers; itemsize of the activations."""
    num_rows = 2 * config.num_hidden_layers * config.num_key_value_heads
    return num_rows * row_bytes(config.head_dim, kv_dtype, itemsize)


@dataclass(slots=True)
class _Block:
    num_users: int = 0
    content_id: int | None = None  # set once the block is full; equal content, equal id
    key: tuple[int, tuple[int, ...]] | None = None  # set on the one block that `find` returns


@dataclass
class BlockAllocator:
    """Hands out block ids; full blocks stay findable by what they hold until reused.

    A block's key is (content id of the block before it, its tokens), compared exactly, so that
    no two different prefixes can ever collide. The first block's parent is minus one minus a
    `salt`, for whatever besides the tokens decides their K and V.
    """

    num_blocks: int
    block_size: int
    _blocks: list[_Block] = field(init=False)
    _free: OrderedDict[int, None] = field(init=False)  # least recently used first
    _cached: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    _next_content_id: int = 0

    def __post_init__(self) -> None:
        self._blocks = [_Block() for _ in range(self.num_blocks)]
        self._free = OrderedDict.fromkeys(range(self.num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def extend(self, block_table: list[int], num_blocks: int, room: int) -> None:
        """Add blocks to a table that is going to grow by `room`, these included.

        Raises IndexError when too few are free: the scheduler asks `num_free` first.
        """
        if num_blocks > self.num_free:
            raise IndexError(f"{num_blocks} KV-cache blocks wanted, {self.num_free} free")
        self._extend(block_table, num_blocks, room)

    def _extend(self, block_table: list[int], num_blocks: int, room: int) -> None:
        block_table += [self.allocate() for _ in range(num_blocks)]

    def allocate(self, block_id: int | None = None) -> int:
        """A block for one user: this one, which is free, or the least recently used.

        What it held before can no longer be found. Raises IndexError when no block is free.
        """
        if not self._free:
            raise IndexError("no free KV-cache block")
        if block_id is None:
            block_id = next(iter(self._free))
        del self._free[block_id]
        block = self._blocks[block_id]
        if block.key is not None:
            del self._cached[block.key]
        block.key = block.content_id = None
        block.num_users = 1
        return block_id

    def release(self, block_table: list[int]) -> None:
        """Give blocks back, last one first, so that a prefix outlives what follows it."""
        for block_id in reversed(block_table):
            block = self._blocks[block_id]
            block.num_users -= 1
            if block.num_users == 0:
                self._free[block_id] = None
                if block.key is None:  # nothing to find in it: use it first
                    self._free.move_to_end(block_id, last=False)

    def register(
        self, block_table: list[int], index: int, tokens: tuple[int, ...], salt: int
    ) -> None:
        """Make block_table[index], now full with `tokens`, findable for other sequences."""
        parent_id = self._parent_id(block_table, index, salt)
        block = self._blocks[block_table[index]]
        if parent_id is None or block.content_id is not None:
            return
        key = (parent_id, tokens)
        twin = self._cached.get(key)
        if twin is not None:
            block.content_id = self._blocks[twin].content_id
            return
        self._cached[key] = block_table[index]
        block.key, block.content_id = key, self._next_content_id
        self._next_content_id += 1

    def _parent_id(self, block_table: list[int], index: int, salt: int) -> int | None:
        return -1 - salt if index == 0 else self._blocks[block_table[index - 1]].content_id

    def find(self, token_ids: list[int], salt: int) -> list[int]:
        """The cached blocks that hold the longest prefix of the tokens, but for the last token.

        The last token is always computed, since its logits are wanted. Nothing is claimed yet.
        """
        found: list[int] = []
        parent_id = -1 - salt
        size = self.block_size
        for start in range(0, (len(token_ids) - 1) // size * size, size):
            block_id = self._cached.get((parent_id, tuple(token_ids[start : start + size])))
            if block_id is None:
                break
            found.append(block_id)
            content_id = self._blocks[block_id].content_id
            assert content_id is not None
            parent_id = content_id
        return found

    def claim(self, found: list[int]) -> None:
        """Add one user to blocks that `find` returned."""
        for block_id in found:
            block = self._blocks[block_id]
            if block.num_users == 0:
                del self._free[block_id]
            block.num_users += 1

    def num_unused(self, found: list[int]) -> int:
        """How many of these blocks are free now, and would leave the free list when claimed."""
        return sum(self._blocks[block_id].num_users == 0 for block_id in found)
