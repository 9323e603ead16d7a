"""How the server behaves towards clients that leave, hurry, attack, or have no key."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")

from live_server import LiveServer, get, load_embedded, post, slowly, until

LONG = {"model": "story", "prompt": "Once", "max_tokens": 450, "ignore_eos": True}


@pytest.fixture
def server():
    with LiveServer(load_embedded()) as live:
        yield live


def open_request(server, body, path="/v1/completions", headers=None):
    """A connection whose request is sent and whose answer nobody has read yet."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    fields = {"Content-Type": "application/json", **(headers or {})}
    connection.request("POST", path, json.dumps(body), fields)
    return connection


def running(server):
    return len(server.scheduler.running)


def test_without_the_key_only_health_answers():
    with LiveServer(load_embedded(), api_key="s3cret") as server:
        for path in ("/", "/v1/models", "/metrics", "/version", "/openapi.json", "/api/init/a"):
            status, body, headers = get(server, path)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
            assert headers["WWW-Authenticate"].startswith("Basic")
        assert get(server, "/health")[0] == 200
        assert get(server, "/v1/models", {"Authorization": "Bearer wrong"})[0] == 401
        assert get(server, "/v1/models", {"Authorization": "Basic !"})[0] == 401
        assert get(server, "/v1/models", {"Authorization": "Bearer s3cret"})[0] == 200
        basic = "Basic " + "OnMzY3JldA=="  # ":s3cret"
        assert get(server, "/", {"Authorization": basic})[0] == 200


def test_cors_is_off_unless_an_origin_is_allowed():
    origin = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with LiveServer(load_embedded()) as server:
        assert "Access-Control-Allow-Origin" not in get(server, "/health", origin)[2]
    with LiveServer(load_embedded(), cors_origins=("https://a.example",)) as server:
        headers = get(server, "/v1/completions", origin, method="OPTIONS")[2]
        assert headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert (
            "Access-Control-Allow-Origin"
            not in get(server, "/health", {"Origin": "https://b.example"})[2]
        )


def test_health_is_503_while_the_model_loads():
    def load():
        time.sleep(1.0)
        return load_embedded()()

    with LiveServer(load, wait=False) as server:
        assert get(server, "/health")[:2] == (503, {"status": "loading"})
        status, body, headers = post(server, "/v1/completions", LONG)
        assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "loading", "1")
        until(lambda: get(server, "/health")[0] == 200)
        assert post(server, "/v1/completions", {**LONG, "max_tokens": 2})[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_in_decode_frees_its_blocks(stream):
    with LiveServer(slowly(0.01)) as server:
        connection = open_request(server, {**LONG, "stream": stream})
        until(lambda: running(server) == 1)
        sequence = server.scheduler.running[0]

        connection.close()

        until(lambda: running(server) == 0 and server.all_blocks_free)
        assert sequence.finish_reason == "abort" and sequence.num_generated < 400


def test_a_client_that_leaves_the_queue_or_prefill_frees_its_place():
    load = slowly(0.05)
    with LiveServer(lambda: _one_at_a_time(load()), max_queue=4) as server:
        first = open_request(server, LONG)
        until(lambda: running(server) == 1)
        queued = open_request(server, {**LONG, "prompt": [7] * 300})
        until(lambda: len(server.scheduler.waiting) == 1)

        queued.close()
        until(lambda: not server.scheduler.waiting)
        assert running(server) == 1
        first.close()
        until(lambda: running(server) == 0 and server.all_blocks_free)

        prefilling = open_request(server, {**LONG, "prompt": [7] * 500})
        until(lambda: running(server) == 1)
        assert server.scheduler.running[0].num_generated == 0
        prefilling.close()
        until(lambda: running(server) == 0 and server.all_blocks_free)


def _one_at_a_time(llm):
    llm.engine.scheduler.max_num_seqs = 1
    llm.engine.scheduler.max_batch_tokens = 8
    return llm


def test_a_full_queue_is_a_429_and_running_answers_go_on():
    load = slowly(0.01)
    with LiveServer(lambda: _one_at_a_time(load()), max_queue=1) as server:
        body = {**LONG, "max_tokens": 60}
        first, second = open_request(server, body), None
        until(lambda: running(server) == 1)
        second = open_request(server, body)
        until(lambda: len(server.scheduler.waiting) == 1)

        status, answer, headers = post(server, "/v1/completions", body)

        assert status == 429 and "queue is full" in answer["error"]["message"]
        assert int(headers["Retry-After"]) >= 1
        for connection in (first, second):
            assert connection.getresponse().status == 200
            connection.close()


def test_more_answers_than_the_server_takes_are_refused_at_once(server):
    status, body, _ = post(server, "/v1/completions", {**LONG, "n": 10_000})

    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


def test_one_client_has_so_many_requests_open_at_most():
    with LiveServer(slowly(0.02), max_streams=2) as server:
        open_ones = [open_request(server, {**LONG, "stream": True}) for _ in range(2)]
        until(lambda: running(server) == 2)
        assert post(server, "/v1/completions", LONG)[0] == 429
        open_ones[0].close()
        until(lambda: running(server) == 1)
        assert post(server, "/v1/completions", {**LONG, "max_tokens": 2})[0] == 200
        open_ones[1].close()


def test_a_request_that_takes_too_long_ends_with_504():
    with LiveServer(slowly(0.02), request_timeout_s=0.3) as server:
        assert post(server, "/v1/completions", LONG)[0] == 504
        connection = open_request(server, {**LONG, "stream": True})
        text = connection.getresponse().read().decode()
        connection.close()
        assert "longer than the server allows" in text and "[DONE]" not in text
        until(lambda: server.all_blocks_free)


def test_a_step_that_raises_fails_its_requests_and_no_others():
    llms = []

    def load():
        llm = slowly(0.005)()
        llms.append(llm)
        return llm

    with LiveServer(load) as server:
        llm = llms[0]
        compute = llm.engine._compute
        queued = []

        def broken_once(slices):
            if not any(piece.sequence.params.seed == 13 for piece in slices):
                return compute(slices)
            queued.extend(slices)
            raise RuntimeError("planted")

        llm.engine._compute = broken_once
        status, body, _ = post(server, "/v1/completions", {**LONG, "seed": 13})

        assert status == 500 and "planted" in body["error"]["message"]
        assert body["error"]["type"] == "server_error" and len(queued) == 1
        assert server.all_blocks_free
        assert post(server, "/v1/completions", {**LONG, "max_tokens": 3})[0] == 200
        assert get(server, "/health")[0] == 200
        stream = open_request(server, {**LONG, "seed": 13, "stream": True})
        text = stream.getresponse().read().decode()
        stream.close()
        assert "planted" in text and "[DONE]" not in text


def test_a_lost_device_ends_every_stream_and_turns_health_to_503():
    llms = []

    def load():
        llms.append(slowly(0.01)())
        return llms[0]

    with LiveServer(load) as server:
        streams = [open_request(server, {**LONG, "stream": True}) for _ in range(3)]
        until(lambda: running(server) == 3)

        def lost(*_):
            raise RuntimeError("device lost")

        llms[0].engine._compute = lost
        llms[0].engine.model.ops.upload = lost

        for stream in streams:
            assert "the device is lost" in stream.getresponse().read().decode()
            stream.close()
        assert get(server, "/health")[:2] == (503, {"status": "lost"})
        assert post(server, "/v1/completions", LONG)[0] == 503


def test_a_slow_reader_holds_nobody_up():
    with LiveServer(load_embedded(), send_timeout_s=1.0) as server:
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        body = json.dumps({**LONG, "stream": True, "logprobs": 20}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        slow.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        began = time.monotonic()

        status, answer, _ = post(server, "/v1/completions", {**LONG, "max_tokens": 30})

        assert status == 200 and answer["usage"]["completion_tokens"] == 30
        assert time.monotonic() - began < 10
        until(lambda: running(server) == 0 and server.all_blocks_free)
        slow.close()


def test_connections_that_never_finish_a_request_do_not_stop_others():
    with LiveServer(load_embedded(), body_timeout_s=0.5) as server:
        headless = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        for connection in headless:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-A: ")
        bodyless = socket.create_connection(("127.0.0.1", server.port))
        bodyless.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )

        assert post(server, "/v1/completions", {**LONG, "max_tokens": 2})[0] == 200
        bodyless.settimeout(10)
        assert b" 408 " in bodyless.recv(4096)
        for connection in [*headless, bodyless]:
            connection.close()


@pytest.mark.parametrize(
    ("headers", "status", "named"),
    [
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400, "Content-Type"),
    ],
)
def test_a_body_of_another_kind_is_refused_with_the_headers_name(server, headers, status, named):
    connection = open_request(server, LONG, headers=headers)

    answer = connection.getresponse()

    assert answer.status == status
    assert named in json.load(answer)["error"]["message"]
    connection.close()


@pytest.mark.parametrize("path", ["/", "/health", "/version", "/metrics", "/v1/models"])
def test_head_answers_what_get_does_without_the_body(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("HEAD", path)

    answer = connection.getresponse()

    assert (answer.status, answer.read()) == (200, b"")
    connection.close()


def test_finished_requests_leave_one_line_of_json_each(server, caplog):
    with caplog.at_level("INFO", "llama_cu.server.requests"):
        post(server, "/v1/completions", {**LONG, "max_tokens": 5})
        post(server, "/v1/completions", {**LONG, "n": 0})

    (record,) = [r for r in caplog.records if r.name == "llama_cu.server.requests"]
    line = json.loads(record.getMessage())
    assert line["outcome"] == "ok" and line["generated_tokens"] == 5
    assert line["route"] == "/v1/completions" and line["finish_reasons"] == ["length"]
    assert 0 < line["time_to_first_token_s"] <= line["total_s"]


def test_a_long_prompt_lets_running_answers_go_on():
    def load():
        llm = load_embedded()()
        llm.engine.scheduler.max_batch_tokens = 16
        return llm

    with LiveServer(load) as server:
        decoding = open_request(server, {**LONG, "max_tokens": 200})
        until(lambda: running(server) == 1 and server.scheduler.running[0].num_generated > 5)
        sequence = server.scheduler.running[0]
        before = sequence.num_generated
        status, body, _ = post(
            server, "/v1/completions", {**LONG, "prompt": [9] * 400, "max_tokens": 1}
        )
        gained = sequence.num_generated - before

        assert status == 200 and body["usage"]["prompt_tokens"] == 400
        assert gained >= 400 // 16  # a token in every step that prefilled
        decoding.close()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
class TestProcess:
    """The program itself, as `llama-cu serve`."""

    @pytest.fixture
    def start(self, program_environment):
        started = []

        def start(*options, **process_options):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "llama_cu", "serve", "--model", "story"]
            process = subprocess.Popen(
                [*command, "--device", "cpu", "--port", str(port), *options],
                stderr=subprocess.PIPE,
                text=True,
                env=program_environment,
                **process_options,
            )
            process.port, process.url = port, f"http://127.0.0.1:{port}"
            started.append(process)
            until(lambda: _is_ready(process))
            return process

        yield start
        for process in started:
            process.kill()
            process.wait()
            process.stderr.close()

    def test_it_says_where_it_listens_and_what_it_holds(self, start):
        process = start("--kv-cache-memory", "8M")
        process.terminate()
        _, log = process.communicate(timeout=20)

        assert f"http://127.0.0.1:{process.port}" in log
        assert "KV cache for 2,720 tokens" in log

    def test_a_stream_finishes_after_the_order_to_stop(self, start):
        process = start()
        stream = open_request(process, {**LONG, "max_tokens": 300, "stream": True})
        response = stream.getresponse()
        response.read(8)

        process.send_signal(signal.SIGTERM)

        text = response.read().decode()
        stream.close()
        assert '"finish_reason": "length"' in text and text.rstrip().endswith("data: [DONE]")
        assert process.wait(20) in (0, -signal.SIGTERM)

    def test_a_second_order_to_stop_drops_open_answers_without_a_traceback(self, start):
        process = start()
        stream = open_request(process, {**LONG, "stream": True})
        stream.getresponse().read(8)

        process.send_signal(signal.SIGINT)
        until(lambda: not listens(process))
        process.send_signal(signal.SIGINT)

        _, log = process.communicate(timeout=20)
        stream.close()
        assert process.returncode == 130 and "Traceback" not in log
        assert '"outcome": "cancelled"' in log

    def test_an_order_to_stop_is_heard_where_a_shell_has_it_ignored(self, start):
        process = start(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))

        process.send_signal(signal.SIGINT)

        process.communicate(timeout=20)
        assert process.returncode == 130

    @pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="the system has no SIGPIPE")
    def test_a_write_to_a_client_that_has_just_left_does_not_end_it(self, start):
        process = start()

        process.send_signal(signal.SIGPIPE)  # what such a write does

        assert post(process, "/v1/completions", {**LONG, "max_tokens": 4})[0] == 200

    def test_killed_under_load_and_started_again_it_serves(self, start):
        process = start()
        streams = [open_request(process, {**LONG, "stream": True}) for _ in range(4)]
        streams[0].getresponse().read(8)

        process.kill()
        process.wait(20)
        again = start()

        assert post(again, "/v1/completions", {**LONG, "max_tokens": 4})[0] == 200
        for stream in streams:
            stream.close()


def listens(process):
    try:
        socket.create_connection(("127.0.0.1", process.port), timeout=5).close()
    except OSError:
        return False
    return True


def _is_ready(process):
    assert process.poll() is None, "the server ended"
    try:
        return get(process, "/health")[0] == 200
    except OSError:
        return False


def test_a_wrong_option_is_one_line(program):
    for options, words in (
        (("--port", "99999"), "--port"),
        (("--kv-cache-memory", "lots"), "--kv-cache-memory"),
        (("--max-queue", "0"), "max_queue"),
        (("--model", "/nowhere"), "/nowhere"),
    ):
        done = program("serve", *(() if "--model" in options else ("--model", "story")), *options)
        error = [line for line in done.stderr.splitlines() if "error:" in line]
        assert done.returncode != 0 and len(error) == 1 and words in error[0]
        assert "Traceback" not in done.stderr and "listening" not in done.stderr


def test_kv_capacity_follows_the_memory_given():
    llm = load_embedded(kv_cache_bytes=1 << 20)()
    per_token = 2 * 3 * 4 * 32 * np.dtype(np.float32).itemsize

    assert llm.engine.capacity == (1 << 20) // per_token // 16 * 16
