"""The driver of a request's life: a coroutine, resumed and interrupted from callbacks, without a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.exchange import ClientGone, Exchange, suspend
from gateway.http1.fields import parse_fields
from gateway.http1.request import parse_request_line


class Client:
    """Notes what the exchange does to its connection."""

    def __init__(self) -> None:
        self.done = 0
        self.aborted = 0
        self.written: list[bytes] = []

    def exchange_done(self, _: Exchange) -> None:
        self.done += 1

    def abort(self) -> None:
        self.aborted += 1

    def write_body(self, data: bytes) -> None:
        self.written.append(data)


class Upstream:
    """Notes what reaches it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def write_body(self, data: bytes) -> None:
        self.heard.append(data)

    def end_body(self, trailers: bytes) -> None:
        self.heard.append(("end", trailers))

    def abort(self) -> None:
        self.heard.append("abort")


class Limiter:
    """Notes which verdicts reach it."""

    def __init__(self) -> None:
        self.late: list[Any] = []
        self.without_verdict: list[Any] = []

    def came_late(self, _: Exchange, reply: Any) -> None:
        self.late.append(reply)

    def refused(self, _: Exchange, reply: Any) -> None:
        self.without_verdict.append(reply)


def exchange() -> tuple[Exchange, Client]:
    client = Client()
    line = parse_request_line(b"GET / HTTP/1.1", 100)
    return Exchange(client, line, parse_fields(b"\r\n", 1), b"0" * 32, 1, 1), client  # type: ignore[arg-type]


def start(life: Coroutine[Any, Any, None]) -> tuple[Exchange, Client]:
    ex, client = exchange()
    ex.run(life)
    return ex, client


async def test_a_life_runs_until_it_waits_and_goes_on_with_what_it_is_given() -> None:
    seen: list[Any] = []

    async def life() -> None:
        seen.append("begun")
        seen.append(await suspend())
        seen.append(await suspend())

    ex, client = start(life())
    assert seen == ["begun"]
    ex.resume(1)
    assert (seen, client.done) == (["begun", 1], 0)
    ex.resume(2)
    assert (seen, client.done) == (["begun", 1, 2], 1)


async def test_nothing_reaches_a_life_that_is_over() -> None:
    async def life() -> None:
        await suspend()

    ex, client = start(life())
    ex.resume(None)
    ex.resume(None)
    ex.throw(ClientGone())
    assert (client.done, client.aborted) == (1, 0)


async def test_a_client_that_leaves_ends_the_life_where_it_waits() -> None:
    cleaned: list[str] = []

    async def life() -> None:
        try:
            await suspend()
        finally:
            cleaned.append("settled")

    ex, client = start(life())
    ex.throw(ClientGone())
    assert (cleaned, client.done, client.aborted) == (["settled"], 1, 0)


async def test_an_ordinary_future_can_be_awaited() -> None:
    future = asyncio.get_running_loop().create_future()
    seen: list[Any] = []

    async def life() -> None:
        seen.append(await future)

    _, client = start(life())
    future.set_result("made")
    await asyncio.sleep(0)
    assert (seen, client.done) == (["made"], 1)


async def test_the_failure_of_a_future_is_raised_where_it_is_awaited() -> None:
    future = asyncio.get_running_loop().create_future()
    seen: list[Any] = []

    async def life() -> None:
        try:
            await future
        except OSError as error:
            seen.append(error)

    _, client = start(life())
    future.set_exception(failure := OSError("away"))
    await asyncio.sleep(0)
    assert (seen, client.done) == ([failure], 1)


@pytest.mark.parametrize("outcome", ["result", "exception", "cancelled"])
async def test_a_future_that_is_done_after_the_client_left_disturbs_nobody(outcome: str) -> None:
    future = asyncio.get_running_loop().create_future()
    seen: list[Any] = []

    async def life() -> None:
        try:
            await future
        except ClientGone:
            seen.append("gone")
        seen.append(await suspend())

    ex, client = start(life())
    ex.throw(ClientGone())
    if outcome == "result":
        future.set_result("late")
    elif outcome == "exception":
        future.set_exception(OSError("late"))  # were it not looked at, the test would fail: "never retrieved"
    else:
        future.cancel()
    await asyncio.sleep(0)
    assert (seen, client.done) == (["gone"], 0)
    ex.resume("what it waits for now")
    assert seen == ["gone", "what it waits for now"]


@pytest.mark.parametrize("when", ["at once", "resumed", "interrupted"])
async def test_a_failure_inside_breaks_the_connections_off_and_is_logged(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        if when == "at once":
            raise RuntimeError("a bug")
        try:
            await suspend()
        except ClientGone:
            pass
        raise RuntimeError("a bug")

    ex, client = exchange()
    ex.upstream = upstream = Upstream()  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        ex.run(life())
        if when == "resumed":
            ex.resume(None)
        elif when == "interrupted":
            ex.throw(ClientGone())
    assert (client.done, client.aborted, upstream.heard) == (1, 1, ["abort"])
    [record] = caplog.records
    assert vars(record)["request_id"] == "0" * 32


async def test_a_verdict_in_time_resumes_the_life() -> None:
    verdicts: list[Any] = []

    async def life() -> None:
        verdicts.append(await suspend())

    ex, _ = start(life())
    ex.limiter, ex.admitting = (limiter := Limiter()), True
    ex.on_reply([0, 1])
    assert (verdicts, ex.admitting, limiter.late) == ([[0, 1]], False, [])


async def test_a_verdict_out_of_time_goes_to_the_limiter() -> None:
    verdicts: list[Any] = []

    async def life() -> None:
        verdicts.append(await suspend())
        await suspend()

    ex, _ = start(life())
    ex.limiter, ex.admitting = (limiter := Limiter()), True
    ex.on_timeout()
    ex.on_timeout()
    ex.on_reply([0, 1])
    assert (verdicts, limiter.late) == ([None], [[0, 1]])


async def test_a_verdict_for_a_client_that_left_goes_to_the_limiter() -> None:
    async def life() -> None:
        await suspend()

    ex, client = start(life())
    ex.limiter, ex.admitting = (limiter := Limiter()), True
    ex.throw(ClientGone())
    ex.on_reply([0, 1])
    ex.on_timeout()
    assert (client.done, limiter.late) == (1, [[0, 1]])


async def test_an_answer_without_verdict_goes_to_the_limiter() -> None:
    ex, _ = exchange()
    ex.limiter, ex.admitting = (limiter := Limiter()), True
    ex.on_reply("LOST")
    assert limiter.without_verdict == ["LOST"]


async def test_the_request_body_waits_until_there_is_an_upstream_and_then_passes() -> None:
    ex, _ = exchange()
    ex.body_done = False
    ex.body_data(b"one")
    assert (ex.body_chunks, ex.bytes_in) == ([b"one"], 3)
    ex.upstream = upstream = Upstream()  # type: ignore[assignment]
    ex.body_data(b"two!")
    ex.body_end(b"X-Sum: 1\r\n")
    assert (upstream.heard, ex.bytes_in, ex.body_done) == ([b"two!", ("end", b"X-Sum: 1\r\n")], 7, True)


async def test_a_request_body_that_is_too_large_goes_no_further() -> None:
    ex, _ = exchange()
    ex.body_done, ex.max_body = False, 5
    ex.upstream = upstream = Upstream()  # type: ignore[assignment]
    ex.body_data(b"one")
    ex.body_data(b"two")
    ex.body_end()
    assert (upstream.heard, ex.bytes_in) == ([b"one"], 6)


async def test_the_response_body_is_counted_and_handed_on() -> None:
    ex, client = exchange()
    ex.response_data(b"abc")
    ex.response_data(b"de")
    assert (client.written, ex.bytes_out) == ([b"abc", b"de"], 5)
