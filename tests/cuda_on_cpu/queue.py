"""The order in which a device works: at once, when somebody waits for it, or in a graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.cuda_on_cpu.library import KernelFault
from tests.cuda_on_cpu.memory import POISON, owner_of

Array = Any
Work = Callable[[], None]
Launch = Callable[[Sequence[np.ndarray]], None]
"""launch(allocations): what a launch does; it gets the allocations that its arrays lie in, because
it must keep none of them alive itself."""


class CaptureError(Exception):
    """Something that CUDA does not allow while a graph is captured."""


class WorkQueue:
    """Runs work in order: at once, or with `lazy` only when somebody waits for it.

    A GPU is somewhere between the two: whoever reads or overwrites host memory too early is right
    by luck there, and wrong for sure in one of the two here.
    """

    def __init__(self, *, lazy: bool) -> None:
        self._lazy = lazy
        self._waiting: list[Work] = []
        self._recording: Graph | None = None

    def add(self, work: Work) -> None:
        """Queue something that a graph cannot hold, a copy."""
        self.forbid_in_capture("a copy")
        self._queue(work)

    def add_launch(self, launch: Launch, arrays: Iterable[Array]) -> None:
        """Queue a launch that touches these arrays, or record it if a graph is being captured."""
        allocations = [owner_of(array) for array in arrays]
        if self._recording is not None:
            self._recording.add(launch, allocations)
        else:
            self._queue(lambda: launch(allocations))

    def _queue(self, work: Work) -> None:
        self._waiting.append(work)
        if not self._lazy:
            self.wait()

    def wait(self) -> None:
        """Do all that was queued."""
        self.forbid_in_capture("waiting")
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()

    def forbid_in_capture(self, what: str) -> None:
        if self._recording is not None:
            raise CaptureError(f"{what} is not allowed while a graph is captured")

    def own(self, array: Array) -> None:
        """Tell of a new array: one that is made during a capture belongs to the graph."""
        if self._recording is not None:
            self._recording.own(array)

    def capture(self, work: Work) -> Graph:
        self.forbid_in_capture("a capture")
        self._recording = graph = Graph(self)
        try:
            work()
        finally:
            self._recording = None
        return graph


class Graph:
    """Recorded launches. What it owns is poisoned before each replay; what it does not must live.

    A GPU's driver takes back none of the addresses that a graph holds: a stale one reads what
    somebody else put there.
    """

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._owned: dict[int, np.ndarray] = {}
        self._launches: list[tuple[Launch, list[Callable[[], Any]]]] = []

    @property
    def num_launches(self) -> int:
        return len(self._launches)

    def own(self, array: Array) -> None:
        self._owned[id(owner_of(array))] = array

    def add(self, launch: Launch, allocations: Sequence[np.ndarray]) -> None:
        self._launches.append((launch, [weakref.ref(memory) for memory in allocations]))

    def launch(self) -> None:
        self._queue.add(self._replay)

    def _replay(self) -> None:
        for array in self._owned.values():
            array.reshape(-1).view(np.uint8)[...] = POISON
        for launch, references in self._launches:
            allocations = [reference() for reference in references]
            if any(memory is None for memory in allocations):
                raise KernelFault("a graph reads or writes an array that is gone: a stale pointer")
            launch(allocations)


class Event:
    """`Event` of a device that works whenever somebody waits."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._reached = False
        queue.add(self._reach)

    def _reach(self) -> None:
        self._reached = True

    def wait(self) -> None:
        if not self._reached:
            self._queue.wait()

    def done(self) -> bool:
        return self._reached


@dataclass(frozen=True)
class Place:
    """Where an array lies in its allocation, which it does not keep alive."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> Place:
        offset = int(array.ctypes.data) - int(owner_of(array).ctypes.data)
        return cls(offset, array.shape, array.dtype, array.strides)

    def within(self, memory: np.ndarray) -> np.ndarray:
        """The array again."""
        return np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)
