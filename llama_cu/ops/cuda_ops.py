"""The CUDA backend: checks and launches, nothing else. No op waits for the device but download."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.batch import Batch, DecodeRows, LogitEdits, LogitMasks, SamplingRows
from llama_cu.ops.base import HeadNorms, Ops
from llama_cu.ops.cuda_attention import fused_attention, fuses_attention
from llama_cu.ops.cuda_heads import (
    launch_head_norm,
    launch_rope,
    launch_rope_angles,
    launch_rotate_and_store,
    launch_store_kv,
)
from llama_cu.ops.cuda_launch import (
    ceil_div,
    check,
    check_array,
    launch,
    vector_lanes,
    whole_warps,
)
from llama_cu.ops.cuda_linear import linear, logits, multiplies_as_it_is, norm_product
from llama_cu.ops.cuda_loader import CudaLoader
from llama_cu.ops.cuda_matvec import Epilogue, Norm
from llama_cu.ops.cuda_matvec_quantized import multiplies_packed
from llama_cu.ops.cuda_quantized import quantize
from llama_cu.ops.cuda_sampling import (
    launch_edit_logits,
    launch_logprobs,
    launch_mask_logits,
    launch_sample,
)
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.cuda_unfused import masked_softmax, unfused_attention
from llama_cu.ops.device import Device
from llama_cu.ops.int8_cache import Int8Cache, scales_shape
from llama_cu.quantized import Scheme
from llama_cu.weight_loading import WeightLoader

Array = Any

_INT8, _INT32 = np.dtype(np.int8), np.dtype(np.int32)
_FLOAT32 = np.dtype(np.float32)
# Of a pinned buffer that weights go up through: enough to hide the start of each copy.
_CHUNK_BYTES = 32 << 20


class CudaOps(Ops):
    """`Ops` over a `Device`, with kernels of one element type."""

    def __init__(self, device: Device, dtype: np.dtype[Any]) -> None:
        dtype = np.dtype(dtype)
        check(dtype.name in C_TYPES, "dtype must be one of {}, got {}", ", ".join(C_TYPES), dtype)
        self.device = device
        self.device_name = device.name
        self.dtype = dtype
        self.storage_dtype = dtype
        self._c_type = C_TYPES[dtype.name]

    def upload(self, host: Array) -> Array:
        return self.device.upload(np.ascontiguousarray(host))

    def place_weight(self, host: Array) -> Array:
        return self.upload(host)

    def quantize(self, weight: Array, scheme: Scheme, *, paired: bool) -> Array:
        flag = self.upload(np.zeros(1, _INT32))
        packed = quantize(self.device, weight, scheme=scheme, paired=paired, flag=flag)
        bad = self.download(flag)[0]
        check(not bad, "a weight is not finite, or has no finite scale")
        return packed

    @property
    def keeps_blocks(self) -> bool:
        return multiplies_packed(self.device, self.dtype)

    def weight_loader(self) -> WeightLoader | None:
        return CudaLoader(self.device, self.dtype, chunk_bytes=_CHUNK_BYTES)

    def download(self, array: Array) -> Array:
        return self.device.download(array)

    def empty(self, shape: tuple[int, ...]) -> Array:
        return self.device.empty(shape, self.dtype)

    def empty_cache(self, shape: tuple[int, int, int, int], kv_dtype: str) -> Array | Int8Cache:
        if kv_dtype != "int8":
            return self.empty(shape)
        values = self.device.empty(shape, _INT8)
        return Int8Cache(values, self.device.empty(scales_shape(shape), _FLOAT32))

    def random_weight(self, shape: tuple[int, ...], *, seed: int, scale: float) -> Array:
        out = self.empty(shape)
        words = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
        low, high = (np.uint32(word).view(np.int32) for word in words)
        kernel = self.device.kernel("random", "random_normal", self._c_type)
        args = (out, np.int64(out.size), low, high, np.float32(scale))
        launch(kernel, (ceil_div(out.size, 4 * 256),), 256, *args)
        return out

    def free_memory(self) -> int:
        return self.device.free_memory()

    def synchronize(self) -> None:
        self.device.synchronize()

    def captures(self, head_dim: int) -> bool:
        return fuses_attention(head_dim)

    def begin_decode(
        self, lengths: Array, block_tables: Array, block_size: int, rope_from: int | None
    ) -> DecodeRows:
        num_rows, max_blocks = block_tables.shape
        check_array("begin_decode: lengths", lengths, shape=(num_rows,), dtype=_INT32)
        check_array(
            "begin_decode: block_tables", block_tables, shape=block_tables.shape, dtype=_INT32
        )
        names = ("positions", "rope_rows", "slot_mapping", "context_lens")
        made = {name: self.device.empty((num_rows,), _INT32) for name in names}
        sizes = (num_rows, max_blocks, block_size, -1 if rope_from is None else rope_from)
        args = (lengths, block_tables, *made.values(), *map(np.int32, sizes))
        launch(self.device.kernel("decode", "begin_decode"), (ceil_div(num_rows, 128),), 128, *args)
        return DecodeRows(**made)

    def gather(self, table: Array, rows: Array) -> Array:
        num_rows, width = rows.shape[0], table.shape[1]
        check_array("gather: table", table, shape=(table.shape[0], width), dtype=self.dtype)
        check_array("gather: rows", rows, shape=(num_rows,), dtype=_INT32)
        out = self.empty((num_rows, width))
        lanes = vector_lanes(self.dtype, width)
        kernel = self.device.kernel("gather", "gather", self._c_type, lanes)
        block = whole_warps(width // lanes, high=256)
        launch(kernel, (num_rows,), block, table, rows, out, np.int32(width))
        return out

    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        return linear(self, x, weight=weight, bias=bias, residual=residual)

    def logits(self, x: Array, weight: Array) -> Array:
        return logits(self, x, weight=weight)

    def norm_linear(
        self, x: Array, norm_weight: Array, eps: float, weight: Array, bias: Array | None = None
    ) -> Array:
        if not multiplies_as_it_is(self.device, x, weight):
            return super().norm_linear(x, norm_weight, eps, weight, bias)
        return norm_product(self, x, norm=Norm(norm_weight, eps), weight=weight, bias=bias)

    def norm_swiglu(
        self, x: Array, norm_weight: Array, eps: float, weight: Array, bias: Array | None = None
    ) -> Array:
        if not multiplies_as_it_is(self.device, x, weight):
            return super().norm_swiglu(x, norm_weight, eps, weight, bias)
        options: dict[str, Any] = {"bias": bias, "epilogue": Epilogue.SWIGLU}
        return norm_product(self, x, norm=Norm(norm_weight, eps), weight=weight, **options)

    def norm_logits(self, x: Array, norm_weight: Array, eps: float, weight: Array) -> Array:
        if not multiplies_as_it_is(self.device, x, weight):
            return super().norm_logits(x, norm_weight, eps, weight)
        norm = Norm(norm_weight, eps)
        return norm_product(self, x, norm=norm, weight=weight, epilogue=Epilogue.FLOAT32)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        num_tokens, hidden_size = x.shape
        check_array("rms_norm: x", x, shape=(num_tokens, hidden_size), dtype=self.dtype)
        check_array("rms_norm: weight", weight, shape=(hidden_size,), dtype=self.dtype)
        out = self.empty((num_tokens, hidden_size))
        lanes = vector_lanes(self.dtype, hidden_size)
        kernel = self.device.kernel("rms_norm", "rms_norm", self._c_type, lanes)
        block = whole_warps(hidden_size // lanes, high=512)
        sizes = (np.int32(hidden_size), np.float32(eps))
        launch(kernel, (num_tokens,), block, x, weight, out, *sizes)
        return out

    def head_norm(self, x: Array, weight: Array, eps: float) -> None:
        check(x.dtype == self.dtype, "head_norm: x must be {}, got {}", self.dtype, x.dtype)
        launch_head_norm(self.device, x, weight=weight, eps=eps)

    def rope_angles(
        self, inv_freq: Array, rope_rows: Array, positions: Array, scaling: float
    ) -> Array:
        tables = {"rope_rows": rope_rows, "positions": positions}
        return launch_rope_angles(self.device, inv_freq, **tables, scaling=scaling)

    def rope(self, x: Array, cos_sin: Array) -> None:
        check(x.dtype == self.dtype, "rope: x must be {}, got {}", self.dtype, x.dtype)
        launch_rope(self.device, x, cos_sin=cos_sin)

    def store_kv(
        self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array
    ) -> None:
        check(k.dtype == self.dtype, "store_kv: k must be {}, got {}", self.dtype, k.dtype)
        caches = (k_cache, v_cache)
        launch_store_kv(self.device, k, v, caches=caches, slot_mapping=slot_mapping)

    def rotate_and_store(
        self,
        qkv: Array,
        cos_sin: Array,
        k_cache: Array,
        v_cache: Array,
        slot_mapping: Array,
        head_norms: HeadNorms | None,
    ) -> None:
        check(qkv.dtype == self.dtype, "rotate_and_store: qkv must be {}", self.dtype)
        arrays = {"cos_sin": cos_sin, "caches": (k_cache, v_cache), "slot_mapping": slot_mapping}
        launch_rotate_and_store(self.device, qkv, **arrays, head_norms=head_norms)

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        batch: Batch,
        scale: float,
        window: int | None,
    ) -> Array:
        head_dim = q.shape[2]
        attend = fused_attention if fuses_attention(head_dim) else unfused_attention
        caches = {"k_cache": k_cache, "v_cache": v_cache}
        return attend(self, q, **caches, batch=batch, scale=scale, window=window)

    def softmax(self, scores: Array, position: int, window: int | None) -> Array:
        return masked_softmax(self, scores, position=position, window=window)

    def swiglu(self, gate_up: Array) -> Array:
        num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
        check_array("swiglu: gate_up", gate_up, shape=(num_tokens, 2 * size), dtype=self.dtype)
        out = self.empty((num_tokens, size))
        lanes = vector_lanes(self.dtype, size)
        kernel = self.device.kernel("swiglu", "swiglu", self._c_type, lanes)
        grid = (num_tokens, ceil_div(size // lanes, 256))
        launch(kernel, grid, 256, gate_up, out, np.int32(size))
        return out

    def edit_logits(self, logits: Array, edits: LogitEdits) -> Array:
        return launch_edit_logits(self.device, logits, edits=edits)

    def mask_logits(self, logits: Array, masks: LogitMasks) -> Array:
        return launch_mask_logits(self.device, logits, masks=masks)

    def sample(self, logits: Array, rows: SamplingRows, out: Array | None = None) -> Array:
        return launch_sample(self.device, logits, rows=rows, out=out)

    def logprobs(self, logits: Array, token_ids: Array, num_top: int) -> tuple[Array, Array, Array]:
        return launch_logprobs(self.device, logits, token_ids=token_ids, num_top=num_top)
