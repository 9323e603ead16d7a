"""ModelConfig, from config.json and generation_config.json; what cannot be run is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llama_cu.checkpoint.fields import Fields, read_json_object
from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.checkpoint.rope_fields import read_rope
from llama_cu.checkpoint.tensor_set import stored_dtype

DTYPES = ("float32", "float16", "bfloat16")

# A corrupt config must not have a loader count to 10^30.
_MOST_LAYERS = 4096


@dataclass(frozen=True)
class Defaults:
    """What transformers takes where config.json is silent; None: derived from other fields."""

    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None


ARCHITECTURES = {
    "llama": Defaults(2048, bos_token_id=1, eos_token_id=2),
    "mistral": Defaults(131072, 8, sliding_window=4096, bos_token_id=1, eos_token_id=2),
    "qwen2": Defaults(32768, 32, sliding_window=4096),
    "qwen3": Defaults(32768, 32, head_dim=128, sliding_window=4096),
}

# Where attention_bias may be true: qwen2 has its bias on q, k and v whatever the field says.
BIASED = ("llama", "qwen2", "qwen3")

# Fields that change the arithmetic in a way the model does not have, and the values that do not.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "quantization_config": (),
    "num_experts": (0,),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0,),
    "num_experts_per_tok": (0,),
    "moe_intermediate_size": (0,),
    "use_mrope": (False,),
    "rope_interleaved": (False,),
}


@dataclass(frozen=True)
class GenerationDefaults:
    """How the checkpoint's authors would sample; None where generation_config.json is silent."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-family model. Names are config.json's; every default is already filled in."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]  # per layer; None attends to everything before
    rope: RopeConfig
    dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    generation: GenerationDefaults


def load_config(folder: str | Path) -> ModelConfig:
    """ModelConfig of a checkpoint folder, with generation_config.json where there is one.

    ModelError names the file, the field and its value.
    """
    path = Path(folder) / "config.json"
    fields = Fields(str(path), read_json_object(path))
    generation_path = Path(folder) / "generation_config.json"
    values = read_json_object(generation_path) if generation_path.exists() else {}
    config = read_config(fields, Fields(str(generation_path), values))
    if fields.has("dtype") or fields.has("torch_dtype"):
        return config
    # A checkpoint that does not say is in the dtype of its weights.
    return replace(config, dtype=stored_dtype(folder) or config.dtype)


def read_config(fields: Fields, generation: Fields) -> ModelConfig:
    """ModelConfig from the fields of config.json and of generation_config.json."""
    model_type = fields.text("model_type")
    if model_type not in ARCHITECTURES:
        raise fields.refuse("model_type", f"must be one of {', '.join(ARCHITECTURES)}")
    _refuse_unsupported(fields, model_type)
    defaults = ARCHITECTURES[model_type]
    max_positions = fields.integer("max_position_embeddings", defaults.max_position_embeddings)
    fields = Fields(fields.source, {**fields.values, "max_position_embeddings": max_positions})
    num_heads = fields.integer("num_attention_heads")
    num_layers = fields.integer("num_hidden_layers")
    if num_layers > _MOST_LAYERS:  # each would be looked for among the tensors
        raise fields.refuse("num_hidden_layers", f"must be at most {_MOST_LAYERS}")
    head_dim = _head_dim(fields, defaults, num_heads)
    attention_bias = fields.flag("attention_bias", False)
    return ModelConfig(
        model_type=model_type,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=_num_key_value_heads(fields, defaults, num_heads),
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6, above=False),
        max_position_embeddings=max_positions,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        qkv_bias=attention_bias or model_type == "qwen2",
        o_bias=attention_bias and model_type != "qwen2",
        mlp_bias=fields.flag("mlp_bias", False),
        qk_norm=model_type == "qwen3",
        sliding_windows=_sliding_windows(fields, defaults, model_type, num_layers),
        rope=read_rope(fields, head_dim=head_dim),
        dtype=_dtype(fields),
        bos_token_id=_bos_token_id(fields, generation, defaults),
        eos_token_ids=_token_ids("eos_token_id", fields, generation, defaults.eos_token_id),
        generation=_generation_defaults(generation),
    )


def _refuse_unsupported(fields: Fields, model_type: str) -> None:
    for name, harmless in UNSUPPORTED.items():
        if fields.has(name) and fields.values[name] not in harmless:
            raise fields.refuse(name, "is not supported")
    if fields.text("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.refuse("hidden_act", "must be silu")
    # transformers would build these models without the bias and never say so
    for name, with_bias in (("attention_bias", BIASED), ("mlp_bias", ("llama",))):
        if fields.flag(name, False) and model_type not in with_bias:
            raise fields.refuse(name, f"must be false for model_type {model_type}")


def _num_key_value_heads(fields: Fields, defaults: Defaults, num_heads: int) -> int:
    name = "num_key_value_heads"
    # transformers: an explicit null means one per query head, an absent field the class's default
    default = defaults.num_key_value_heads if name not in fields.values else None
    num_kv_heads = fields.integer(name, default or num_heads)
    if num_heads % num_kv_heads:
        fields = Fields(fields.source, {**fields.values, name: num_kv_heads})
        raise fields.refuse(name, f"must divide num_attention_heads ({num_heads})")
    return num_kv_heads


def _head_dim(fields: Fields, defaults: Defaults, num_heads: int) -> int:
    hidden_size = fields.integer("hidden_size")
    if not fields.has("head_dim") and defaults.head_dim is None and hidden_size % num_heads:
        rule = f"must divide hidden_size ({hidden_size}) where head_dim is absent"
        raise fields.refuse("num_attention_heads", rule)
    head_dim = fields.integer("head_dim", defaults.head_dim or hidden_size // num_heads)
    if head_dim % 2:
        fields = Fields(fields.source, {"head_dim": head_dim})
        raise fields.refuse("head_dim", "must be even")
    return head_dim


def _sliding_windows(
    fields: Fields, defaults: Defaults, model_type: str, num_layers: int
) -> tuple[int | None, ...]:
    window = _sliding_window(fields, defaults, model_type)
    first = 0
    if model_type.startswith("qwen"):
        first = fields.integer("max_window_layers", 28, minimum=0)
    windows = tuple(window if layer >= first else None for layer in range(num_layers))
    layer_types = fields.values.get("layer_types")
    if layer_types is None:
        return windows
    known = {"full_attention", "sliding_attention"}
    if not isinstance(layer_types, list) or not set(map(str, layer_types)) <= known:
        raise fields.refuse("layer_types", f"must be a list of {' and '.join(sorted(known))}")
    if len(layer_types) != num_layers:
        rule = f"must have num_hidden_layers ({num_layers}) entries"
        raise fields.refuse("layer_types", rule)
    slides = [layer_type == "sliding_attention" for layer_type in layer_types]
    if any(slides) and window is None:
        raise fields.refuse("layer_types", "has sliding_attention, but no sliding_window is in use")
    listed = tuple(window if sliding else None for sliding in slides)
    # transformers reads layer_types for qwen alone; elsewhere it would silently not be obeyed
    if not model_type.startswith("qwen") and listed != windows:
        raise fields.refuse("layer_types", f"contradicts sliding_window {window}")
    return listed


def _sliding_window(fields: Fields, defaults: Defaults, model_type: str) -> int | None:
    if model_type == "llama":
        return None
    if model_type.startswith("qwen") and not fields.flag("use_sliding_window", False):
        return None
    if "sliding_window" in fields.values and not fields.has("sliding_window"):
        return None
    return fields.integer("sliding_window", defaults.sliding_window)


def _dtype(fields: Fields) -> str:
    name = "dtype" if fields.has("dtype") else "torch_dtype"
    dtype = fields.text(name, "float32")
    if dtype not in DTYPES:
        raise fields.refuse(name, f"must be one of {', '.join(DTYPES)}")
    return dtype


def _bos_token_id(fields: Fields, generation: Fields, defaults: Defaults) -> int | None:
    ids = _token_ids("bos_token_id", fields, generation, defaults.bos_token_id)
    if len(ids) > 1:
        raise fields.refuse("bos_token_id", "must be one token id")
    return ids[0] if ids else None


def _token_ids(
    name: str, fields: Fields, generation: Fields, default: int | None
) -> tuple[int, ...]:
    """generation_config.json's ids replace config.json's, as in transformers."""
    if generation.has(name):
        return generation.integers(name)
    if name not in fields.values and default is not None:
        return (default,)
    return fields.integers(name)


def _generation_defaults(generation: Fields) -> GenerationDefaults:
    def number(name: str, *, above: bool = False) -> float | None:
        return generation.number(name, above=above) if generation.has(name) else None

    return GenerationDefaults(
        do_sample=generation.flag("do_sample", False) if generation.has("do_sample") else None,
        temperature=number("temperature"),
        top_k=generation.integer("top_k", minimum=0) if generation.has("top_k") else None,
        top_p=number("top_p", above=True),
        min_p=number("min_p"),
        repetition_penalty=number("repetition_penalty", above=True),
    )
