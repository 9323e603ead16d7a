"""The benchmarks run and add up; what they measure is nobody's business here."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest

from benchmarks import (
    cpu_vs_gpu,
    gguf_types,
    kernel_cases,
    kernels,
    matvec,
    peers,
    quantization,
    readme_table,
    roofline,
)
from benchmarks.measure import measure
from benchmarks.report import ROOT, describe_run, durations, rates, ratios, table, write_json
from llama_cu import LLM
from llama_cu.bench.engines import make_engine, random_weights
from llama_cu.bench.roofs import Roofs
from llama_cu.bench.run import Plan, Source, run_bench
from llama_cu.bench.speed import Stopwatch
from llama_cu.bench.traffic import decode_flops, prefill_flops
from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.gguf_export import export_gguf
from llama_cu.find_model import find_model
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from llama_cu.perplexity import perplexity
from llama_cu.quantized import INT8
from tests.backends import make_cpu_ops
from tests.checkpoints import random_checkpoint
from tests.tiny import tiny_config

ROOFS = Roofs(read_bytes_per_s=1e9, gemm_flops_per_s=1e11, read_bytes=1, gemm_size=1)
SIZES = {"prefill_tokens": 24, "decode_tokens": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("bench") / "tiny")


class SteadyEngine:
    """Takes 0.5 s to the first token and 0.25 s for each further one, by its own account."""

    def __init__(self):
        self.prompts = []

    def generate(self, prompts, num_tokens):
        self.prompts.append(prompts)
        ids = count(100)
        return {
            "first_token_s": 0.5,
            "total_s": 0.5 + 0.25 * (num_tokens - 1),
            "token_ids": [[next(ids) for _ in range(num_tokens)] for _ in prompts],
        }


def test_rates_give_median_best_and_samples():
    found = rates([8, 8, 9], [2.0, 4.0, 1.0])

    assert found == {"unit": "tok/s", "median": 4.0, "best": 9.0, "samples": [4.0, 2.0, 9.0]}


def test_the_best_duration_is_the_shortest():
    found = durations([0.3, 0.1, 0.25])

    assert (found["median"], found["best"], found["unit"]) == (0.25, 0.1, "s")


def test_ratios_compare_medians_with_medians_and_bests_with_bests():
    results = {"ours": rates([10, 30], [1.0, 1.0]), "other": rates([5, 5], [1.0, 2.0])}

    assert ratios(results, of="ours") == {"ours / other": {"median": 5.333, "best": 6.0}}
    assert ratios(results, of="absent") == {}


def test_a_table_has_a_line_for_every_engine():
    text = table({"decode 8": {"ours": rates([10], [2.0]), "other": rates([10], [4.0])}})

    assert [line.split()[-4:] for line in text.splitlines()[1:]] == [
        ["ours", "5", "5", "tok/s"],
        ["other", "2.5", "2.5", "tok/s"],
    ]


def test_decode_counts_the_tokens_after_the_first_and_prefill_the_prompt():
    engine = SteadyEngine()

    found = measure({"ours": engine}, vocab_size=50, repeats=2, batched=["ours"], sizes=SIZES)

    medians = {kind: engines["ours"]["median"] for kind, engines in found["results"].items()}
    assert medians == {"prefill 24": 48.0, "decode 8": 4.0, "decode 8 x 8": 32.0}


def test_every_round_has_new_prompts_and_all_engines_get_the_same():
    one, other = SteadyEngine(), SteadyEngine()

    found = measure({"one": one, "other": other}, vocab_size=50, repeats=2, sizes=SIZES)

    assert one.prompts == other.prompts
    assert len({tuple(prompts[0]) for prompts in one.prompts}) == 2 * (2 + 1)
    assert all(0 <= token < 50 for prompts in one.prompts for token in prompts[0])
    assert found["agreeing_tokens"] == {"one": 9, "other": 9}


def test_a_run_names_machine_versions_and_commit():
    run = describe_run()

    assert {"machine", "commit", "command", "date"} <= run.keys()
    assert run["machine"]["packages"]["numpy"] == np.__version__
    assert run["machine"]["cores"] >= 1


def test_cpu_vs_gpu_reports_numpy_and_says_why_there_is_no_cuda(model, tmp_path):
    report = cpu_vs_gpu.compare(model, threads=1, repeats=1, **SIZES)
    write_json(tmp_path / "report.json", report)

    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["results"].keys() == {"prefill 24", "decode 8", "decode 8 x 8"}
    for engines in kept["results"].values():
        assert engines.keys() | kept["could_not_run"].keys() == {"numpy", "cuda"}
        assert engines["numpy"]["median"] > 0
    assert all(kept["could_not_run"].values())


def test_peers_do_the_same_work_and_absent_ones_are_named(model):
    report = peers.compare(model, None, threads=1, repeats=1, **SIZES)

    ran, absent = report["engines"].keys(), report["could_not_run"].keys()
    assert ran | absent == {"numpy", "bare NumPy", "transformers", "llama.cpp"}
    assert report["could_not_run"]["llama.cpp"] == "no --gguf was given"
    assert {"numpy", "bare NumPy"} <= ran
    # The first of the checkpoint's answers: nine tokens from every engine with its weights.
    assert report["agreeing_tokens"] == dict.fromkeys(ran, 9)
    assert report["ratios"]["decode 8"].keys() == {f"numpy / {n}" for n in ran if n != "numpy"}
    assert report["results"]["story model, decode"]["numpy"]["median"] > 0
    assert report["results"]["process start"]["llama-cu --help"]["unit"] == "s"


def test_every_op_is_timed_for_decode_and_prefill(model):
    ops, config = NumpyOps(DTYPES["float32"]), load_config(model)

    report = kernels.time_ops(ops, config, ROOFS, context=24, repeats=1, cache_bytes=1 << 16)

    decode, prefill = report["steps"]["decode"], report["steps"]["prefill"]
    assert decode.keys() == prefill.keys() >= {"attention", "qkv_proj", "logits", "sample top-p"}
    assert all(row["us"] > 0 for row in (*decode.values(), *prefill.values()))


def test_attention_of_many_sequences_is_timed_alone(model):
    ops, config = NumpyOps(DTYPES["float32"]), load_config(model)
    shape = {"context": 24, "num_seqs": 3, "only": "attention"}

    report = kernels.time_ops(ops, config, ROOFS, **shape, repeats=1, cache_bytes=1 << 16)

    assert [list(rows) for rows in report["steps"].values()] == [["attention"]] * 2
    problem = kernel_cases.Problem(
        ops, config, num_seqs=3, num_tokens=1, context=24, cache_bytes=1 << 16
    )
    (case,) = problem.cases("attention")
    # q and the result of three tokens with 64 channels; K and V of 24, with 32.
    assert case.num_bytes == 4 * (2 * 3 * 64 + 2 * 3 * 24 * 32)
    assert case.flops == 4 * 64 * 3 * 24
    batch = problem.batch
    keys = [
        table[batch.positions[seq] // 16] * 16 + batch.positions[seq] % 16
        for seq, table in enumerate(batch.host_block_tables)
    ]
    assert batch.slot_mapping.tolist() == keys


def test_a_step_of_one_token_needs_the_flops_of_its_prefill():
    config = tiny_config(sliding_windows=(9, None))

    step = decode_flops(config, context_lens=(1,))

    assert step == prefill_flops(config, prompt_len=1)
    q_size = config.num_attention_heads * config.head_dim
    assert decode_flops(config, context_lens=(5, 20)) == 2 * step + 4 * q_size * (4 + 4 + 8 + 19)


def test_the_notes_have_the_roofline_of_today():
    notes = (ROOT / "benchmarks" / "NOTES.md").read_text("utf-8")

    assert "\n".join(roofline.decode_table()) in notes
    assert "\n".join(roofline.prefill_table()) in notes


@pytest.mark.parametrize(
    ("num_rows", "context", "qkv_bias"), [(1, 300, False), (8, 100, True), (16, 100, True)]
)
def test_the_launches_on_paper_are_those_of_a_captured_step(num_rows, context, qkv_bias):
    ops, graphs = make_cpu_ops("float32"), []
    capture = ops.device.capture
    ops.device.capture = lambda work: graphs.append(capture(work)) or graphs[-1]
    config = tiny_config(qkv_bias=qkv_bias, max_position_embeddings=512)
    weights = random_weights(ops, config)
    engine = make_engine(ops, config, weights, num_blocks=256, max_num_seqs=num_rows)

    Stopwatch(engine).decode(num_rows, context, num_steps=1)

    expected = roofline.decode_launches(config, num_rows=num_rows, context=context)
    assert [graph.num_launches for graph in graphs] == [expected]


def test_the_readmes_table_is_that_of_the_reports():
    text = readme_table.README.read_text("utf-8")

    assert readme_table.with_table(text, readme_table.table(readme_table.RESULTS)) == text


def test_a_gpus_reports_become_rows(tmp_path):
    ops = NumpyOps(DTYPES["float32"])
    plan = Plan((2,), (16,), 9, repeats=1, steps=2)
    bench = run_bench(ops, Source("tiny", tiny_config(), None), plan, roofs=ROOFS)
    write_json(tmp_path / "bench-cpu.json", bench)
    assert readme_table.table(tmp_path).endswith("| anything on a GPU |  | not measured yet |\n")

    bench |= {"device": "Some GPU", "dtype": "bfloat16"}
    bench["decode"][0] |= {"tok_s": 123.4, "percent_of_read": 87.6}
    write_json(tmp_path / "bench-gpu.json", bench)
    peer = {"model": "tiny", "results": {}, "engines": {"cuda": "Some GPU, bfloat16"}}
    ratio = {"decode 128": {"cuda / torch graph": {"median": 1.254, "best": 1.3}}}
    write_json(tmp_path / "peers.json", {**peer, "ratios": ratio})

    lines = readme_table.table(tmp_path).splitlines()[2:]
    decode, prefill, against = lines
    assert decode == (
        "| tiny, bfloat16: decode, batch 2, context 16 | Some GPU "
        "| 123.4 tok/s, 88 % of the read bandwidth |"
    )
    assert "prefill of 9 tokens" in prefill
    assert against == "| tiny, decode at batch 1: llama-cu / torch graph | Some GPU | 1.25 |"


def test_a_table_without_its_marks_is_refused():
    with pytest.raises(ValueError, match=r"expected a line <!-- made by"):
        readme_table.with_table("no table", "")


def test_a_case_is_held_against_both_roofs():
    case = kernel_cases.Case("product", lambda: None, num_bytes=400, flops=3000)

    row = kernels.case_row(case, 2.0, Roofs(1000.0, 2000.0, 1, 1))

    assert (row["% of reading"], row["% of GEMM rate"]) == (20.0, 75.0)


def test_a_products_bytes_and_flops_are_those_of_its_shapes(model):
    ops, config = NumpyOps(DTYPES["float32"]), load_config(model)
    problem = kernel_cases.Problem(ops, config, num_tokens=3, context=24, cache_bytes=1 << 16)

    cases = {case.name: case for case in problem.cases()}

    assert cases["down_proj"].flops == 2 * 3 * 64 * 96
    assert cases["down_proj"].num_bytes == 4 * (64 * 96 + 3 * (64 + 96))
    # Queries at positions 21, 22, 23 see 22 + 23 + 24 keys, in 64 channels, twice.
    assert cases["attention"].flops == 4 * 64 * (22 + 23 + 24)


def test_the_products_of_a_decode_step_are_timed():
    ops = NumpyOps(DTYPES["float32"])
    shapes = dict.fromkeys(matvec.SHAPES["llama-3.1-8b"], (96, 64))

    found = matvec.time_products(ops, shapes, ROOFS, repeats=1, cache_bytes=1 << 16)

    assert found.keys() == {f"{name}, {rows} rows" for name in shapes for rows in (1, 8)}
    assert all(row["us"] > 0 and row["GB/s"] > 0 for row in found.values())


def test_gguf_rows_of_q_and_k_are_put_back_in_order():
    convert_gguf = pytest.importorskip("benchmarks.convert_gguf")
    rows = np.arange(12)[:, None] * np.ones((1, 3), np.float32)

    unpermuted = convert_gguf.unpermute(rows, 2)

    assert unpermuted[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_what_quantization_costs_is_measured_against_the_model_as_it_is():
    text = (ROOT / "benchmarks" / "texts" / "story.txt").read_text()[:400]
    rows = quantization.measure(find_model("story"), text, dtype="float32")

    plain, int8, int4, kv_int8 = rows
    assert [row["type"] for row in rows] == ["as it is", "int8", "int4", "KV cache in int8"]
    expected = perplexity(LLM(find_model("story"), device="cpu"), text)
    assert plain["perplexity"] == pytest.approx(expected.perplexity)
    assert 0 < int8["logit_error"] < int4["logit_error"] < 0.3
    assert 0 < int8["divergence"] < int4["divergence"]
    assert 0 < kv_int8["divergence"] < int4["divergence"]
    assert len(quantization.table(rows)) == 6


def test_the_divergence_is_that_of_the_probabilities():
    wanted, found = np.random.default_rng(3).standard_normal((2, 7, 11))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (wanted, found))
    expected = (p * np.log(p / q)).sum(-1).mean()
    assert quantization.divergence(wanted, found + 5) == pytest.approx(expected)


def test_perplexities_of_gguf_files_stand_beside_those_of_llama_cpp(tmp_path):
    export_gguf(find_model("story"), tmp_path / "it.gguf", INT8)
    text = (ROOT / "benchmarks" / "texts" / "story.txt").read_text()[:300]
    row = gguf_types.measure(tmp_path / "it.gguf", text)

    expected = perplexity(LLM(tmp_path / "it.gguf", device="cpu"), text)
    assert row["perplexity"] == pytest.approx(expected.perplexity)
    assert sum(row["types"].values()) == pytest.approx(1, abs=0.01) and "Q8_0" in row["types"]
    assert row["llama.cpp"] is None or row["llama.cpp"] == pytest.approx(expected.perplexity, 0.05)
    lines = gguf_types.table([row, {**row, "llama.cpp": row["perplexity"] / 2}])
    assert lines[-1].endswith("| +100.00% |")
