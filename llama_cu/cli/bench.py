"""llama-cu bench: prefill and decode, held against what the device has just shown it can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cu.bench.plot import check_plotting, plot_decode
from llama_cu.bench.run import Plan, Source, run_bench
from llama_cu.bench.shapes import random_config
from llama_cu.checkpoint.checkpoint import open_config
from llama_cu.cli.load import long_dtype, model_name
from llama_cu.cli.progress import ProgressBar
from llama_cu.cli.terminal import note
from llama_cu.find_model import find_model
from llama_cu.ops.backend import get_ops
from llama_cu.quantized import EXPANDED, find_scheme


def bench(
    model: str | None,
    *,
    random: str | None,
    device: str,
    dtype: str,
    quantize: str | None,
    overlap: bool,
    plan: Plan,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure a model and print a table, or JSON.

    Raises ValueError for arguments that contradict each other, and what `run_bench` raises.
    """
    if plot is not None:
        check_plotting(plot)
    scheme, expand = find_scheme(quantize), quantize == EXPANDED
    source = replace(find_source(model, random), scheme=scheme, expand=expand)
    with ProgressBar() as progress:
        ops, device_note = get_ops(
            device,
            long_dtype(dtype),
            checkpoint_dtype=source.config.dtype,
            on_compile=lambda name: progress(f"compiling {name}", 0, 0),
            overlap=overlap,
        )
        note(f"device: {device_note}")
        overlaps = bool(getattr(ops.device, "overlaps", False))
        if overlap and not overlaps:
            note("--overlap does nothing here: it needs a GPU of compute capability 9.0 or newer")
        report = run_bench(ops, source, plan, progress=progress, tell=note)
    report["device_note"] = device_note
    report["overlap"] = overlaps
    print(json.dumps(report, indent=1) if as_json else "\n".join(table(report)))
    if plot is not None:
        plot_decode(report, plot)
        note(f"drawn: {plot}")


def find_source(model: str | None, random: str | None) -> Source:
    """The model that was asked for; the embedded story model where none was."""
    if random is not None:
        if model is not None:
            raise ValueError("give either --model or --random")
        return Source(random, random_config(random), None)
    name = "story" if model is None else model
    path = find_model(name)
    return Source(model_name(name), open_config(path), path)


def sizes(option: str, text: str) -> tuple[int, ...]:
    """The numbers of "1,8,64". Raises ValueError that names the option."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"{option} must be positive numbers such as 1,8,64, got {text!r}")
    return tuple(int(word) for word in words)


def table(report: dict[str, Any]) -> list[str]:
    """The report in lines of at most 80 columns."""
    roofs, dtype = report["roofs"], report["dtype"]
    random = " (random weights)" if report["weights"] == "random" else ""
    bits = f", matrices in {report['quantize']}," if report["quantize"] else ""
    if report["plan"]["kv_dtype"] != "auto":
        bits += f" KV cache in {report['plan']['kv_dtype']},"
    lines = [
        f"{report['model']}{random} in {dtype}{bits} on {report['device']}",
        f"reads {roofs['read_bytes_per_s'] / 1e9:.4g} GB/s, multiplies "
        f"{roofs['gemm_flops_per_s'] / 1e12:.4g} TFLOP/s ({roofs['gemm_size']} cubed)",
    ]
    if report["prefill"]:
        lines += ["", _line("prefill", "tok/s", "ms", "TFLOP/s", "% of GEMM rate")]
        lines += [
            _line(f"{row['prompt_len']} tokens", *_numbers(row, "tflop_s", "percent_of_gemm"))
            for row in report["prefill"]
        ]
    if report["decode"]:
        lines += ["", _line("decode", "tok/s", "ms/step", "GB/s", "% of reading")]
        lines += [
            _line(
                f"batch {row['batch_size']}, context {row['context']}",
                *_numbers(row, "gb_s", "percent_of_read"),
            )
            for row in report["decode"]
        ]
    lines += [f"skipped: {entry['what']}: {entry['reason']}" for entry in report["skipped"]]
    if any(row["percent_of_read"] > 100 for row in report["decode"]):
        lines.append("above 100 %: what a step reads fits into a cache")
    return lines


def _numbers(row: dict[str, Any], rate: str, percent: str) -> tuple[str, ...]:
    return (
        f"{row['tok_s']:.1f}",
        f"{row['ms']:.3f}",
        f"{row[rate]:.4g}",
        f"{row[percent]:.1f}",
    )


def _line(what: str, *columns: str) -> str:
    widths = (11, 11, 10, 16)
    return f"{what:<28}" + "".join(
        f"{column:>{width}}" for column, width in zip(columns, widths, strict=True)
    )
