"""A tiny random model in memory, for tests of the rooms above the checkpoint."""

from __future__ import annotations

import numpy as np

from llama_cu.checkpoint.config import GenerationDefaults, ModelConfig
from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.checkpoint.weights import LayerWeights, Weights
from llama_cu.engine import Engine
from llama_cu.kv_cache import allocate_kv_cache
from llama_cu.model import Llama
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.sequence import Sequence
from llama_cu.stopping import StopStrings

MAX_MODEL_LEN = 128


def tiny_config(**changes):
    fields = {
        "model_type": "llama",
        "vocab_size": 101,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": MAX_MODEL_LEN,
        "tie_word_embeddings": False,
        "qkv_bias": False,
        "o_bias": False,
        "mlp_bias": False,
        "qk_norm": False,
        "sliding_windows": (None, None),
        "rope": RopeConfig(),
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_ids": (0,),
        "generation": GenerationDefaults(),
    }
    return ModelConfig(**{**fields, **changes})


def tiny_weights(config, ops, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape, center=0.0, spread=None):
        spread = spread or 1.5 / np.sqrt(shape[-1])
        host = (center + spread * rng.standard_normal(shape)).astype(np.float32)
        return ops.upload(host.astype(ops.dtype).astype(ops.storage_dtype))

    hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    q_size = config.num_attention_heads * size
    qkv_size = q_size + 2 * config.num_key_value_heads * size

    def layer():
        return LayerWeights(
            input_layernorm=draw(hidden, center=1.0, spread=0.1),
            qkv_proj=draw(qkv_size, hidden),
            qkv_bias=draw(qkv_size, spread=0.2) if config.qkv_bias else None,
            q_norm=draw(size, center=1.0, spread=0.1) if config.qk_norm else None,
            k_norm=draw(size, center=1.0, spread=0.1) if config.qk_norm else None,
            o_proj=draw(hidden, q_size),
            o_bias=draw(hidden, spread=0.2) if config.o_bias else None,
            post_attention_layernorm=draw(hidden, center=1.0, spread=0.1),
            gate_up_proj=draw(2 * inner, hidden),
            gate_up_bias=draw(2 * inner, spread=0.2) if config.mlp_bias else None,
            down_proj=draw(hidden, inner),
            down_bias=draw(hidden, spread=0.2) if config.mlp_bias else None,
        )

    return Weights(
        embed_tokens=draw(config.vocab_size, hidden, spread=1.0),
        layers=tuple(layer() for _ in range(config.num_hidden_layers)),
        norm=draw(hidden, center=1.0, spread=0.1),
        lm_head=draw(config.vocab_size, hidden, spread=3 / np.sqrt(hidden)),
    )


def make_engine(
    ops=None,
    config=None,
    *,
    num_blocks=64,
    block_size=4,
    max_batch_tokens=256,
    max_num_seqs=16,
    seed=0,
    enforce_eager=False,
    kv_dtype="auto",
):
    ops = ops or NumpyOps(DTYPES["float32"])
    config = config or tiny_config()
    model = Llama(config, tiny_weights(config, ops, seed), ops, max_model_len=MAX_MODEL_LEN)
    blocks = {"num_blocks": num_blocks, "block_size": block_size}
    cache = allocate_kv_cache(ops, config, **blocks, kv_dtype=kv_dtype)
    return Engine(
        model,
        cache,
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=max_num_seqs,
        enforce_eager=enforce_eager,
    )


def make_sequence(prompt, params, seed=None):
    return Sequence(
        token_ids=list(prompt),
        prompt_len=len(prompt),
        params=params,
        seed=(params.seed or 0) if seed is None else seed,
        eos_token_ids=frozenset({0}),
        max_len=MAX_MODEL_LEN,
        decoder=None,
        stops=StopStrings(()),
    )


def run(engine, prompts, params):
    """The answers' token ids, all prompts submitted at once."""
    sequences = [make_sequence(prompt, params) for prompt in prompts]
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        engine.step()
    return [sequence.answer_ids for sequence in sequences]
