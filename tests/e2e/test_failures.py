"""Everything that can go wrong between admission and the last byte: the right status, one event, nothing left open."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e import raw
from tests.e2e.books import Books
from tests.e2e.conftest import Door, Origins
from tests.support.processes import eventually
from tests.support.upstreams.counting import BLOCK

Through = Callable[[str], Door]


def _request(door: Door, path: str) -> bytes:
    """A GET for `path` behind the door, as bytes."""
    prefix = "/" + door.url.partition("//")[2].partition("/")[2]
    fields = "".join(f"{name}: {value}\r\n" for name, value in door.headers.items())
    return f"GET {prefix}{path} HTTP/1.1\r\nHost: e2e\r\n{fields}\r\n".encode()


async def test_a_refused_connection_is_502(through: Through, books: Books, customer: str) -> None:
    door = through("/refused")
    answer = raw.get(door.url + "/x", door.headers)
    assert (answer.status, answer.json()["code"]) == (502, "upstream_unreachable")
    assert answer.headers["content-type"] == "application/problem+json"
    event = await books.only_event(customer)
    assert (event.status, event.outcome, event.route) == (502, "upstream_failed", "refused")


async def test_a_silent_origin_is_504(through: Through, books: Books, customer: str) -> None:
    door = through("/impatient")
    started = time.monotonic()
    answer = raw.get(door.url + "/hang", door.headers)
    took = time.monotonic() - started
    assert (answer.status, answer.json()["code"]) == (504, "upstream_timeout")
    assert 0.4 <= took < 1.5, "never early; late by up to three ticks of a tenth of a second"
    event = await books.only_event(customer)
    assert (event.status, event.outcome) == (504, "upstream_failed")


async def test_an_origin_that_does_not_speak_http_is_502(through: Through, books: Books, customer: str) -> None:
    door = through("/c")
    answer = raw.get(door.url + "/garbage", door.headers)
    assert (answer.status, answer.json()["code"]) == (502, "upstream_invalid")
    event = await books.only_event(customer)
    assert (event.status, event.outcome) == (502, "upstream_failed")


@pytest.mark.parametrize("how", ["reset", "truncate"])
async def test_an_origin_that_dies_in_its_answer_breaks_the_client_off_too(
    through: Through, books: Books, origins: Origins, customer: str, request_id: str, how: str
) -> None:
    door = through("/c")
    with raw.Connection(door.url) as connection:
        connection.send(_request(door, f"/{how}?bytes=5000&gate={request_id}"))
        received = b""
        while not received.endswith(BLOCK[4990:5000]):
            received += connection.receive_some()
        origins.counting.open_gate(request_id)
        while more := connection.receive_some():
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == BLOCK[:5000], "nothing may follow what the origin sent, least of all a second answer"
    event = await books.only_event(customer)
    assert (event.outcome, event.meters["bytes_out"]) == ("upstream_failed", 5000)


async def test_an_origin_that_falls_silent_in_its_answer(
    through: Through, books: Books, customer: str, request_id: str
) -> None:
    door = through("/impatient")
    with raw.Connection(door.url) as connection:
        connection.send(_request(door, f"/reset?bytes=5000&gate={request_id}"))
        with pytest.raises(raw.Broken) as broken:
            connection.read()
    assert broken.value.received == BLOCK[:5000]
    event = await books.only_event(customer)
    assert event.outcome == "upstream_failed"


async def test_a_client_that_leaves_is_billed_for_what_passed(
    through: Through, books: Books, origins: Origins, customer: str
) -> None:
    door = through("/c")
    with raw.Connection(door.url, receive_buffer=65_536) as connection:
        connection.send(_request(door, "/body?bytes=1000000000"))
        received = b""
        while len(received) < 200_000:
            received += connection.receive_some()
    event = await books.only_event(customer)
    assert (event.status, event.outcome, event.meters["requests"]) == (200, "client_gone", 1)
    assert 200_000 - 1000 < event.meters["bytes_out"] < 1_000_000_000


async def test_a_client_that_leaves_before_the_answer(
    through: Through, books: Books, origins: Origins, customer: str, request_id: str
) -> None:
    door = through("/c")
    with raw.Connection(door.url) as connection:
        connection.send(_request(door, f"/slow?id={request_id}&gate={request_id}"))
        eventually(lambda: origins.counting.seen(request_id) == 1)
    event = await books.only_event(customer)
    assert (event.outcome, event.meters["requests"]) == ("client_gone", 1)


async def test_a_client_that_leaves_in_its_own_upload(
    through: Through, books: Books, origins: Origins, customer: str, request_id: str
) -> None:
    door = through("/c")
    with raw.Connection(door.url) as connection:
        head = _request(door, f"/echo?id={request_id}").replace(b"GET", b"PUT", 1)[:-2]
        connection.send(head + b"Content-Length: 1000000\r\n\r\n" + bytes(300_000))
        eventually(lambda: origins.counting.seen(request_id) == 1)
    event = await books.only_event(customer)
    assert event.outcome == "client_gone"
    assert 0 <= event.meters.get("bytes_in", 0) <= 300_000


async def test_an_answer_of_the_origin_is_passed_whatever_its_status(
    through: Through, books: Books, customer: str
) -> None:
    door = through("/c")
    assert raw.get(door.url + "/status?code=503", door.headers).body == b"status 503"
    event = await books.only_event(customer)
    assert (event.status, event.outcome, event.meters["requests"]) == (503, "completed", 1)


async def test_no_credential_is_no_event(through: Through, books: Books, origins: Origins, request_id: str) -> None:
    await books.balanced()  # events of other tests are stored first
    before = await books.postgres.fetchval("SELECT count(*) FROM usage_events")
    answer = raw.get(f"{through('/c').url}/count?id={request_id}")
    assert answer.status == 401
    await books.balanced()
    assert origins.counting.seen(request_id) == 0
    assert await books.postgres.fetchval("SELECT count(*) FROM usage_events") == before


def test_a_pooled_connection_that_the_origin_closed_is_not_a_failure(through: Through, request_id: str) -> None:
    """The origin ends the connection after each answer (`close` framing) while others wait in the pool."""
    door = through("/c")
    for _ in range(10):
        assert raw.get(door.url + "/body?bytes=10&framing=close", door.headers).status == 200
        assert raw.get(door.url + "/count", door.headers).status == 200
