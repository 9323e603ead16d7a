"""A CUDA device without a GPU: the unchanged kernels/*.cu compiled as C++, threads as fibers."""

from __future__ import annotations

from tests.cuda_on_cpu.build import BuildError, NoCompiler
from tests.cuda_on_cpu.device import CpuDevice
from tests.cuda_on_cpu.library import KernelFault, LaunchError
from tests.cuda_on_cpu.queue import CaptureError

__all__ = ["BuildError", "CaptureError", "CpuDevice", "KernelFault", "LaunchError", "NoCompiler"]
