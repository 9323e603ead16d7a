"""A checkpoint's weights where a backend wants them, and beside it the kernels they will meet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.weight_reader import block_types, load_weights
from llama_cu.checkpoint.weights import PAIRED, Weights
from llama_cu.ops.base import Ops
from llama_cu.quantized import Scheme


def load(
    folder: Path,
    config: ModelConfig,
    ops: Ops,
    *,
    scheme: Scheme | None = None,
    expand: bool = False,
    kv_dtype: str = "auto",
    progress: Callable[[int, int], None],
) -> Weights:
    """The weights of a folder; on a device its kernels are compiled meanwhile.

    A scheme has its matrices quantized. Without one those of a GGUF file stay in their blocks where
    the ops keep any, unless they shall `expand`. `kv_dtype` is that of the cache to come.

    progress(done, total) is told of bytes. Errors are those of `load_weights` and
    `Device.prepare`.
    """
    keep_blocks = ops.keeps_blocks and scheme is None and not expand
    with ops.weight_loader() or nullcontext() as loader, ThreadPoolExecutor(1) as beside:
        kernels = beside.submit(
            prepare_kernels,
            config,
            ops,
            scheme,
            blocks_of=folder if keep_blocks else None,
            kv_dtype=kv_dtype,
        )
        weights = load_weights(
            folder,
            config,
            dtype=ops.dtype,
            storage_dtype=ops.storage_dtype,
            place=ops.place_weight,
            loader=loader,
            keep_blocks=keep_blocks,
            quantize=None if scheme is None else partial(_quantize, ops, scheme),
            progress=progress,
        )
        kernels.result()
        return weights


def _quantize(ops: Ops, scheme: Scheme, weight: Any, field: str) -> Any:
    return ops.quantize(weight, scheme.of(field), paired=field == PAIRED)


def prepare_kernels(
    config: ModelConfig,
    ops: Ops,
    scheme: Scheme | None = None,
    *,
    blocks_of: Path | None = None,
    kv_dtype: str = "auto",
) -> None:
    """Compile what a device will be asked for by a model of this config, side by side.

    `blocks_of` is a GGUF file whose blocks are kept.
    """
    if ops.device is not None:
        from llama_cu.kernel_plan import plan_kernels  # nothing that a CPU needs to read

        kinds = [] if blocks_of is None else block_types(blocks_of, config)
        planned = plan_kernels(config, ops.dtype, ops.device, scheme, kinds, kv_dtype=kv_dtype)
        ops.device.prepare(planned)
