"""The benchmarks run and add up; what they measure is nobody's business here."""

from __future__ import annotations

import json
import random
from itertools import count

import numpy as np
import pytest

from benchmarks import (
    cpu_vs_gpu,
    gpu_engines,
    gpu_run,
    gpu_tests,
    kernel_cases,
    kernels,
    matvec,
    peers,
    roofline,
    workers,
)
from benchmarks.measure import measure
from benchmarks.report import describe_run, durations, rates, ratios, table, write_json
from llama_cu.bench.engines import make_engine, random_weights
from llama_cu.bench.roofs import Roofs
from llama_cu.bench.speed import Stopwatch
from llama_cu.bench.traffic import decode_flops, prefill_flops
from llama_cu.checkpoint.config import load_config
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps
from tests.backends import make_cpu_ops
from tests.checkpoints import SMALL_LLAMA, random_checkpoint
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


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_torch_peer_computes_the_same_model(tmp_path, model_type):
    pytest.importorskip("torch")
    from benchmarks.torch_graph import TorchLlama

    shape = SMALL_LLAMA | {"model_type": model_type, "sliding_window": 9}
    folder = random_checkpoint(tmp_path / "model", shape)
    prompt = random.Random(0).sample(range(131), 20)
    torch_llama = TorchLlama(folder, max_len=40, device="cpu")

    answer = [torch_llama.start(prompt), *torch_llama.go_on(8)]

    ours = workers.open_engine("numpy", str(folder), threads=1, max_len=40)
    assert [answer] == ours.generate([prompt], 9)["token_ids"]


def test_random_weights_of_a_shape_answer_as_a_checkpoint_does(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
    engine = gpu_engines.RandomLlamaCu(tmp_path, max_len=40, device="cpu")

    answers = [engine.generate([prompt], 9) for prompt in ([5, 6, 7], [5, 6, 7], [7, 6])]

    assert all(len(answer["token_ids"][0]) == 9 for answer in answers)
    assert all(0 < answer["first_token_s"] < answer["total_s"] for answer in answers)
    assert answers[0]["token_ids"] == answers[1]["token_ids"] != answers[2]["token_ids"]


def test_each_peer_on_a_gpu_runs_or_says_why_not(model):
    report = peers.compare_on_gpu(model, None, threads=1, repeats=1, prompt_tokens=16, **SIZES)

    ran, absent = report["engines"].keys(), report["could_not_run"].keys()
    assert ran | absent == {*peers.GPU_ENGINES, "llama.cpp GPU"}
    assert all(report["could_not_run"].values())
    assert report["weights"] == "checkpoint"
    for kind in ("prefill 24", "decode 8") if ran else ():
        assert report["results"][kind].keys() == ran


def test_a_rehearsed_gpu_run_writes_each_part_down(tmp_path):
    parts = ["compile", "pytest", "bench story", "kernels attention", "memcheck", "cpu_vs_gpu r"]
    run = gpu_run.GpuRun(
        results=[tmp_path, tmp_path / "copy"],
        log=tmp_path / "log",
        limit_s=200,
        commit="abc",
        rehearse=True,
    )

    passed = run.run(parts)

    assert passed, (tmp_path / "log").read_text()
    names = ["gpu-run", "gpu-tests", "bench-story", "kernels-attention-8k"]
    names += ["cpu-vs-gpu-135m-shapes"]
    for folder in (tmp_path, tmp_path / "copy"):
        assert {path.name for path in folder.glob("*.json")} == {
            f"{n}-rehearsal.json" for n in names
        }
    ended = json.loads((tmp_path / "gpu-run-rehearsal.json").read_text())["parts"]
    assert len(ended) == len(parts)
    assert all(name.startswith(part) for name, part in zip(ended, parts, strict=True))
    tests = json.loads((tmp_path / "gpu-tests-rehearsal.json").read_text())["runs"]["pytest"]
    assert (tests["exit_code"], tests["failed"]) == (0, 0)
    assert tests["passed"] + tests["skipped"] == 16
    compared = json.loads((tmp_path / "cpu-vs-gpu-135m-shapes-rehearsal.json").read_text())
    bench = json.loads((tmp_path / "bench-story-rehearsal.json").read_text())
    assert bench["commit"] == "abc" and bench["decode"][0]["tok_s"] > 0
    assert compared["commit"] == "abc" and "decode 128" in compared["results"]


def test_a_gpu_run_without_time_says_what_it_left_out(tmp_path):
    options = {"commit": None, "rehearse": True, "limit_s": 0}
    run = gpu_run.GpuRun(results=[tmp_path], log=tmp_path / "log", **options)

    assert run.run(["kernels 1b"])

    ended = json.loads((tmp_path / "gpu-run-rehearsal.json").read_text())["parts"]
    assert ended == {"kernels 1b": {"could_not_run": "no time was left"}}


def test_a_run_that_takes_too_long_keeps_the_outcomes_it_had(tmp_path):
    test = tmp_path / "test_slow.py"
    test.write_text("import time\ndef test_a(): pass\ndef test_b(): assert 0\n")
    with test.open("a") as file:
        file.write("def test_c(): time.sleep(60)\n")
    run = gpu_tests.Run("slow", (str(test), f"--rootdir={tmp_path}"), 6, "")

    found = gpu_tests.run_tests(run, log=tmp_path / "log")

    assert (found["exit_code"], found["passed"], found["failed"]) == (124, 1, 1)
    assert [name.rpartition("::")[2] for name in found["failures"]] == ["test_b"]
    assert not gpu_tests.passed(found)


def test_gpu_tests_are_looked_for_where_they_are():
    files = gpu_tests.gpu_test_files()

    assert {"tests/test_ops.py", "tests/test_attention.py", "tests/test_model.py"} <= set(files)
    assert "tests/test_chat.py" not in files


def test_sanitizer_errors_are_those_of_the_summary_or_else_of_the_reports():
    report = "========= Invalid __global__ write of size 4 bytes\n=========     at f+0x80\n"

    assert gpu_tests.sanitizer_errors(report + "========= ERROR SUMMARY: 3 errors\n") == 3
    assert gpu_tests.sanitizer_errors("========= ERROR SUMMARY: 0 errors\n") == 0
    hazards = "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
    assert gpu_tests.sanitizer_errors(hazards) == 2
    assert gpu_tests.sanitizer_errors(report + report) == 2
    assert gpu_tests.sanitizer_errors("16 passed in 3 s\n") == 0


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
