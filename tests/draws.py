"""Rows to draw from, for the tests of the sampler."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.batch import SamplingRows
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from tests.backends import BACKENDS, DEVICE_BACKENDS, got, put_as

Array = Any

# Logits are float32 whatever the dtype of the model, so one backend of each device is enough.
FLOAT32_BACKENDS = [backend for backend in BACKENDS if backend.id.endswith("-float32")]
FLOAT32_DEVICES = [backend for backend in DEVICE_BACKENDS if backend.id.endswith("-float32")]

NUMPY = NumpyOps(DTYPES["float32"])


def sampling_rows(ops: Any, num_rows: int, *, seed: int = 7, **params: Any) -> SamplingRows:
    """Rows with the given parameters, each a number or a list, at positions 0, 1, 2, ..."""
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | params
    arrays = {
        name: put_as(
            ops, np.broadcast_to(value, num_rows), np.int32 if name == "top_k" else np.float32
        )
        for name, value in defaults.items()
    }
    seeds = np.broadcast_to(np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32), (num_rows, 2))
    return SamplingRows(
        **arrays,
        seeds=put_as(ops, seeds.astype(np.int32)),
        positions=put_as(ops, np.arange(num_rows)),
        all_greedy=not np.any(defaults["temperature"]),
    )


def sample(ops: Any, logits: Array, **params: Any) -> Array:
    rows = sampling_rows(ops, len(logits), **params)
    return got(ops, ops.sample(put_as(ops, logits, np.float32), rows))


def random_filters(rng: np.random.Generator, num_rows: int) -> dict[str, Array]:
    """Parameters of every kind, each off in a third of the rows."""
    off = rng.random((3, num_rows)) < 1 / 3
    return {
        "temperature": rng.choice([0.0, 0.3, 0.8, 1.0, 1.7], num_rows, p=[0.1, 0.2, 0.3, 0.2, 0.2]),
        "top_k": np.where(off[0], 0, rng.integers(1, 60, num_rows)),
        "top_p": np.where(off[1], 1.0, rng.uniform(0.01, 0.999, num_rows)),
        "min_p": np.where(off[2], 0.0, rng.uniform(0.001, 0.5, num_rows)),
    }
