"""`llama-cu bench`: what it counts, what it measures, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from backends import BACKENDS, DEVICE_BACKENDS, got, make_ops
from llama_cu.bench.engines import random_weights
from llama_cu.bench.roofs import Roofs, measure_roofs, read_sums
from llama_cu.bench.run import Plan, Source, run_bench
from llama_cu.bench.shapes import SHAPES, random_config
from llama_cu.bench.speed import Stopwatch, tokens_beside_context
from llama_cu.bench.traffic import (
    decode_bytes,
    layer_elements,
    prefill_flops,
    read_kv_bytes,
    read_weight_bytes,
)
from llama_cu.checkpoint.config import GenerationDefaults, load_config
from llama_cu.checkpoint.rope import default_max_model_len
from llama_cu.cli.main import run
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.quantized import INT4
from tiny import MAX_MODEL_LEN, make_engine, tiny_config

ROOFS = Roofs(1e9, 1e9, 1 << 20, 128)
PLAN = Plan(batch_sizes=(1, 3), contexts=(17,), prompt_len=21, repeats=2, steps=5)
BOTH = pytest.mark.parametrize("backend", [("cpu", "float32"), ("cpu_device", "float16")])


# Of the tiny config, by hand: hidden 48, MLP 80, 4 heads and 2 KV heads of 16, vocabulary 101.
LAYER_MATRICES = (64 + 32 + 32) * 48 + 48 * 64 + 2 * 80 * 48 + 48 * 80
LAYER = LAYER_MATRICES + 2 * 48
TABLE = 101 * 48


def test_a_step_reads_all_weights_but_of_the_embedding_only_its_rows():
    read = read_weight_bytes(tiny_config(), 2, num_rows=3)

    assert read == 2 * (2 * LAYER + 48 + TABLE + 3 * 48)


def test_a_tied_table_is_read_once():
    read = read_weight_bytes(tiny_config(tie_word_embeddings=True), 4, num_rows=3)

    assert read == 4 * (2 * LAYER + 48 + TABLE)


def test_biases_and_head_norms_are_read_too():
    config = tiny_config(qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True)

    read = read_weight_bytes(config, 2, num_rows=1)

    biases = (64 + 32 + 32) + 48 + 2 * 80 + 48
    assert read == 2 * (2 * (LAYER + biases + 2 * 16) + 48 + TABLE + 48)


@pytest.mark.parametrize("tied", [False, True])
def test_packed_weights_are_read_as_what_a_device_holds(tied):
    config = replace(tiny_config(tie_word_embeddings=tied), hidden_size=64, intermediate_size=96)
    device = make_ops(("cpu_device", "float16"))
    weights = random_weights(device, config, scheme=INT4)
    held = [
        array
        for layer in weights.layers
        for array in (getattr(layer, field.name) for field in fields(layer))
        if array is not None
    ]
    gathered = 3 * 64 * 2
    expected = sum(array.nbytes for array in (*held, weights.norm, weights.lm_head)) + gathered
    assert read_weight_bytes(config, 2, num_rows=3, scheme=INT4) == expected


def test_a_step_reads_k_and_v_of_every_context():
    config = tiny_config()

    assert read_kv_bytes(config, 2, context_lens=(10, 7)) == 2 * 2 * 2 * 2 * 16 * 17
    weights = read_weight_bytes(config, 2, num_rows=2)
    assert decode_bytes(config, 2, context_lens=iter((10, 7))) == weights + 2 * 2 * 2 * 2 * 16 * 17


def test_of_a_sliding_window_no_more_than_the_window_is_read():
    config = tiny_config(sliding_windows=(None, 8))

    assert read_kv_bytes(config, 4, context_lens=(10, 7)) == 4 * 2 * 2 * 16 * ((10 + 8) + (7 + 7))


def test_the_flops_of_a_prefill_are_those_of_its_products():
    config = tiny_config(sliding_windows=(None, 3))

    # Five queries see 1 + 2 + 3 + 4 + 5 keys, or 1 + 2 + 3 + 3 + 3 with the window.
    attention = 4 * 64 * (15 + 12)
    assert layer_elements(config) == LAYER_MATRICES
    linear = 2 * 5 * 2 * LAYER_MATRICES
    assert prefill_flops(config, prompt_len=5) == linear + attention + 2 * TABLE


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("llama-3.1-8b", 8030.3),
        ("llama-3.2-3b", 3212.7),
        ("llama-3.2-1b", 1235.8),
        ("qwen2.5-0.5b", 494.0),
        ("qwen3-0.6b", 596.0),
        ("smollm2-135m", 134.5),
    ],
)
def test_a_shape_has_as_many_parameters_as_its_model_is_published_with(name, millions):
    config = random_config(name)

    parameters = read_weight_bytes(config, 1, num_rows=config.vocab_size)

    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_the_story_shape_is_that_of_the_embedded_model():
    story = load_config("models/story")

    assert random_config("story") == replace(story, generation=GenerationDefaults())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(64, 512), (3, 7), (1,)])
def test_random_weights_are_normal_and_their_seed_decides(backend, shape):
    ops = make_ops(backend)

    first = got(ops, ops.random_weight(shape, seed=5, scale=0.5))
    again = got(ops, ops.random_weight(shape, seed=5, scale=0.5))
    other = got(ops, ops.random_weight(shape, seed=5 + (1 << 32), scale=0.5))

    assert first.shape == shape
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.01  # in 16 bits some meet
    np.testing.assert_array_equal(first, first.astype(ops.dtype).astype(np.float64))
    if first.size > 1000:
        assert abs(first.mean()) < 5 * 0.5 / np.sqrt(first.size)
        assert first.std() == pytest.approx(0.5, rel=0.02)
        # As many beyond one and two standard deviations as a normal distribution has.
        assert np.mean(np.abs(first) > 0.5) == pytest.approx(0.3173, abs=0.02)
        assert np.mean(np.abs(first) > 1.0) == pytest.approx(0.0455, abs=0.01)
        assert abs(np.corrcoef(first.ravel()[:-1], first.ravel()[1:])[0, 1]) < 0.03
        assert np.unique(first.ravel()[:64]).size == 64 or ops.dtype != np.float32


@pytest.mark.parametrize("backend", DEVICE_BACKENDS)
@pytest.mark.parametrize("num_vecs", [1, 8 * 512 * 32 * 4 + 777])
def test_every_word_is_read_once(backend, num_vecs):
    ops = make_ops(backend)
    words = np.random.default_rng(3).integers(0, 2**32, 4 * num_vecs, np.uint32)

    sums = got(ops, read_sums(ops, ops.upload(words)))

    assert int(sums.sum()) % 2**32 == int(words.sum(dtype=np.uint64)) % 2**32


@BOTH
def test_roofs_are_measured_on_the_device(backend):
    roofs = measure_roofs(make_ops(backend), read_bytes=(1 << 20) + 5, gemm_size=64)

    assert (roofs.read_bytes, roofs.gemm_size) == (1 << 20, 64)
    assert 1e6 < roofs.read_bytes_per_s < 1e13
    assert 1e3 < roofs.gemm_flops_per_s < 1e15


@BOTH
def test_a_report_holds_what_was_planned(backend):
    ops, config = make_ops(backend), tiny_config()

    report = run_bench(ops, Source("tiny", config, None), PLAN, roofs=ROOFS)

    assert json.loads(json.dumps(report)) == {**report, "plan": {**report["plan"], **LISTS}}
    assert report["device"] == ops.device_name and report["dtype"] == ops.dtype.name
    assert report["versions"]["numpy"] == np.__version__ and report["skipped"] == []
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report["date"])
    (prefill,) = report["prefill"]
    assert prefill["prompt_len"] == 21 and prefill["flops"] == prefill_flops(config, prompt_len=21)
    assert prefill["tflop_s"] * 1e12 == pytest.approx(prefill["flops"] / prefill["ms"] * 1e3, 1e-3)
    assert prefill["percent_of_gemm"] == pytest.approx(prefill["tflop_s"] * 1e5, rel=1e-3)
    one, three = report["decode"]
    itemsize = ops.storage_dtype.itemsize
    for row, size in ((one, 1), (three, 3)):
        assert (row["batch_size"], row["context"]) == (size, 17)
        assert len(row["samples_ms"]) == 2 and min(row["samples_ms"]) > 0
        assert row["tok_s"] == pytest.approx(size / row["ms"] * 1e3, rel=1e-3)
        assert row["gb_s"] * 1e9 == pytest.approx(row["bytes_per_step"] / row["ms"] * 1e3, rel=1e-3)
        assert row["percent_of_read"] == pytest.approx(row["gb_s"] * 100, rel=1e-3)
        assert row["roof_tok_s"] == pytest.approx(size * 1e9 / row["bytes_per_step"], rel=1e-3)
        # 17 tokens of prompt, the first of the answer, four steps of warm-up, the middle of five.
        assert row["mean_context"] == 17 + 1 + 4 + 2
        assert row["bytes_per_step"] == decode_bytes(config, itemsize, context_lens=[24] * size)


LISTS = {"batch_sizes": [1, 3], "contexts": [17]}


@BOTH
def test_decode_is_timed_in_the_middle_of_an_answer_as_long_as_said(backend):
    ops = make_ops(backend)
    engine = make_engine(ops, num_blocks=3 * 11)
    stopwatch = Stopwatch(engine)

    decoded = [stopwatch.decode(3, 30, num_steps=5) for _ in range(3)]

    assert 30 + tokens_beside_context(5) <= 11 * 4
    assert engine.scheduler.num_preemptions == 0 and not engine.has_work
    for sample in decoded:
        assert sample.context_lens == (35, 35, 35) and sample.seconds > 0
        assert sample.context_lens_of(2) == (37, 37, 37)


def test_prefill_never_finds_its_prompt_in_the_cache():
    engine = make_engine()
    computed = []
    forward = engine.model.forward
    engine.model.forward = lambda batch, cache: (
        computed.append(sum(batch.query_lens)) or forward(batch, cache)
    )
    stopwatch = Stopwatch(engine)

    assert all(stopwatch.prefill_s(50) > 0 for _ in range(3))

    assert computed == [50, 50, 50]


def test_a_step_is_captured_once_and_launched_again_while_it_is_timed(monkeypatch):
    ops = make_ops(("cpu_device", "float32"))
    engine = make_engine(ops)
    captured, capture = [], ops.device.capture
    monkeypatch.setattr(ops.device, "capture", lambda work: captured.append(1) or capture(work))

    Stopwatch(engine).decode(2, 16, num_steps=4)

    assert captured == [1]


def test_what_does_not_fit_is_skipped_and_says_why():
    ops, plan = NumpyOps(DTYPES["float32"]), Plan((1, 10**9), (16, MAX_MODEL_LEN), 9, 1, 2)

    report = run_bench(ops, Source("tiny", tiny_config(), None), plan, roofs=ROOFS)

    assert [(row["batch_size"], row["context"]) for row in report["decode"]] == [(1, 16)]
    reasons = {entry["what"]: entry["reason"] for entry in report["skipped"]}
    assert "bytes of KV cache" in reasons["decode, batch 1000000000, context 16"]
    limit = f"needs {MAX_MODEL_LEN + 8} tokens, the model takes at most {MAX_MODEL_LEN}"
    assert reasons["decode, batch 1, context 128"] == limit


def test_where_nothing_fits_the_error_says_what_and_why():
    plan = Plan((1,), (MAX_MODEL_LEN,), MAX_MODEL_LEN, 1, 2)

    with pytest.raises(ValueError, match="nothing can be measured: prefill of 128: needs 129"):
        ops = NumpyOps(DTYPES["float32"])
        run_bench(ops, Source("tiny", tiny_config(), None), plan, roofs=ROOFS)


def test_a_plan_without_sizes_takes_what_the_model_can():
    config = random_config("story")
    ops, plan = NumpyOps(DTYPES["float32"]), Plan((1,), repeats=1, steps=2)

    report = run_bench(ops, Source("story", config, None), plan, roofs=ROOFS)

    assert default_max_model_len(config) == 512
    assert [row["prompt_len"] for row in report["prefill"]] == [511]
    assert [row["context"] for row in report["decode"]] == [256]


def test_weights_without_room_are_one_error():
    ops = make_ops(("cpu_device", "float32"))

    with pytest.raises(BackendUnavailable, match=r"cuda-on-cpu has \d+ bytes free, .* need 32121"):
        random_weights(ops, random_config("llama-3.1-8b"))


@pytest.fixture
def cli(capsys):
    def call(*args):
        code = run(("bench", *args))
        return (code, *capsys.readouterr())

    return call


FEW = ("--batch-sizes", "1,2", "--contexts", "16", "--prompt-len", "20", "--repeats", "1")


@pytest.fixture
def on_byte_model(byte_model):
    return ("--model", str(byte_model), "--device", "cpu", "--steps", "2", *FEW)


@pytest.fixture
def quick_roofs(monkeypatch):
    """Small roofs: of a busy machine the real ones take seconds."""
    monkeypatch.setattr("llama_cu.bench.roofs._CPU_READ_BYTES", 1 << 22)
    monkeypatch.setattr("llama_cu.bench.roofs._CPU_GEMM_SIZE", 64)


def test_the_table_fits_a_terminal(cli, on_byte_model, quick_roofs):
    code, out, err = cli(*on_byte_model)

    assert code == 0, err
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(
        re.match(r"batch 2, context 16 +[\d.]+ +[\d.]+ +[\d.e-]+ +[\d.]+$", x) for x in lines
    )
    assert "device: cpu, as asked" in err and "decode, 2 sequences with a context of 16" in err


def test_json_goes_to_stdout_alone(cli, on_byte_model, quick_roofs):
    code, out, _ = cli(*on_byte_model, "--json")

    report = json.loads(out)
    assert code == 0 and report["weights"] == "checkpoint"
    assert report["device_note"] == "cpu, as asked"
    assert report["roofs"].keys() == {
        "read_bytes_per_s",
        "gemm_flops_per_s",
        "read_bytes",
        "gemm_size",
    }


def test_an_overlap_that_the_device_does_not_make_is_not_reported(cli, on_byte_model, quick_roofs):
    code, out, err = cli(*on_byte_model, "--json", "--overlap")

    assert code == 0 and json.loads(out)["overlap"] is False
    assert "--overlap does nothing here" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--random", "gpt-2"), f"--random must be one of {', '.join(SHAPES)}, got 'gpt-2'"),
        (("--random", "story", "--model", "story"), "give either --model or --random"),
        (("--batch-sizes", "1,x"), "--batch-sizes must be positive numbers such as 1,8,64"),
        (("--contexts", "0"), "--contexts must be positive numbers such as 1,8,64, got '0'"),
        (("--contexts", ""), "--contexts must be positive numbers such as 1,8,64, got ''"),
        (("--repeats", "0"), "repeats must be"),
        (("--steps", "0"), "steps must be"),
        (("--prompt-len", "-3"), "prompt_len must be"),
        (("--dtype", "int8"), "dtype must be auto or one of"),
        (("--device", "tpu"), "device must be one of auto, cpu, cuda"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(cli, args, message):
    code, out, err = cli(*args)

    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_a_plot_without_matplotlib_names_the_extra(cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    code, out, err = cli("--plot", str(tmp_path / "x.svg"))

    assert (code, out) == (1, "")
    assert "--plot needs matplotlib: pip install 'llama-cu[plot]'" in err and err.count("\n") == 1


def test_a_plot_is_drawn(cli, on_byte_model, quick_roofs, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "decode.svg"

    code, _, err = cli(*on_byte_model, "--plot", str(path))

    assert code == 0, err
    assert "<svg" in path.read_text() and path.read_text().count("batch size") >= 1


def test_a_plot_that_cannot_be_written_is_refused_before_the_measurement(cli, tmp_path):
    pytest.importorskip("matplotlib")

    code, _, err = cli("--plot", str(tmp_path / "x.bmp"))

    assert code == 2 and "--plot must end in .svg, .png or .pdf" in err
