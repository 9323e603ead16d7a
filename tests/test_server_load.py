"""Many clients at random, some of whom leave: no answer is lost, crossed, or changed."""

from __future__ import annotations

import asyncio
import gc
import random
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("httpx", reason="needs httpx")

from benchmarks.traffic import draw_request, run_clients
from live_server import LiveServer, load_embedded, until
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

NUM_CLIENTS, NUM_REQUESTS, LEAVING = 24, 120, 0.3


@pytest.mark.parametrize("kv_cache_bytes", [None, 1 << 20], ids=["roomy", "tight"])
def test_every_answer_under_load_equals_the_answer_alone(kv_cache_bytes):
    rng = random.Random(5)
    requests = [draw_request(rng, max_tokens=40, leaving=LEAVING) for _ in range(NUM_REQUESTS)]
    load = load_embedded(kv_cache_bytes=kv_cache_bytes, max_batch_tokens=64)
    with LiveServer(load) as server:
        seen = asyncio.run(
            run_clients(server.url, "story", iter(requests), num_clients=NUM_CLIENTS)
        )
        until(lambda: not server.scheduler.has_work)
        assert server.all_blocks_free
        # Those who left are struck off by tasks of the event loop, a moment later.
        until(lambda: not server.service._open and not server.service.engine._tickets)
        preempted = server.scheduler.num_preemptions

    assert [one.error for one in seen if one.error] == []
    assert len(seen) == NUM_REQUESTS and sum(one.left for one in seen) > NUM_REQUESTS * 0.1
    assert (preempted > 0) == (kv_cache_bytes is not None)
    check_each_alone(seen, load_embedded()())


def test_steps_that_run_ahead_of_the_host_serve_the_same_answers():
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))

    def load(*, enforce_eager):
        options = {"device": CpuDevice(lazy=True), "dtype": "float32", "max_num_seqs": 6}
        return load_embedded(**options, enforce_eager=enforce_eager)

    both = []
    for enforce_eager in (False, True):
        rng = random.Random(6)
        requests = [draw_request(rng, max_tokens=12, leaving=LEAVING) for _ in range(24)]
        with LiveServer(load(enforce_eager=enforce_eager)) as server:
            ahead = server.service.engine.llm.engine._loop is not None
            seen = asyncio.run(run_clients(server.url, "story", iter(requests), num_clients=10))
            until(lambda server=server: not server.scheduler.has_work)
            assert server.all_blocks_free
        assert ahead != enforce_eager
        assert [one.error for one in seen if one.error] == [] and len(seen) == len(requests)
        both += seen
    check_each_alone(both, load(enforce_eager=True)())


def check_each_alone(seen, llm):
    """Each answer, or what came of it, is the one that the model gives when asked nothing else."""
    answers = {}
    for one in seen:
        asked = repr(one.request.fields)
        if asked not in answers:
            fields = dict(one.request.fields)
            prompt = fields.pop("prompt")
            answers[asked] = llm.generate(prompt, replace(llm.default_params(), **fields))[0]
        alone = answers[asked]
        if one.left:
            assert alone.text.startswith(one.text)
        else:
            assert (one.text, one.finish_reason) == (alone.text, alone.finish_reason)


def test_memory_does_not_grow_with_requests():
    with LiveServer(load_embedded()) as server:

        def ask(seed):
            rng = random.Random(seed)
            requests = [draw_request(rng, max_tokens=8, leaving=0.3) for _ in range(60)]
            asyncio.run(run_clients(server.url, "story", iter(requests), num_clients=12))
            until(lambda: not server.scheduler.has_work and not server.service._open)
            gc.collect()
            kept = ("Sequence", "Job", "Ticket")
            return sum(type(each).__name__ in kept for each in gc.get_objects())

        ask(0)
        before = ask(1)
        assert ask(2) <= before + 2
