"""The demo's API does what its documentation says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient
from aiohttp.web import Application, Request

from tollgate.dev.demo_upstream import application

Client = TestClient[Request, Application]


@pytest.fixture
async def client(aiohttp_client: Callable[[Application], Awaitable[Client]]) -> Client:
    return await aiohttp_client(application())


async def test_hello_is_exactly_one_kibibyte_of_json(client: Client) -> None:
    response = await client.get("/hello")
    assert (response.status, response.content_type) == (200, "application/json")
    body = await response.read()
    assert len(body) == 1024
    assert json.loads(body)["message"]


async def test_echo_tells_what_arrived(client: Client) -> None:
    response = await client.put("/echo?a=1", data=b"some text", headers={"X-Custom": "yes"})
    seen = await response.json()
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("PUT", "/echo", "a=1", "some text")
    assert ["X-Custom", "yes"] in seen["headers"]


@pytest.mark.parametrize(("code", "status"), [("204", 204), ("418", 418), ("599", 599), ("199", 400), ("600", 400)])
async def test_status_answers_with_it(client: Client, code: str, status: int) -> None:
    assert (await client.get(f"/status/{code}")).status == status


@pytest.mark.parametrize(
    ("ms", "status"), [("0", 200), ("20", 200), ("60001", 400), ("-1", 400), ("²", 400), ("", 400)]
)
async def test_slow_takes_a_bounded_number(client: Client, ms: str, status: int) -> None:
    assert (await client.get("/slow", params={"ms": ms})).status == status


async def test_stream_sends_events(client: Client) -> None:
    response = await client.get("/stream?n=2")
    assert response.content_type == "text/event-stream"
    assert (await response.text()).split("\n\n") == [
        'id: 1\ndata: {"number": 1, "of": 2}',
        'id: 2\ndata: {"number": 2, "of": 2}',
        "",
    ]
