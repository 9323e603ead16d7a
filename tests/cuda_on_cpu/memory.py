"""Device memory: poisoned when fresh, with a canary before and behind every allocation."""

from __future__ import annotations

import mmap
import sys
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.cuda_on_cpu.library import KernelFault, asan_function

ALIGNMENT = 256  # as cudaMalloc gives
GUARD_BEFORE = 4 * 1024
GUARD_BEHIND = 16 * 1024  # one block too many writes a whole row behind the end
# Each allocation's guards hold another stretch of noise, so that copying guard to guard shows.
_NOISE = np.random.default_rng(1).integers(0, 256, 2**16, dtype=np.uint8)
_NOISE_BYTES = _NOISE.tobytes()
_NUM_STRETCHES = 512
POISON = 0xFF  # NaN in every float format, -1 in every integer
# Of pages that are only addressed, however many, the system need not promise any. Older Pythons
# lack the name.
_UNPROMISED = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0


class Memory:
    """All live allocations of one device."""

    def __init__(self, total_bytes: int, *, sanitize: bool) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self._live: dict[int, tuple[weakref.ref[Any], int, int, int]] = {}
        self._num_allocations = 0
        self._sanitize = sanitize
        if sanitize:
            poison = asan_function("poison_memory_region")
            unpoison = asan_function("unpoison_memory_region")
            if poison is None or unpoison is None:
                raise RuntimeError(
                    "AddressSanitizer does not run here: tests.cuda_on_cpu.sanitized"
                )
            self._poison, self._unpoison = poison, unpoison

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """A C-contiguous array full of POISON between two guards."""
        dtype = np.dtype(dtype)
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.used_bytes + num_bytes > self.total_bytes:
            raise MemoryError(f"{num_bytes} bytes asked for, {self.free_bytes()} are free")
        raw = np.empty(GUARD_BEFORE + ALIGNMENT + num_bytes + GUARD_BEHIND, np.uint8)
        array = self._guarded(raw, num_bytes, used=num_bytes)
        array[:] = POISON
        return array.view(dtype).reshape(shape)

    def sparse(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """A C-contiguous array of zeros between two guards, of any size.

        It takes memory only where it is touched, and counts as none. MemoryError where the system
        does not give that many addresses.
        """
        dtype = np.dtype(dtype)
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        size = GUARD_BEFORE + ALIGNMENT + num_bytes + GUARD_BEHIND
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _UNPROMISED
        try:
            pages = mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            raise MemoryError(f"no addresses for {num_bytes} bytes: {error}") from None
        raw = np.frombuffer(pages, np.uint8)
        return self._guarded(raw, num_bytes, used=0).view(dtype).reshape(shape)

    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    def owns(self, array: np.ndarray) -> bool:
        """Whether the array lies in an allocation of this device."""
        return id(owner_of(array)) in self._live

    def check(self, arrays: Iterable[np.ndarray] | None = None) -> None:
        """KernelFault when something wrote into the guards of these arrays (default: of all)."""
        owners = [owner_of(a) for a in arrays] if arrays is not None else self._owners()
        for raw in owners:
            _, start, num_bytes, noise = self._live[id(raw)]
            for where, guard in (("before", raw[:start]), ("behind", raw[start + num_bytes :])):
                intact = _NOISE_BYTES[noise : noise + guard.size]
                if not self._sanitize and guard.tobytes() != intact:
                    changed = int(np.argmax(guard != np.frombuffer(intact, np.uint8)))
                    distance = changed if where == "behind" else start - changed
                    raise KernelFault(
                        f"a write {where} an array of {num_bytes} bytes, {distance} bytes "
                        f"{'past its end' if where == 'behind' else 'ahead of its start'}"
                    )

    def _owners(self) -> list[np.ndarray]:
        return [raw for ref, *_ in list(self._live.values()) if (raw := ref()) is not None]

    def _guarded(self, raw: np.ndarray, num_bytes: int, *, used: int) -> np.ndarray:
        start = GUARD_BEFORE + -(raw.ctypes.data + GUARD_BEFORE) % ALIGNMENT
        noise = self._num_allocations % _NUM_STRETCHES * 64
        self._num_allocations += 1
        raw[:start] = _NOISE[noise : noise + start]
        behind = raw[start + num_bytes :]
        behind[:] = _NOISE[noise : noise + behind.size]
        self._register(raw, start, num_bytes=num_bytes, noise=noise, used=used)
        return raw[start : start + num_bytes]

    def _register(
        self, raw: np.ndarray, start: int, *, num_bytes: int, noise: int, used: int
    ) -> None:
        key, address = id(raw), int(raw.ctypes.data)
        guards = ((address, start), (address + start + num_bytes, raw.size - start - num_bytes))

        def release(_: object) -> None:
            del self._live[key]
            self.used_bytes -= used
            for at, size in guards if self._sanitize else ():
                self._unpoison(at, size)

        for at, size in guards if self._sanitize else ():
            self._poison(at, size)
        self.used_bytes += used
        self._live[key] = (weakref.ref(raw, release), start, num_bytes, noise)


def owner_of(array: np.ndarray) -> Any:
    """The allocation that an array is a view of."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner
