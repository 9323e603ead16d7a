"""RopeConfig from config.json, in either of the two forms that transformers has given it."""

from __future__ import annotations

from llama_cu.checkpoint.fields import Fields
from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.errors import ModelError

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


def read_rope(fields: Fields, *, head_dim: int) -> RopeConfig:
    """RopeConfig as transformers 4 writes it (`rope_theta`, `rope_scaling`) or as transformers 5
    does (`rope_parameters`). ModelError for a type or value that cannot be run."""
    parameters = _parameters(fields)
    theta = _holder("rope_theta", parameters, fields).number("rope_theta", 10000.0)
    partial = _holder("partial_rotary_factor", parameters, fields)
    if partial.number("partial_rotary_factor", 1.0) != 1.0:
        raise partial.refuse("partial_rotary_factor", "must be 1")
    rope_type = _rope_type(parameters)
    if rope_type == "default":
        return RopeConfig(rope_theta=theta)
    if rope_type == "dynamic" and head_dim == 2:
        raise parameters.refuse("rope_type", "needs a head_dim above 2")
    if rope_type in ("linear", "dynamic"):
        return RopeConfig(rope_type, theta, _factor(parameters))
    name = "original_max_position_embeddings"
    original = _holder(name, fields, parameters).integer(
        name, fields.integer("max_position_embeddings")
    )
    if rope_type == "llama3":
        return _read_llama3(parameters, theta, original)
    return _read_yarn(fields, parameters, theta, original)


def _parameters(fields: Fields) -> Fields:
    scaling, parameters = fields.nested("rope_scaling"), fields.nested("rope_parameters")
    if scaling and parameters and scaling.values != parameters.values:
        raise fields.refuse("rope_scaling", "contradicts rope_parameters")
    found = scaling or parameters or Fields(fields.source, {})
    # transformers 5 may keep one set per layer type; these architectures rotate all layers alike.
    sets = [value for value in found.values.values() if isinstance(value, dict)]
    if not sets:
        return found
    if len(sets) != len(found.values) or any(one != sets[0] for one in sets):
        raise ModelError(
            f"{found.source}: must be the same for every layer type, got {found.values}"
        )
    return Fields(found.source, sets[0])


def _holder(name: str, first: Fields, second: Fields) -> Fields:
    """Where a field is read that may stand in two places: the first that has it."""
    return first if first.has(name) else second


def _rope_type(parameters: Fields) -> str:
    names = {parameters.text(name) for name in ("rope_type", "type") if parameters.has(name)}
    if len(names) > 1:
        raise parameters.refuse("rope_type", f"contradicts type {parameters.values['type']!r}")
    rope_type = names.pop() if names else "default"
    if rope_type not in ROPE_TYPES:
        name = "rope_type" if parameters.has("rope_type") else "type"
        raise parameters.refuse(name, f"must be one of {', '.join(ROPE_TYPES)}")
    return rope_type


def _factor(parameters: Fields) -> float:
    return parameters.number("factor", minimum=1.0, above=False)


def _read_llama3(parameters: Fields, theta: float, original: int) -> RopeConfig:
    low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
    if high <= low:
        raise parameters.refuse("high_freq_factor", f"must be above low_freq_factor ({low:g})")
    return RopeConfig("llama3", theta, _factor(parameters), original, low, high)


def _read_yarn(fields: Fields, parameters: Fields, theta: float, original: int) -> RopeConfig:
    def optional(name: str) -> float | None:
        return parameters.number(name, above=False) if parameters.has(name) else None

    if "factor" in parameters.values and not parameters.has("factor"):
        factor = fields.integer("max_position_embeddings") / original
    else:
        factor = _factor(parameters)
    if theta == 1.0:
        raise fields.refuse("rope_theta", "must not be 1 for rope type yarn")
    return RopeConfig(
        "yarn",
        theta,
        factor,
        original,
        attention_factor=optional("attention_factor"),
        mscale=optional("mscale"),
        mscale_all_dim=optional("mscale_all_dim"),
        # 0 counts as not given, as in transformers
        beta_fast=optional("beta_fast") or 32.0,
        beta_slow=optional("beta_slow") or 1.0,
        # and an explicit null is false
        truncate=parameters.flag("truncate", "truncate" not in parameters.values),
    )
