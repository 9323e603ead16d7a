"""The server against requests that a machine makes up from its own OpenAPI document."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("schemathesis", reason="needs schemathesis")

import schemathesis
from hypothesis import HealthCheck, given, settings

from live_server import LiveServer, get, load_embedded, post

FOREVER = "/api/init/{session_id}"  # a stream that never ends


@pytest.fixture(scope="module")
def server():
    with LiveServer(load_embedded(max_model_len=64), max_streams=8) as live:
        yield live


BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_request_makes_the_server_fail(server):
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [each.ok() for each in document.exclude(path=FOREVER).get_all_operations()]
    statuses = set()

    for operation in operations:

        @BOUNDED
        @given(case=operation.as_strategy())
        def ask(case):
            response = case.call(timeout=30)
            statuses.add(response.status_code)
            assert response.status_code < 500, response.text
            assert get(server, "/health")[0] == 200

        ask()

    assert len(operations) >= 10
    assert {200, 400} <= statuses


def test_after_all_that_it_still_answers(server):
    status, body, _ = post(
        server, "/v1/completions", {"model": "story", "prompt": "Once", "max_tokens": 4}
    )

    assert status == 200 and body["usage"]["completion_tokens"] == 4
