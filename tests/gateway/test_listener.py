"""The client's side: requests however they are cut, in order, one at a time, within deadlines and bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ledger.keys import hash_key
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import Answer, answering, ask, drop, ok, payload, read_answer, read_request, request
from tests.support.gateway import Books, until
from tests.support.raw import Peer

HELLO = answering(ok(b"hello"))
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


async def named(peer: Peer) -> None:
    """Answers with the path, and with the body if there is one."""
    try:
        while True:
            head, _, body = (await read_request(peer)).partition(b"\r\n\r\n")
            if b"chunked" in head:
                body = payload(body)
            await peer.send(ok(head.split(b" ")[1] + b"|" + body))
    except (EOFError, TimeoutError, ConnectionError):
        pass


def without_time(answer: Answer) -> tuple[Any, ...]:
    """An answer without what differs every time."""
    changing = ("date", "x-request-id", "ratelimit", "x-ratelimit-reset", "x-ratelimit-remaining")
    body = answer.json() if answer.headers.get("content-type", "").endswith("json") else answer.body
    if isinstance(body, dict):
        body.pop("request_id", None)
    return answer.status, {k: v for k, v in answer.headers.items() if k not in changing}, body


# -- however a request is cut


async def test_a_request_cut_anywhere_is_the_same_request(stage: MakeStage, books: Books) -> None:
    s = await stage(named, route={"auth": "none"})
    several = [
        request("/api/a?b=c", None, "Accept: */*"),
        request("/api/b", None, method="PUT", body=b"\r\n\r\nbody"),
        request("/api/b", None, "Transfer-Encoding: chunked", method="PUT") + b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n",
    ]
    client = await s.client()
    count = 0
    for data in several:
        whole = without_time(await ask(client, data))
        assert whole[0] == 200
        for place in range(1, len(data)):
            await client.send(data, pause_after=(place,))
            assert without_time(await read_answer(client)) == whole
        count += len(data)
    await s.inside.settled()
    assert len(await books.events()) == count


async def test_a_request_byte_by_byte_is_the_same_request(stage: MakeStage) -> None:
    s = await stage(named)
    client = await s.client()
    data = request("/api/b", s.key, method="PUT", body=b"body")
    await client.send(data, pause_after=tuple(range(1, len(data))))
    assert (await read_answer(client)).body == b"/b|body"


async def test_an_empty_line_before_a_request_is_forgiven(stage: MakeStage) -> None:
    s = await stage(named)
    client = await s.client()
    for _ in range(2):
        assert (await ask(client, b"\r\n" + request("/api/a", s.key))).body == b"/a|"


# -- one after the other


async def test_many_requests_in_one_segment_are_answered_in_order(stage: MakeStage, books: Books) -> None:
    s = await stage(named)
    client = await s.client()
    requests = [
        request(f"/api/{n}", s.key, method="POST", body=b"b%d" % n) if n % 3 == 0 else request(f"/api/{n}", s.key)
        for n in range(60)
    ]
    await client.send(b"".join(requests))
    for n in range(60):
        assert (await read_answer(client)).body == (b"/%d|b%d" % (n, n) if n % 3 == 0 else b"/%d|" % n)
    await s.inside.settled()
    assert len(await books.events()) == 60


async def test_pipelined_requests_are_forwarded_one_at_a_time(stage: MakeStage) -> None:
    go_on = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await read_request(peer)
            await go_on.acquire()
            await peer.send(ok())
        await peer.read_to_end()

    s = await stage(script)
    client = await s.client()
    await client.send(request("/api/1", s.key) + request("/api/2", s.key))
    await until(lambda: s.upstream.received)
    await asyncio.sleep(0.05)
    assert [received.count(b"GET ") for received in s.upstream.received] == [1]
    go_on.release()
    assert (await read_answer(client)).status == 200
    go_on.release()
    assert (await read_answer(client)).status == 200


async def test_what_follows_a_request_that_closes_is_not_looked_at(stage: MakeStage, books: Books) -> None:
    s = await stage(named)
    client = await s.client()
    await client.send(request("/api/1", s.key, "Connection: close") + request("/api/2", s.key) * 100)
    answer = await read_answer(client)
    assert (answer.body, answer.headers["connection"]) == (b"/1|", "close")
    assert await client.read_to_end() == b""
    await s.inside.settled()
    assert len(await books.events()) == 1


async def test_a_pipeline_that_is_never_read_does_not_fill_the_memory(stage: MakeStage) -> None:
    s = await stage(answering(ok(b"x" * 20_000)))
    client = await s.client()
    data = request("/api/x", s.key) * 2_000
    sent = 0

    async def pour() -> None:
        nonlocal sent
        try:
            while sent < 64 * 2**20:
                await client.send(data)
                sent += len(data)
        except (TimeoutError, ConnectionError):
            pass

    pouring = asyncio.create_task(pour())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.15)
    [connection] = s.inside.door.connections
    assert len(connection._buffer) < 1_000_000
    assert sent < 32 * 2**20
    for _ in range(300):  # it goes on as soon as it is read
        assert (await read_answer(client)).status == 200
        assert len(connection._buffer) < 1_000_000
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    drop(client)


# -- keep-alive


@pytest.mark.parametrize(
    ("version", "line", "stays"),
    [
        ("1.1", "A: b", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: x, CLOSE", False),
        ("1.0", "A: b", False),
        ("1.0", "Connection: keep-alive", True),
        ("1.0", "Connection: keep-alive, close", False),
    ],
)
async def test_a_connection_stays_open_if_both_want_it(stage: MakeStage, version: str, line: str, stays: bool) -> None:
    s = await stage(HELLO)
    client = await s.client()
    for target in ("/api/x", "/health", "/nowhere"):
        head = f"GET {target} HTTP/{version}\r\nHost: a\r\nX-API-Key: {s.key}\r\n{line}\r\n\r\n"
        answer = await ask(client, head.encode())
        assert (answer.headers.get("connection") == "close") is not stays
        assert (answer.headers.get("connection") == "keep-alive") is (stays and version == "1.0")
        if not stays:
            assert await client.read_to_end() == b""
            client = await s.client()


async def test_a_half_remembered_head_is_not_used_for_another(stage: MakeStage) -> None:
    """Heads that begin alike, or differ in one place only, on one connection."""
    s = await stage(named)
    client = await s.client()
    lines = ["A: b", "A: c", "A: bb", "a: b"]
    for target in ("/api/a", "/api/ab", "/api/a?b", "/api/a"):
        for line in lines:
            for method in ("GET", "DELETE"):
                answer = await ask(client, request(target, s.key, line, method=method))
                assert answer.body == target.removeprefix("/api").encode() + b"|"
    heads = s.upstream.received[0].split(b"HTTP/1.1\r\n")[1:]
    assert [line.encode() in head for line, head in zip([x for x in lines * 4 for _ in "12"], heads, strict=True)] == [
        True
    ] * 32
    wrong = request("/api/a", s.key[:-1] + ("x" if s.key[-1] != "x" else "y"), "A: b")
    assert (await ask(client, wrong)).status == 401
    assert (await ask(client, request("/api/a", s.key, "A: b"))).status == 200


# -- deadlines


async def test_a_slow_head_is_a_408(stage: MakeStage) -> None:
    s = await stage(HELLO, head_timeout_ms=120)
    client = await s.client()
    began = time.monotonic()
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
    await asyncio.sleep(0.07)
    await client.send(b"X: y\r\n")  # a byte now and then does not help
    answer = await read_answer(client)
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (408, "request_timeout", "close")
    assert 0.1 < time.monotonic() - began < 0.6
    assert await client.read_to_end() == b""


@pytest.mark.parametrize("first", [b"", HEALTH])
async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(stage: MakeStage, first: bytes) -> None:
    s = await stage(HELLO, head_timeout_ms=80, idle_timeout_ms=80)
    client = await s.client()
    if first:
        assert (await ask(client, first)).status == 200
    began = time.monotonic()
    assert await client.read_to_end() == b""
    assert 0.05 < time.monotonic() - began < 0.6


async def test_an_idle_connection_stays_for_its_time(stage: MakeStage) -> None:
    s = await stage(HELLO, head_timeout_ms=250, idle_timeout_ms=5_000)
    client = await s.client()
    assert (await ask(client, HEALTH)).status == 200
    await asyncio.sleep(0.35)
    assert (await ask(client, HEALTH)).status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("target", "sent"), [("/api/x", b""), ("/api/x", b"3\r\nabc"), ("/api/data", b""), ("/api/data", b"3")]
)
async def test_a_slow_body_is_a_408(stage: MakeStage, books: Books, framing: str, target: str, sent: bytes) -> None:
    async def patient(peer: Peer) -> None:
        await peer.read_to_end()

    s = await stage(patient, body_timeout_ms=120, route={"read_timeout_ms": 10_000})
    await s.inside.gateway.snapshot.principal(hash_key(s.key.encode()))  # known: its look-up takes none of the time
    client = await s.client()
    began = time.monotonic()
    await client.send(request(target, s.key, framing, method="POST") + sent)
    answer = await read_answer(client)
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (408, "request_timeout", "close")
    assert 0.1 < time.monotonic() - began < 0.6
    await client.close()
    await s.inside.settled()
    assert await books.reservations() == []
    assert [(e["outcome"], e["status"]) for e in await books.events()] == (
        [("client_gone", 408)] if target == "/api/x" else []
    )


async def test_a_body_that_keeps_coming_has_all_the_time(stage: MakeStage) -> None:
    s = await stage(named, body_timeout_ms=120)
    client = await s.client()
    await client.send(request("/api/x", s.key, "Content-Length: 10", method="POST"))
    for byte in b"0123456789":
        await asyncio.sleep(0.03)
        await client.send(bytes((byte,)))
    assert (await read_answer(client)).body == b"/x|0123456789"


async def test_a_client_that_never_takes_its_last_answer_does_not_stay_for_ever(stage: MakeStage) -> None:
    s = await stage(answering(ok(b"x" * 8_000_000)), idle_timeout_ms=150, route={"read_timeout_ms": 100})
    client = await s.client()
    await client.send(request("/api/x", s.key, "Connection: close"))
    await until(lambda: not s.inside.door.connections, within_s=3)


async def test_a_client_that_takes_no_answer_at_all_does_not_stay_for_ever(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.reading._LINGER_S", 0.1)
    s = await stage(HELLO, idle_timeout_ms=150, head_timeout_ms=150)
    client = await s.client()
    client._reader._transport.pause_reading()  # type: ignore[attr-defined]
    [connection] = await until(lambda: list(s.inside.door.connections))
    has_paused = False
    try:
        while not has_paused:
            await client.send(HEALTH * 200)
            has_paused = connection._write_paused
    except ConnectionError:
        pass
    await until(lambda: not s.inside.door.connections)
    assert has_paused
    drop(client)


# -- Expect: 100-continue


async def test_a_client_that_waits_for_100_gets_it_once_it_is_admitted(stage: MakeStage) -> None:
    s = await stage(named)
    client = await s.client()
    for _ in range(2):
        await client.send(request("/api/x", s.key, "Expect: 100-continue", "Content-Length: 4", method="PUT"))
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await read_answer(client)).body == b"/x|body"
    assert b"Expect" not in s.upstream.received[0]


@pytest.mark.parametrize(
    ("key", "lines", "status"),
    [("", [], 401), ("nonsense", [], 401), (None, ["Content-Length: 11"], 413)],
)
async def test_a_client_that_is_refused_need_not_send_its_body(
    stage: MakeStage, key: str | None, lines: list[str], status: int
) -> None:
    s = await stage(named, route={"max_body_bytes": 10})
    client = await s.client()
    lines = [*(lines or ["Content-Length: 4"]), "Expect: 100-continue"]
    await client.send(request("/api/x", s.key if key is None else key, *lines, method="PUT"))
    answer = await read_answer(client)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert s.upstream.received == []


async def test_a_client_that_does_not_wait_gets_no_100_after_its_body(stage: MakeStage) -> None:
    s = await stage(named)
    client = await s.client()
    answer = await ask(client, request("/api/x", s.key, "Expect: 100-continue", method="PUT", body=b"body"))
    assert (answer.status, answer.body) == (200, b"/x|body")


async def test_an_http_1_0_client_never_gets_a_100(stage: MakeStage) -> None:
    s = await stage(named)
    client = await s.client()
    head = f"PUT /api/x HTTP/1.0\r\nX-API-Key: {s.key}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    await client.send(head.encode())
    await until(lambda: s.upstream.received)
    await client.send(b"body")
    assert (await read_answer(client)).status == 200


async def test_another_expectation_is_a_417(stage: MakeStage) -> None:
    s = await stage(named)
    answer = await ask(await s.client(), request("/api/x", s.key, "Expect: miracles"))
    assert (answer.status, answer.json()["code"]) == (417, "expectation_failed")


# -- refusing early


@pytest.mark.parametrize("framing", ["Content-Length: 20000000", "Transfer-Encoding: chunked"])
async def test_a_refusal_arrives_although_the_client_is_still_sending(stage: MakeStage, framing: str) -> None:
    s = await stage(HELLO)
    client = await s.client()
    await client.send(request("/api/x", "nonsense", framing, method="POST"))
    try:
        for _ in range(50):  # a client that sends first and listens later
            await client.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
    except ConnectionError:
        pytest.fail("reset while sending: the answer may be lost")
    assert (await read_answer(client)).status == 401
    assert await client.read_to_end() == b""


async def test_one_who_goes_on_sending_is_cut_off_in_the_end(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.reading._LINGER_S", 0.1)
    s = await stage(HELLO)
    client = await s.client()
    await client.send(request("/api/x", "nonsense", "Content-Length: 20000000", method="POST"))
    try:
        for _ in range(1_000):
            await client.send(b"x" * 1_000)
            await asyncio.sleep(0.005)
        pytest.fail("still connected")
    except ConnectionError:
        pass
    assert not s.inside.door.connections


# -- what cannot be read


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, "bad_request"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
        (b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "not_implemented"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"GET /" + b"x" * 40_000, 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "headers_too_large"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "not_implemented"),
    ],
)
async def test_what_cannot_be_read_is_refused_and_the_connection_closed(
    stage: MakeStage, books: Books, data: bytes, status: int, code: str
) -> None:
    s = await stage(HELLO, route={"path": "/*"})
    client = await s.client()
    assert (await ask(client, request("/x", s.key))).status == 200
    answer = await ask(client, data)
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (status, code, "close")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (status == 405) == ("allow" in answer.headers)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert await client.read_to_end() == b""
    await s.inside.settled()
    assert len(await books.events()) == 1
    assert s.upstream.received[0].count(b"HTTP/1.1") == 1


async def test_a_body_that_goes_wrong_is_a_400_and_breaks_the_request_off(stage: MakeStage, books: Books) -> None:
    async def patient(peer: Peer) -> None:
        assert not (await peer.read_to_end()).endswith(b"0\r\n\r\n")  # never a whole request

    s = await stage(patient)
    client = await s.client()
    await client.send(request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
    await until(lambda: s.upstream.received and s.upstream.received[0].endswith(b"3\r\nabc\r\n"))
    await client.send(b"zz\r\n")
    answer = await read_answer(client)
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (400, "bad_request", "close")
    await client.close()
    await s.inside.settled()
    assert [(e["outcome"], e["status"], e["meters"]["bytes_in"]) for e in await books.events()] == [
        ("client_gone", 400, 3)
    ]


async def test_a_body_that_goes_wrong_inside_an_answer_breaks_it_off(stage: MakeStage) -> None:
    async def early(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(ok(b"0123456789")[:-5])
        await peer.read_to_end()

    s = await stage(early)
    client = await s.client()
    await client.send(request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST"))
    await client.read_until(b"01234")
    await client.send(b"zz\r\n")
    assert await client.read_to_end() == b""


async def test_limits_of_heads_are_settings(stage: MakeStage) -> None:
    s = await stage(HELLO, max_head_bytes=1_024, max_target_bytes=256, max_headers=8)
    ways = [
        (b"GET /health?" + b"x" * 248 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /health?" + b"x" * 249 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 7 + b"\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 8 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (1_024 - 38) + b"\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (1_024 - 37) + b"\r\n\r\n", 431),
    ]
    for data, status in ways:
        assert (await ask(await s.client(), data)).status == status


# -- draining


async def test_while_draining_open_requests_finish_and_idle_connections_close(stage: MakeStage, books: Books) -> None:
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await go_on.wait()
        await peer.send(ok(b"finished"))
        await peer.read_to_end()

    s = await stage(slow)
    idle, busy, fresh = await s.client(), await s.client(), await s.client()
    assert (await ask(idle, HEALTH)).status == 200
    await busy.send(request("/api/x", s.key) + HEALTH)
    await until(lambda: s.upstream.received)
    s.inside.gateway.is_draining = True
    for connection in tuple(s.inside.door.connections):
        connection.drain()
    assert await idle.read_to_end() == b""
    assert await fresh.read_to_end() == b""
    go_on.set()
    assert (await read_answer(busy)).body == b"finished"
    assert await busy.read_to_end() == b""  # what was pipelined behind it is not begun
    await busy.close()
    await until(lambda: not s.inside.door.connections)
    await s.inside.settled()
    assert len(await books.events()) == 1


async def test_a_connection_that_is_made_while_draining_may_ask_once(stage: MakeStage) -> None:
    s = await stage(HELLO)
    s.inside.gateway.is_draining = True
    client = await s.client()
    answer = await ask(client, HEALTH)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_figures_count_connections_and_what_could_not_be_read(stage: MakeStage) -> None:
    s = await stage(HELLO)
    metrics = s.inside.gateway.metrics
    for data in (b"nonsense\r\n\r\n", HEALTH):
        await ask(await s.client(), data)
    assert metrics.counts["connections_total"] == 2
    assert metrics.snapshot()["admissions"][7] == 1
