"""Makes the README's table of measurements from the reports in `benchmarks/results/`.

python -m benchmarks.readme_table            # writes it
python -m benchmarks.readme_table --check    # fails where it is not what the reports say
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT

README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- made by benchmarks/readme_table.py -->", "<!-- end -->"

# Folders that reports name, as their models are known.
MODELS = {"smollm2": "SmolLM2-135M", "story": "the embedded story model"}

Report = dict[str, Any]
Row = tuple[str, str, str]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    text = README.read_text("utf-8")
    wanted = with_table(text, table(RESULTS))
    if text == wanted:
        return 0
    if arguments.check:
        print("README.md: the table is not what the reports say", file=sys.stderr)
        return 1
    README.write_text(wanted, "utf-8")
    return 0


def with_table(text: str, table: str) -> str:
    """A text with what stands between the two marks replaced. ValueError where they are not."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected a line {BEGIN} and after it {END}")
    return f"{before}{begin}{table}{end}{after}"


def table(results: Path) -> str:
    """Markdown: what was measured, where, and what came out."""
    rows = [("what", "where", "result"), ("---", "---", "---"), *_rows(results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(results: Path) -> Iterator[Row]:
    paths = sorted(results.glob("*.json"))
    reports = {path.stem: json.loads(path.read_text("utf-8")) for path in paths}
    on_cpu: list[Row] = []
    for name, report in reports.items():
        where = name.partition("-")[2]
        if "numpy" in report.get("engines", {}) and "process start" in report["results"]:
            on_cpu += _cpu_peers(report, where)
    for name, report in reports.items():
        if "16 clients, throughput" in report.get("results", {}):
            on_cpu.append(_serving(report, name.partition("-")[2]))
    order = list(dict.fromkeys(what for what, _, _ in on_cpu))
    yield from sorted(on_cpu, key=lambda row: order.index(row[0]))
    measured = [row for report in reports.values() for row in _gpu(report)]
    yield from measured or [("anything on a GPU", "", "not measured yet")]


def _cpu_peers(report: Report, where: str) -> Iterator[Row]:
    results = report["results"]
    start = results["process start"]
    for name, what in (
        ("llama-cu --help", "`llama-cu --help`"),
        ("llama-cu story, first token", "`llama-cu story`, from process start to the first word"),
    ):
        yield what, where, f"{start[name]['median']:.2f} s"
    story = results["story model, decode"]["numpy"]["median"]
    yield "the embedded story model, float32, batch 1: decode", where, f"{_short(story)} tok/s"
    model = f"{_model(report)}, float32, batch 1"
    for kind, what in (("decode 128", "decode"), ("prefill 512", "prefill of 512 tokens")):
        result = f"{_short(results[kind]['numpy']['median'])} tok/s"
        ratio = report["ratios"][kind].get("numpy / transformers")
        if ratio is not None:
            result += f", {ratio['median']:.1f} times transformers"
        yield f"{model}: {what}", where, result


def _serving(report: Report, where: str) -> Row:
    one, many = (
        report["results"][f"{clients} clients, throughput"]["llama-cu"]["median"]
        for clients in (1, 16)
    )
    what = f"{_model(report)}, float32: `llama-cu serve`, 16 clients"
    return what, where, f"{_short(many)} tok/s, {many / one:.1f} times one client"


def _short(rate: float) -> str:
    """Three digits, and no exponent."""
    return f"{float(f'{rate:.3g}'):g}"


def _gpu(report: Report) -> Iterator[Row]:
    """Rows of a report that was made on a GPU; none of any other."""
    if "roofs" in report and "decode" in report and report.get("versions"):
        yield from _bench(report)
    elif "cuda" in report.get("engines", {}) and "decode 128" in report["ratios"]:
        for pair, ratio in report["ratios"]["decode 128"].items():
            what = f"{_model(report)}, decode at batch 1: {pair.replace('cuda', 'llama-cu')}"
            yield what, report["engines"]["cuda"].partition(",")[0], f"{ratio['median']:.2f}"


def _bench(report: Report) -> Iterator[Row]:
    if "cpu" in report["device"]:
        return
    model = f"{_model(report)}, {report['dtype']}"
    for row in report["decode"]:
        what = f"{model}: decode, batch {row['batch_size']}, context {row['context']}"
        percent = f"{row['percent_of_read']:.0f} % of the read bandwidth"
        yield what, report["device"], f"{row['tok_s']:.4g} tok/s, {percent}"
    for row in report["prefill"]:
        percent = f"{row['percent_of_gemm']:.0f} % of the GEMM rate"
        result = f"{row['tok_s']:.4g} tok/s, {percent}"
        yield f"{model}: prefill of {row['prompt_len']} tokens", report["device"], result


def _model(report: Report) -> str:
    name: str = report["model"]
    return MODELS.get(name, name)


if __name__ == "__main__":
    sys.exit(main())
