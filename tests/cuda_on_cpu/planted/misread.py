"""Runs one planted fault: python -m tests.cuda_on_cpu.planted.misread FILE KERNEL FAULT."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.cuda_on_cpu import CpuDevice

SIZE = 100


def main(file: str, name: str, fault: int) -> None:
    device = CpuDevice(kernel_dir=Path(__file__).parent)
    x = device.upload(np.arange(SIZE, dtype=np.float32))
    out = device.empty((SIZE,), np.dtype(np.float32))
    shared_bytes = 64 * 4 if "dynamic" in name else 0
    kernel = device.kernel(file, name, fault)
    kernel((2,), (64,), (x, out, np.int32(SIZE)), shared_bytes)
    print("not caught")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
