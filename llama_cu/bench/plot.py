"""Draws a report: decode over batch size and over context, against the roof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_cu.errors import BackendUnavailable

Row = dict[str, Any]

_INK, _GRID = "#333333", "#dddddd"
_COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8c5e9e", "#c07d16", "#4a5568")


def check_plotting(path: Path) -> None:
    """Raise before anything is measured: BackendUnavailable without matplotlib, ValueError for a
    file that it could not write.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BackendUnavailable("--plot needs matplotlib: pip install 'llama-cu[plot]'") from None
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"--plot must end in .svg, .png or .pdf, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot: {path.parent} is no folder")


def plot_decode(report: dict[str, Any], path: Path) -> None:
    """Write the picture. The report must have decode rows, or ValueError."""
    rows: list[Row] = report["decode"]
    if not rows:
        raise ValueError("--plot: no decode was measured, there is nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    over_batch, over_context = figure.subplots(1, 2, sharey=True)
    _draw(over_batch, rows, x="batch_size", by="context", name=lambda v: f"context {v}")
    _draw(over_context, rows, x="context", by="batch_size", name=lambda v: f"batch {v}")
    over_batch.set_xlabel("batch size")
    over_batch.set_ylabel("decoded tokens per second")
    over_context.set_xlabel("context, tokens")
    random = ", random weights" if report["weights"] == "random" else ""
    figure.suptitle(
        f"{report['model']}, {report['dtype']}{random}, on {report['device']}\n"
        f"dashed: the roof of {report['roofs']['read_bytes_per_s'] / 1e9:.0f} GB/s read",
        fontsize=10,
        color=_INK,
    )
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw(axes: Any, rows: list[Row], *, x: str, by: str, name: Callable[[int], str]) -> None:
    """One line for each value of `by`, and its roof."""
    for index, value in enumerate(sorted({row[by] for row in rows})):
        line = sorted((row for row in rows if row[by] == value), key=lambda row: row[x])
        xs, colour = [row[x] for row in line], _COLOURS[index % len(_COLOURS)]
        axes.plot(xs, [row["tok_s"] for row in line], "o-", color=colour, label=name(value))
        axes.plot(xs, [row["roof_tok_s"] for row in line], "--", color=colour, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({row[x] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(True, color=_GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelleft=True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=6, frameon=False, fontsize=8)
