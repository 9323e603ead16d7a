"""Philox4x32-10: random bits as a function of (seed, position), the same on every backend.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Four random 32-bit words from a 128-bit counter and a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        even, odd = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (odd >> 32) ^ c1 ^ k0,
            odd & _MASK,
            (even >> 32) ^ c3 ^ k1,
            even & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def random_bits(seed_low: int, seed_high: int, position: int) -> int:
    """64 random bits for the token at `position` of the answer drawn with that seed."""
    key = (seed_low & _MASK, seed_high & _MASK)
    words = philox4x32((position, 0, 0, 0), key)
    return words[1] << 32 | words[0]
