"""Perplexity of GGUF files, by llama-cu and by llama.cpp: whether both read the same weights.

    pip install llama-cpp-python
    python -m benchmarks.gguf_types FILE.gguf ... --text benchmarks/texts/essay.txt --json REPORT

Both score the same windows of 512 tokens, half of them new. llama.cpp rounds activations to 8 bits
before it multiplies by quantized weights, llama-cu expands the weights; so they differ a little.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import describe_run, write_json
from llama_cu import LLM
from llama_cu.checkpoint.tensor_set import stored_bytes
from llama_cu.perplexity import perplexity, windows

CONTEXT = 512


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text to score")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    rows = [measure(path, text) for path in arguments.files]
    print("\n".join(table(rows)))
    write_json(arguments.json, {**describe_run(), "text": arguments.text.name, "rows": rows})
    return 0


def measure(path: Path, text: str) -> dict[str, Any]:
    """Both perplexities of a file, and what it is made of."""
    llm = LLM(path, device="cpu")
    found = perplexity(llm, text, context=CONTEXT)
    sizes = stored_bytes(path)
    row = {
        "file": path.stem,
        "types": {kind: round(size / sum(sizes.values()), 3) for kind, size in sizes.items()},
        "tokens": found.num_tokens,
        "perplexity": found.perplexity,
    }
    try:
        ids = llm.encode(text)
        assert llm.tokenizer is not None
        row["llama.cpp"] = theirs(path, ids, bos=ids[0] == llm.tokenizer.bos_token_id)
    except ModuleNotFoundError:
        row["llama.cpp"] = None
    return row


def theirs(path: Path, token_ids: list[int], *, bos: bool) -> float:
    """llama.cpp's perplexity in the windows of `llama_cu.perplexity`."""
    import llama_cpp

    sizes = {"n_ctx": CONTEXT, "n_batch": CONTEXT}
    model = llama_cpp.Llama(str(path), **sizes, logits_all=True, verbose=False)
    head = token_ids[:1] if bos else []
    body = token_ids[len(head) :]
    nats, count = 0.0, 0
    for window, first in windows(len(body), CONTEXT - len(head), CONTEXT // 2):
        ids = head + body[window.start : window.stop]
        model.reset()
        model.eval(ids)
        logits = np.array(model.scores[: len(ids)], np.float64)
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        for at in range(max(len(head) + first - window.start, 1), len(ids)):
            nats -= float(logits[at - 1, ids[at]])
            count += 1
    return math.exp(nats / count)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in Markdown."""
    lines = [
        "| file | types | llama-cu | llama.cpp | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ours, other = row["perplexity"], row["llama.cpp"]
        shares = row["types"].items()
        types = ", ".join(f"{kind} {share:.0%}" for kind, share in shares if share > 0.005)
        cells = [row["file"], types, f"{ours:.3f}"]
        cells += ["", ""] if other is None else [f"{other:.3f}", f"{ours / other - 1:+.2%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
