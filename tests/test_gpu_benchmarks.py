"""What a GPU would be asked, as far as it can be asked without one."""

from __future__ import annotations

import json
import random

import pytest

from benchmarks import (
    gpu_engines,
    gpu_run,
    gpu_tests,
    peers,
    workers,
)
from tests.checkpoints import SMALL_LLAMA, random_checkpoint

SIZES = {"prefill_tokens": 24, "decode_tokens": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_torch_peer_computes_the_same_model(tmp_path, model_type):
    pytest.importorskip("torch")
    from benchmarks.torch_graph import TorchLlama

    shape = SMALL_LLAMA | {"model_type": model_type, "head_dim": 16, "sliding_window": 9}
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
