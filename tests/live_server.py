"""The server, live on a port of its own in a thread of this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.request

from llama_cu.find_model import find_model
from llama_cu.llm import LLM
from llama_cu.server.app import create_app
from llama_cu.server.run import Server
from llama_cu.server.settings import Settings


def load_embedded(name="story", **options):
    return lambda: LLM(find_model(name), **{"device": "cpu", "seed": 0, **options})


def slowly(seconds, name="story", **options):
    """A model whose steps take a while, so that there is time to do something meanwhile."""

    def load():
        llm = load_embedded(name, **options)()
        step = llm.engine.step

        def slow_step():
            time.sleep(seconds)
            return step()

        llm.engine.step = slow_step
        return llm

    return load


class LiveServer:
    """Serves while its `with` block runs; `url` is its address, `service` its inside."""

    def __init__(self, load=None, *, wait=True, **settings):
        self.settings = Settings(**{"model_name": "story", "drain_s": 2.0, **settings})
        self.app = create_app(self.settings, load or load_embedded())
        self._wait = wait

    @property
    def service(self):
        return self.app.state.service

    @property
    def scheduler(self):
        return self.service.engine.llm.engine.scheduler

    @property
    def all_blocks_free(self):
        allocator = self.scheduler.allocator
        return allocator.num_free == allocator.num_blocks

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        listening = threading.Event()
        self.server = Server(self.app, self.settings, listening.set)
        serve = self.server.serve([self._socket])
        self._thread = threading.Thread(target=lambda: asyncio.run(serve), daemon=True)
        self._thread.start()
        assert listening.wait(30), "the server did not start"
        if self._wait:
            # On a device of the tests' own, loading compiles.
            until(lambda: self.service.engine.state == "ready", timeout_s=120)
        return self

    def __exit__(self, *exc_info):
        self.server.should_exit = True
        self._thread.join(30)
        self._socket.close()
        assert not self._thread.is_alive(), "the server did not end"


def until(condition, timeout_s=20.0):
    """Wait for a condition that other threads bring about."""
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.005)


def post(server, path, body, headers=None, timeout=60):
    """(status, JSON, headers) of a POST; the body is JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path, data, {"Content-Type": "application/json", **(headers or {})}
    )
    return _open(request, timeout)


def get(server, path, headers=None, method="GET"):
    """(status, JSON, headers) of a GET."""
    return _open(urllib.request.Request(server.url + path, None, headers or {}, method=method), 60)


def _open(request, timeout):
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, _parsed(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _parsed(error.read()), error.headers


def _parsed(content):
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()
