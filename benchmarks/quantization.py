"""What fewer bits cost in quality, of weights and of the KV cache: perplexity and logits.

    python -m benchmarks.quantization --model FOLDER --text benchmarks/texts/essay.txt --json FILE

Every type is a run of its own of the NumPy backend, whose weights are worth what those of a device
are. The error of the logits is relative to their norm, over all tokens of the text; the divergence
is the mean of Kullback and Leibler's over tokens, in nats, from the model as it is in the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import describe_run, write_json
from llama_cu import LLM
from llama_cu.cli.load import model_name
from llama_cu.find_model import find_model
from llama_cu.perplexity import perplexity
from llama_cu.quantized import SCHEMES

CONTEXT = 512
# By name, the options of LLM.
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    **{name: {"quantize": name} for name in SCHEMES},
    "KV cache in int8": {"kv_dtype": "int8"},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="story", help="folder, GGUF file or name")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text to score")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    rows = measure(find_model(arguments.model), text, dtype=arguments.dtype)
    report = {
        **describe_run(),
        "model": model_name(arguments.model),
        "text": arguments.text.name,
        "dtype": arguments.dtype,
        "rows": rows,
    }
    print("\n".join(table(rows)))
    write_json(arguments.json, report)
    return 0


def measure(model: Path, text: str, *, dtype: str) -> list[dict[str, Any]]:
    """A row for each of KINDS, the model as it is first."""
    rows: list[dict[str, Any]] = []
    plain: np.ndarray | None = None
    for name, options in KINDS.items():
        llm = LLM(model, device="cpu", dtype=dtype, **options)
        context = min(CONTEXT, llm.context_len)
        found = perplexity(llm, text, context=context)
        logits = llm.logits(llm.encode(text)[:context]).astype(np.float64)
        row = {
            "type": name,
            "perplexity": found.perplexity,
            "bits_per_byte": found.bits_per_byte,
            "tokens": found.num_tokens,
        }
        if plain is None:
            plain = logits
        else:
            row["logit_error"] = float(np.linalg.norm(logits - plain) / np.linalg.norm(plain))
            row["divergence"] = divergence(plain, logits)
            row["same_best"] = float((logits.argmax(-1) == plain.argmax(-1)).mean())
        rows.append(row)
    return rows


def divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    """The mean Kullback-Leibler divergence of rows of logits [num_tokens, vocab_size], in nats."""
    first, second = _log_softmax(wanted), _log_softmax(found)
    return float((np.exp(first) * (first - second)).sum(-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in Markdown."""
    lines = [
        "| type | perplexity | bits per byte | error of logits | divergence | same best token |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row["type"], f"{row['perplexity']:.3f}", f"{row['bits_per_byte']:.4f}"]
        if "logit_error" in row:
            cells += [f"{row['logit_error']:.4f}", f"{row['divergence']:.5f}"]
            cells.append(f"{row['same_best']:.1%}")
        else:
            cells += ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
