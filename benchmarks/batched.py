"""Many sequences in one batch, without a server: what HTTP and scheduling are measured against.

    python -m benchmarks.batched llama-cu FOLDER --clients 16
    python -m benchmarks.batched llama.cpp FILE.gguf --clients 16

Prints tokens per second. `benchmarks.serve` runs it in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PROMPT_WORDS = 48
_WORDS = (
    "tree", "house", "river", "cloud", "stone", "happy", "little", "great", "round", "quick",
    "story", "friend",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("llama-cu", "llama.cpp"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if arguments.engine == "llama-cu":
        generate = _llama_cu(arguments.model, arguments.device, arguments.clients)
    else:
        generate = _llama_cpp(arguments.model, arguments.clients)
    generate(random_prompts(arguments.clients, seed=0), arguments.tokens)
    prompts = random_prompts(arguments.clients * 2, seed=1)
    began = time.perf_counter()
    num_tokens = generate(prompts, arguments.tokens)
    print(num_tokens / (time.perf_counter() - began))


def random_prompts(count: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(_WORDS, k=PROMPT_WORDS)) for _ in range(count)]


def _llama_cu(model: Path, device: str, num_seqs: int) -> Callable[[list[str], int], int]:
    from llama_cu import LLM, SamplingParams

    llm = LLM(model, device=device, max_num_seqs=num_seqs)

    def generate(prompts: list[str], tokens: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return sum(len(output.token_ids) for output in llm.generate(prompts, params))

    return generate


def _llama_cpp(gguf: Path, num_seqs: int) -> Callable[[list[str], int], int]:
    import llama_cpp

    room = 512  # tokens of a sequence
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        os.fsencode(gguf), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_seq_max = room * num_seqs, room * num_seqs, num_seqs
    params.n_threads = params.n_threads_batch = os.cpu_count()
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
    batch = llama_cpp.llama_batch_init(room * num_seqs, 0, 1)

    def tokenize(prompt: str) -> list[int]:
        text, ids = prompt.encode(), (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(vocab, text, len(text), ids, room, True, False)
        return list(ids[:count])

    def decode(pieces: list[list[int]], positions: list[int]) -> list[list[int]]:
        batch.n_tokens = 0
        last = []
        for seq, (piece, position) in enumerate(zip(pieces, positions, strict=True)):
            for offset, token in enumerate(piece):
                i = batch.n_tokens
                batch.token[i], batch.pos[i] = token, position + offset
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq
                batch.logits[i] = offset == len(piece) - 1
                batch.n_tokens += 1
            last.append(batch.n_tokens - 1)
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        rows = (llama_cpp.llama_get_logits_ith(context, i) for i in last)
        return [[int(np.ctypeslib.as_array(row, (vocab_size,)).argmax())] for row in rows]

    def generate(prompts: list[str], tokens: int) -> int:
        for first in range(0, len(prompts), num_seqs):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            pieces = [tokenize(prompt) for prompt in prompts[first : first + num_seqs]]
            positions = [0] * len(pieces)
            for _ in range(tokens):
                following = decode(pieces, positions)
                positions = [p + len(piece) for p, piece in zip(positions, pieces, strict=True)]
                pieces = following
        return len(prompts) * tokens

    return generate


if __name__ == "__main__":
    main()
