"""What a constraint costs: the masks of one answer after the other, on one core, without a model.

python -m benchmarks.masks --model FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.sampling_params import SamplingParams
from llama_cu.sequence import Sequence
from llama_cu.server.constraint import Grammar, Grammars
from llama_cu.stopping import StopStrings

_TEXT = {"type": "string"}
_PERSON = {
    "name": _TEXT,
    "age": {"type": "integer"},
    "email": {"type": "string", "format": "email"},
    "tags": {"type": "array", "items": _TEXT},
    "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {"type": "object"},
    "person": {"type": "object", "properties": _PERSON, "required": list(_PERSON)},
    "dates": {"type": "array", "items": {"type": "string", "format": "date-time"}, "minItems": 20},
    "long text": {"type": "string", "minLength": 1000, "maxLength": 2000},
    "one of 500": {"enum": [f"value {i} of many" for i in range(500)]},
    "one text": {"const": "the quick brown fox " * 500},
}


def measure(grammar: Grammar, *, num_answers: int, num_tokens: int) -> list[float]:
    """Seconds of processor time for each token: a mask, and taking one of the tokens it allows."""
    times_s = []
    for seed in range(num_answers):
        rng = np.random.default_rng(seed)
        params = SamplingParams(ignore_eos=True)
        sequence = Sequence([0], 1, params, 0, frozenset(), num_tokens, None, StopStrings(()))
        constraint = grammar.constraint(sequence)
        for _ in range(num_tokens):
            began_s = time.thread_time()
            words = constraint.mask()
            mask_s = time.thread_time() - began_s
            bits = np.unpackbits(words.view(np.uint8), bitorder="little")
            token_id = int(rng.choice(bits.nonzero()[0]))
            began_s = time.thread_time()
            constraint.accept(token_id)
            times_s.append(mask_s + time.thread_time() - began_s)
            if constraint.finished:
                break
    return times_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=300)
    arguments = parser.parse_args()
    vocab_size = load_config(arguments.model).vocab_size
    began_s = time.thread_time()
    grammars = Grammars(Tokenizer(arguments.model), vocab_size=vocab_size, eos_token_ids=())
    print(f"{vocab_size} tokens, made ready in {time.thread_time() - began_s:.2f} s")
    print(f"{'schema':12} {'tokens':>7} {'median':>8} {'99 %':>8} {'largest':>8}   us")
    for name, schema in SCHEMAS.items():
        grammar = asyncio.run(grammars.of_schema(schema))
        times_s = measure(grammar, num_answers=arguments.answers, num_tokens=arguments.tokens)
        figures = [float(np.quantile(times_s, share)) * 1e6 for share in (0.5, 0.99, 1)]
        print(f"{name:12} {len(times_s):7} " + " ".join(f"{figure:8.0f}" for figure in figures))


if __name__ == "__main__":
    main()
