"""SamplingParams: wrong values are refused by name, rule and value."""

import dataclasses
import math

import numpy as np
import pytest

from llama_cu.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("temperature", -0.1, r"\[0, 100\]"),
        ("temperature", float("nan"), r"\[0, 100\]"),
        ("temperature", "hot", r"\[0, 100\]"),
        ("temperature", 10**400, r"\[0, 100\]"),
        ("presence_penalty", -(10**400), r"\[-100, 100\]"),
        ("top_k", -2, "at least -1"),
        ("top_k", 1.5, "an integer"),
        ("top_p", 0, r"\(0, 1\]"),
        ("top_p", 1.7, r"\(0, 1\]"),
        ("min_p", 1.1, r"\[0, 1\]"),
        ("repetition_penalty", 0, r"\[0.01, 100\]"),
        ("presence_penalty", 1000, r"\[-100, 100\]"),
        ("frequency_penalty", None, r"\[-100, 100\]"),
        ("logit_bias", {-1: 2.0}, "at least 0"),
        ("logit_bias", {3: "x"}, r"\[-1000000.0, 1000000.0\]"),
        ("logit_bias", [3], "must map"),
        ("logit_bias", 0, "must map"),
        ("logit_bias", {3: math.inf}, "1000000.0"),
        ("logit_bias", {3: 10**400}, "1000000.0"),
        ("repetition_penalty", 1e-38, "0.01"),
        ("stop", 5, "a list of them"),
        ("stop", {"a": 1}, "a list of them"),
        ("stop", True, "a list of them"),
        ("stop_token_ids", 5, "a list of token ids"),
        ("stop_token_ids", "12", "a list of token ids"),
        ("stop_token_ids", np.array(5), "a list of token ids"),
        ("max_tokens", 0, "at least 1"),
        ("max_tokens", True, "an integer"),
        ("min_tokens", -1, "at least 0"),
        ("stop", "", "non-empty"),
        ("stop", ["a", 3], "non-empty"),
        ("stop_token_ids", [-1], "at least 0"),
        ("ignore_eos", 1, "True or False"),
        ("seed", -1, "at least 0"),
        ("seed", 2**64, "at most"),
        ("n", 0, "at least 1"),
        ("logprobs", 65, "at most 64"),
    ],
)
def test_a_wrong_value_is_refused_by_name_rule_and_value(name, value, rule):
    with pytest.raises(ValueError, match=f"{name}.*{rule}.*got"):
        SamplingParams(**{name: value})


def test_min_tokens_above_max_tokens_is_refused():
    with pytest.raises(ValueError, match=r"min_tokens must be at most max_tokens \(3\), got 4"):
        SamplingParams(max_tokens=3, min_tokens=4)


@pytest.mark.parametrize(
    "name", ["top_k", "max_tokens", "min_tokens", "seed", "n", "logprobs", "prompt_logprobs"]
)
def test_whole_numbers_of_numpy_become_those_of_python(name):
    value = getattr(SamplingParams(**{name: np.int8(5)}), name)
    assert value == 5 and type(value) is int


def test_values_are_normalised_and_frozen():
    params = SamplingParams(stop="END", stop_token_ids=[3], logit_bias={5: 1})
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (("END",), (3,), {5: 1.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.temperature = 0
