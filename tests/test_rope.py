from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.rope import (
    attention_scaling,
    default_max_model_len,
    inv_freq_table,
    rope_row,
)
from tests.checkpoints import SMALL_LLAMA
from tests.goldens.cases import ROPE_CASES

GOLDEN = Path(__file__).parent / "goldens" / "inv_freq.npz"


def config_with(folder: Path, fields: dict):
    (folder / "config.json").write_text(json.dumps({**SMALL_LLAMA, **fields}))
    return load_config(folder)


@pytest.mark.parametrize("name", ROPE_CASES)
def test_frequencies_equal_those_of_transformers_to_the_last_bits(name, tmp_path):
    fields, lengths = ROPE_CASES[name]
    config = config_with(tmp_path, fields)
    table = inv_freq_table(config, max(lengths))
    rows = [rope_row(config, length - 1, length) for length in lengths]
    with np.load(GOLDEN) as golden:
        want, scaling = golden[name], float(golden[f"{name}.scaling"])
    assert table.dtype == np.float32 and table.shape[1] == config.head_dim // 2
    assert np.abs(table[rows].view(np.int32) - want.view(np.int32)).max() <= 4
    assert attention_scaling(config) == pytest.approx(scaling, rel=1e-12)


def test_static_types_have_one_row_for_every_token(tmp_path):
    config = config_with(tmp_path, {"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert inv_freq_table(config, 256).shape[0] == 1
    assert {rope_row(config, position, 200) for position in (0, 127, 128, 255)} == {0}


def test_a_dynamic_prompt_is_rotated_by_its_length_and_an_answer_token_by_its_own(tmp_path):
    config = config_with(tmp_path, {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    assert [rope_row(config, position, 100) for position in (0, 99, 100, 127)] == [0, 0, 0, 0]
    assert [rope_row(config, position, 130) for position in (0, 64, 129)] == [2, 2, 2]
    assert [rope_row(config, position, 100) for position in (128, 129, 255)] == [1, 2, 128]
    assert [rope_row(config, position, 130) for position in (130, 255)] == [3, 128]
    assert inv_freq_table(config, default_max_model_len(config)).shape[0] == 129


def test_dynamic_frequencies_are_the_plain_ones_up_to_the_trained_length(tmp_path):
    scaling = {"rope_scaling": {"type": "dynamic", "factor": 2.0}}
    table = inv_freq_table(config_with(tmp_path, scaling), 140)
    plain = inv_freq_table(config_with(tmp_path, {}), 140)
    assert table.shape[0] == 13
    assert np.array_equal(table[0], plain[0])
    assert (np.diff(table[:, 1:], axis=0) < 0).all()


def test_a_dynamic_table_shorter_than_the_trained_length_has_one_row(tmp_path):
    config = config_with(tmp_path, {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    assert inv_freq_table(config, 16).shape[0] == 1


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({}, 128),
        ({"rope_scaling": {"type": "linear", "factor": 2.5}}, 320),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 256),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 512),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
            128,
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
            128,
        ),
    ],
)
def test_the_longest_sequence_follows_from_the_rope_type(fields, length, tmp_path):
    assert default_max_model_len(config_with(tmp_path, fields)) == length
