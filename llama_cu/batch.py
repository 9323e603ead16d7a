"""What one step computes: the only data that crosses from host to device in a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

Array = Any


@dataclass(frozen=True)
class Batch:
    """A ragged batch: the new tokens of all sequences end to end, no padding, no batch axis.

    Device arrays are int32. A sequence with one new token is a decode, with more a prefill
    chunk; nothing else tells them apart.
    """

    token_ids: Array  # [num_tokens]
    positions: Array  # [num_tokens], of each token in its sequence
    rope_rows: Array  # [num_tokens], row of inv_freq that rotates the token
    slot_mapping: Array  # [num_tokens], cache slot that the token's K and V go to
    cu_seqlens_q: Array  # [num_seqs + 1], sequence i owns rows cu_seqlens_q[i] to [i + 1]
    context_lens: Array  # [num_seqs], tokens in the cache after this step
    block_tables: Array  # [num_seqs, max_blocks], padded with 0
    logit_rows: Array  # [num_logits], rows of the tokens whose logits are wanted
    query_lens: tuple[int, ...]  # host: new tokens of each sequence
    host_context_lens: tuple[int, ...]  # host: context_lens
    host_block_tables: tuple[tuple[int, ...], ...]  # host: block_tables without padding

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_seqs(self) -> int:
        return len(self.query_lens)

    @cached_property
    def max_query_len(self) -> int:
        return max(self.query_lens)

    @cached_property
    def max_context_len(self) -> int:
        return max(self.host_context_lens)


@dataclass(frozen=True)
class DecodeRows:
    """What a step of decode computes, one new token a row; device arrays, all [num_rows] int32.

    Empty rows have slot -1, where nothing is stored, and position 0.
    """

    positions: Array
    rope_rows: Array
    slot_mapping: Array
    context_lens: Array


@dataclass(frozen=True)
class SamplingRows:
    """How to draw each row's token. Device arrays, one entry per row of logits.

    With `all_greedy` nothing looks at them, and they may be empty.
    """

    temperature: Array  # [num_rows] float32; 0 is greedy
    top_k: Array  # [num_rows] int32; 0 keeps all
    top_p: Array  # [num_rows] float32; 1 keeps all
    min_p: Array  # [num_rows] float32; 0 keeps all
    seeds: Array  # [num_rows, 2] int32: low and high half of the 64-bit seed
    positions: Array  # [num_rows] int32, position that the drawn token will have
    all_greedy: bool  # host: every temperature is 0


@dataclass(frozen=True)
class LogitEdits:
    """Penalties and biases as a sparse list; a (row, token_id) pair occurs at most once.

    A logit l becomes: l / repetition if l > 0 else l * repetition (where seen); minus
    frequency * count, minus presence where count > 0; plus bias.
    """

    rows: Array  # [num_edits] int32
    token_ids: Array  # [num_edits] int32
    counts: Array  # [num_edits] int32, times the token was generated
    seen: Array  # [num_edits] int32, 1 where the prompt or the answer holds the token
    biases: Array  # [num_edits] float32; -inf bans
    penalties: Array  # [num_rows, 3] float32: repetition, presence, frequency


@dataclass(frozen=True)
class LogitMasks:
    """Which tokens a row may draw, a bit each: token t is bit t % 32 of word t // 32.

    Every mask allows at least one token.
    """

    mask_of: Array  # [num_rows] int32, the mask of a row of logits; -1 allows all
    words: Array  # [num_masks, ceil(vocab_size / 32)] int32
