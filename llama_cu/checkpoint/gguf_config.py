"""ModelConfig from a GGUF file's metadata: config.json's fields are made, and read as ever."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig, read_config
from llama_cu.checkpoint.fields import Fields
from llama_cu.checkpoint.gguf import GgufFile
from llama_cu.checkpoint.gguf_tensors import ROPE_FACTORS
from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.convert import FLOAT16, FLOAT32
from llama_cu.errors import ModelError

ARCHITECTURES = ("llama", "qwen2", "qwen3")

# Keys behind the architecture's name that change the arithmetic in a way the model does not have,
# and the values that do not.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "attention.causal": (True,),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "attention.scale": (0,),
    "attention.temperature_scale": (0, 1),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "use_parallel_residual": (False,),
    "pooling_type": (0,),
    "rope.scaling.yarn_ext_factor": (1,),
    "rope.scaling.yarn_log_multiplier": (0,),
}
# Tokens that end an answer, by what they say: a file names few of those that its model ends with.
ENDINGS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
)
_CONTROL, _USER_DEFINED = 3, 4


def read_gguf_config(file: GgufFile) -> ModelConfig:
    """ModelConfig of a file. ModelError names the key, and what was expected and found."""
    return _Reader(file).config()


class _Reader:
    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.fields = fields = file.fields()
        if fields.integer("split.count", 0, minimum=0) > 1:
            raise fields.refuse("split.count", "must be 1: a model in several files is not read")
        self.architecture = fields.text("general.architecture")
        if self.architecture not in ARCHITECTURES:
            rule = f"must be one of {', '.join(ARCHITECTURES)}"
            raise fields.refuse("general.architecture", rule)
        for name, harmless in UNSUPPORTED.items():
            key = self.key(name)
            if fields.has(key) and fields.values[key] not in harmless:
                raise fields.refuse(key, "is not supported")

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number, or an array of one for each layer, which must be all the same."""
        key = self.key(name)
        value = self.file.metadata.get(key)
        if not isinstance(value, np.ndarray):
            return self.fields.integer(key, default, minimum=minimum)
        if value.size == 0 or (value != value[0]).any():
            raise self.fields.refuse(key, "must be the same for every layer")
        return Fields(self.fields.source, {key: value[0].item()}).integer(key, minimum=minimum)

    def number(self, name: str, default: float) -> float:
        return self.fields.number(self.key(name), default)

    def config(self) -> ModelConfig:
        hidden_size, num_heads = (
            self.integer("embedding_length"),
            self.integer("attention.head_count"),
        )
        eps = self.key("attention.layer_norm_rms_epsilon")
        values: dict[str, Any] = {
            "vocab_size": self.vocab_size(hidden_size),
            "hidden_size": hidden_size,
            "intermediate_size": self.integer("feed_forward_length"),
            "num_hidden_layers": self.integer("block_count"),
            "num_attention_heads": num_heads,
            "num_key_value_heads": self.integer("attention.head_count_kv", num_heads),
            "head_dim": self.head_dim(hidden_size, num_heads),
            "rms_norm_eps": self.fields.number(eps, above=False),
            "max_position_embeddings": self.integer("context_length"),
            "tie_word_embeddings": "output.weight" not in self.file.tensors,
            "rope_theta": self.number("rope.freq_base", 10000.0),
            "rope_scaling": self.rope_scaling(),
            "torch_dtype": self.dtype(),
            "bos_token_id": self.token_id("bos"),
            "eos_token_id": self.eos_token_ids(),
            **self.attention_kind(),
        }
        silent = Fields(self.fields.source, {})
        config = read_config(Fields(self.fields.source, values), silent)
        return replace(
            config,
            rope=self.rope(config),
            qkv_bias=config.qkv_bias or self.biased("attn_q"),
            o_bias=self.biased("attn_output"),
            mlp_bias=self.biased("ffn_gate"),
        )

    def vocab_size(self, hidden_size: int) -> int:
        """Rows of the embedding: metadata may have it otherwise, or not at all."""
        table = self.file.tensors.get("token_embd.weight")
        if table is None:
            raise ModelError(f"{self.fields.source}: tensor token_embd.weight: not found")
        if len(table.shape) != 2 or table.shape[1] != hidden_size:
            raise ModelError(
                f"{self.fields.source}: tensor token_embd.weight: expected shape "
                f"[vocab_size, {hidden_size}], found {list(table.shape)}"
            )
        return table.shape[0]

    def head_dim(self, hidden_size: int, num_heads: int) -> int:
        """key_length, from which neither values nor the rotated part may differ."""
        name = "attention.key_length"
        if not self.fields.has(self.key(name)) and hidden_size % num_heads:
            rule = f"must divide {self.key('embedding_length')} ({hidden_size})"
            raise self.fields.refuse(self.key("attention.head_count"), rule)
        head_dim = self.integer(name, max(1, hidden_size // num_heads))
        for other in ("attention.value_length", "rope.dimension_count"):
            if self.integer(other, head_dim) != head_dim:
                raise self.fields.refuse(self.key(other), f"must be the head size, {head_dim}")
        return head_dim

    def attention_kind(self) -> dict[str, Any]:
        """The model type, which says whether attention slides; only mistral's always does."""
        window = self.integer("attention.sliding_window", 0, minimum=0)
        context = self.integer("context_length")
        if window in (0, context) or window > context:
            return {"model_type": self.architecture}
        if self.architecture != "llama":
            key = self.key("attention.sliding_window")
            raise self.fields.refuse(key, f"is not supported for {self.architecture}")
        return {"model_type": "mistral", "sliding_window": window}

    def biased(self, name: str) -> bool:
        """Whether a product has a bias: the file's tensors say it."""
        return f"blk.0.{name}.bias" in self.file.tensors

    def rope_scaling(self) -> dict[str, Any] | None:
        """config.json's rope_scaling. As in llama.cpp, a factor without a type is linear."""
        key, factor_key = self.key("rope.scaling.type"), self.key("rope.scaling.factor")
        kind = self.fields.text(key, "linear")
        if kind not in ("none", "linear", "yarn"):
            raise self.fields.refuse(key, "must be one of none, linear, yarn")
        if not self.fields.has(factor_key):
            factor_key = self.key("rope.scale_linear")
        factor = self.fields.number(factor_key, 1.0, above=False) or 1.0
        if kind == "none" or (kind == "linear" and factor == 1.0):
            return None
        if kind == "linear":
            return {"rope_type": kind, "factor": factor}
        scale = self._yarn("attn_factor", 1.0) * self.number("rope.scaling.attn_factor", 1.0)
        return {
            "rope_type": kind,
            "factor": factor,
            "original_max_position_embeddings": self.integer(
                "rope.scaling.original_context_length", self.integer("context_length")
            ),
            "attention_factor": scale * (0.1 * math.log(max(factor, 1.0)) + 1.0),
            "beta_fast": self._yarn("beta_fast", 32.0),
            "beta_slow": self._yarn("beta_slow", 1.0),
        }

    def _yarn(self, name: str, default: float) -> float:
        return self.number(f"rope.scaling.yarn_{name}", default)

    def rope(self, config: ModelConfig) -> RopeConfig:
        """The config's RopeConfig, with the factors of Llama 3 where the file has them."""
        tensor = self.file.tensors.get(ROPE_FACTORS)
        if tensor is None:
            return config.rope
        name = f"{self.fields.source}: tensor {ROPE_FACTORS}"
        if tensor.shape != (config.head_dim // 2,) or tensor.block_type.dtype != FLOAT32:
            raise ModelError(
                f"{name}: expected F32 [{config.head_dim // 2}], "
                f"found {tensor.block_type.name} {list(tensor.shape)}"
            )
        if config.rope.rope_type != "default":
            raise ModelError(f"{name}: expected no other scaling, found {config.rope.rope_type}")
        factors = np.empty(tensor.shape, np.float32)
        self.file.read(ROPE_FACTORS, factors, 0)
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise ModelError(f"{name}: expected finite numbers above 0, found others")
        return replace(config.rope, rope_type="factors", freq_factors=tuple(factors.tolist()))

    def dtype(self) -> str:
        """The dtype of the matrices. Blocks were most likely made from bfloat16, which they fit."""
        kinds = {
            tensor.block_type.dtype
            for tensor in self.file.tensors.values()
            if len(tensor.shape) > 1
        }
        if kinds <= {FLOAT32}:
            return "float32"
        return "float16" if kinds <= {FLOAT32, FLOAT16} else "bfloat16"

    def token_id(self, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        return self.fields.integer(key, minimum=0) if self.fields.has(key) else None

    def eos_token_ids(self) -> list[int]:
        """What the metadata names, and every special token that is an ending by its text."""
        named = [self.token_id(name) for name in ("eos", "eot", "eom")]
        ids = [token_id for token_id in named if token_id is not None]
        tokens = self.file.strings("tokenizer.ggml.tokens")
        kinds = self.file.numbers("tokenizer.ggml.token_type")
        if tokens is not None and kinds is not None:
            special = np.flatnonzero((kinds == _CONTROL) | (kinds == _USER_DEFINED))
            ids += [int(i) for i in special if i < len(tokens) and tokens.text(int(i)) in ENDINGS]
        return sorted(set(ids))
