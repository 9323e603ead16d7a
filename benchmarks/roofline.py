"""What a decode step and a prefill cost at least: bytes, flops, launches, and the roofs' time.

    python -m benchmarks.roofline

Arithmetic, not a measurement: from the shapes of models and the bandwidths and rates that the
makers of the cards state. `NOTES.md` holds its output beside what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llama_cu.bench.shapes import random_config
from llama_cu.bench.traffic import decode_bytes, decode_flops, prefill_flops
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.quantized import find_scheme

ITEMSIZE = 2  # of bfloat16 and float16
PARTITION = 256  # keys of a block of attention_decode.cu
ONE_BLOCK_ARGMAX = 32768  # logits that one block looks through


@dataclass(frozen=True)
class Card:
    """As its maker states it: bytes per second, and dense bfloat16 flops per second."""

    name: str
    bandwidth: float
    flops: float


CARDS = (Card("H100 SXM", 3.35e12, 989e12), Card("H200", 4.8e12, 989e12))
# Model, sequences, context, and what is in fewer bits: the weights, the KV cache.
STEPS: tuple[tuple[str, int, int, str | None, str], ...] = (
    ("llama-3.1-8b", 1, 512, None, "auto"),
    ("llama-3.1-8b", 1, 8192, None, "auto"),
    ("llama-3.1-8b", 1, 32768, None, "auto"),
    ("llama-3.1-8b", 64, 1024, None, "auto"),
    ("llama-3.1-8b", 1, 512, "int8", "auto"),
    ("llama-3.1-8b", 1, 512, "int4", "auto"),
    ("llama-3.1-8b", 1, 32768, None, "int8"),
    ("llama-3.1-8b", 1, 32768, "int4", "int8"),
    ("llama-3.2-1b", 1, 512, None, "auto"),
    ("qwen2.5-0.5b", 1, 512, None, "auto"),
    ("smollm2-135m", 1, 512, None, "auto"),
    ("story", 1, 256, None, "auto"),
)
PREFILLS = (("llama-3.1-8b", 2048), ("llama-3.2-1b", 2048), ("smollm2-135m", 2048))


def main() -> None:
    print("\n".join([*decode_table(), "", *prefill_table()]))


def decode_table() -> Iterator[str]:
    """Lines of Markdown: greedy decode steps, and what the roofs allow."""
    cards = [f"{card.name}: ms, tok/s" for card in CARDS]
    yield from _head("decode step", "GB read", "GFLOP", "launches", *cards)
    for name, batch_size, context, bits, kv_dtype in STEPS:
        config, contexts = random_config(name), (context,) * batch_size
        scheme = find_scheme(bits)
        num_bytes = decode_bytes(
            config, ITEMSIZE, context_lens=contexts, scheme=scheme, kv_dtype=kv_dtype
        )
        flops = decode_flops(config, context_lens=contexts)
        roofs = [max(num_bytes / card.bandwidth, flops / card.flops) for card in CARDS]
        launches = decode_launches(config, num_rows=batch_size, context=context)
        yield _line(
            f"{name}{f' {bits}' if bits else ''}, batch {batch_size}, context {context}"
            f"{'' if kv_dtype == 'auto' else f' in {kv_dtype}'}",
            f"{num_bytes / 1e9:.3f}",
            f"{flops / 1e9:.1f}",
            f"{launches}",
            *(f"{s * 1e3:.3f}, {batch_size / s:.0f}" for s in roofs),
        )


def prefill_table() -> Iterator[str]:
    """Lines of Markdown: prefills of one prompt, and what the GEMM rate allows."""
    yield from _head("prefill", "TFLOP", *(f"{card.name}: ms" for card in CARDS))
    for name, prompt_len in PREFILLS:
        flops = prefill_flops(random_config(name), prompt_len=prompt_len)
        times = (f"{flops / card.flops * 1e3:.2f}" for card in CARDS)
        yield _line(f"{name}, {prompt_len} tokens", f"{flops / 1e12:.2f}", *times)


def decode_launches(config: ModelConfig, *, num_rows: int, context: int) -> int:
    """Kernels of a captured greedy step of up to 8 rows; of more, whose products are cuBLAS's.

    A product of cuBLAS counts as one, though it may take two.
    """
    few = num_rows <= 8
    attention = 1 if context <= PARTITION else 2
    # q/k/v with its norm, heads, attention, output, gate/up with its norm and SwiGLU, down.
    layer = 5 + attention
    if not few:
        biases = config.qkv_bias + config.o_bias + 2 * config.mlp_bias
        layer += 3 + biases  # two norms and SwiGLU
    before = 3  # what the step derives from the lengths, the embedding's rows, the angles
    after = (1 if few else 2) + (1 if config.vocab_size <= ONE_BLOCK_ARGMAX else 2)
    return before + config.num_hidden_layers * layer + after


def _head(*columns: str) -> Iterator[str]:
    yield _line(*columns)
    yield _line(*("---" for _ in columns))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
