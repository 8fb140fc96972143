"""Messages over every lane: cut anywhere, ended anywhere, with trailers and interim answers, in pipelines, and abandoned.

What a request costs and what its sender sees must not depend on which of the gateway's features its route uses.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.exchange import ClientGone, Exchange
from ledger.events import Outcome
from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.lanes import LANES
from tests.gateway.metering.test_frames import frame
from tests.gateway.test_websocket import ACCEPTED, HANDSHAKE
from tests.gateway.wire import Answer, ask, ok, payload, read_answer, read_request, request
from tests.support.gateway import Books, until
from tests.support.raw import Peer

LANE = pytest.mark.parametrize("lane", LANES)
JSON = b"Content-Type: application/json"
TOLD = b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
CHANGING = ("date", "x-request-id", "ratelimit", "x-ratelimit-reset", "x-ratelimit-remaining")


async def on(make: MakeStage, lane: str, script: Any, **route: Any) -> Stage:
    """A stage whose route takes this lane."""
    chosen = LANES[lane]
    wanted = chosen.route | route
    if chosen.is_dead_first:
        wanted["retry_budget"] = {"percent": 100, "min_per_second": 100_000}
    stage = await make(script, tier=dict(chosen.tier), route=wanted)
    if chosen.is_dead_first:
        dead = '[{"url": "http://127.0.0.1:1", "weight": 1}]'
        about = '{"passive_health": {"failures": 10000}}'
        await _connection(stage).execute(
            f"UPDATE upstreams SET spec = jsonb_set(spec, '{{targets}}', '{dead}' || (spec -> 'targets')) || '{about}'"
        )
        await stage.inside.caught_up(_connection(stage))
    return stage


def _connection(stage: Stage) -> Any:
    return stage.catalogue.pg


def without_time(answer: Answer) -> tuple[Any, ...]:
    """An answer without what differs every time."""
    return answer.status, {k: v for k, v in answer.headers.items() if k not in CHANGING}, answer.body


async def the_books_agree(s: Stage, books: Books) -> list[dict[str, Any]]:
    """Nothing is held, nobody is under way, and what was counted is what the events say."""
    await s.inside.settled()

    async def nothing_is_held() -> bool:  # who left before the verdict gives back what it grants
        return not await books.reservations() and not await books.places()

    await until(nothing_is_held)
    await s.inside.settled()
    assert {cap.used for cap in s.inside.gateway.caps._caps.values()} <= {0}
    events = list({event["id"]: event for event in await books.events()}.values())
    for meter, used in (await books.quotas()).items():
        assert used == sum(event["meters"].get(meter, 0) for event in events), meter
    return events


async def named(peer: Peer) -> None:
    """Answers with the path and the body, in JSON that says what it cost."""
    try:
        while True:
            head, _, body = (await read_request(peer)).partition(b"\r\n\r\n")
            if b"chunked" in head:
                body = payload(body)
            path = head.split(b" ")[1].partition(b"?")[0]
            said = b'{"path":"%b","body":"%b",%b' % (path, body.replace(b'"', b"'").replace(b"\r\n", b"."), TOLD[1:])
            await peer.send(ok(b"" if head.startswith(b"HEAD") else said, JSON))
    except (EOFError, TimeoutError, ConnectionError):
        pass


# -- cut anywhere


@LANE
async def test_a_request_cut_anywhere_is_the_same_request(stage: MakeStage, books: Books, lane: str) -> None:
    s = await on(stage, lane, named)
    several = [
        request("/api/a?b=c", s.key, "Accept: */*", "Cache-Control: no-cache"),
        request("/api/b", s.key, JSON.decode(), method="POST", body=b'{"stream":true}'),
        request("/api/b", s.key, "Transfer-Encoding: chunked", method="PUT") + b"3;e=1\r\nabc\r\n0\r\nX: 1\r\n\r\n",
    ]
    client, count = await s.client(), 0
    for data in several:
        whole = without_time(await ask(client, data))
        assert whole[0] == 200
        for place in range(1, len(data), 3 if lane != "plain" else 1):
            await client.send(data, pause_after=(place,))
            assert without_time(await read_answer(client)) == whole
            count += 1
        count += 1
    assert len(await the_books_agree(s, books)) == count


ANSWERS = {
    "with a length": ok(TOLD, JSON, b"Set-Cookie: a=b"),
    "in chunks": b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\n" + TOLD[:5] + b"\r\n%x;x=y\r\n" % (len(TOLD) - 5) + TOLD[5:] + b"\r\n0\r\nX-Sum: 3\r\n\r\n",
    "an event stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n%x\r\ndata: " % (len(TOLD) + 8) + TOLD + b"\n\n\r\n0\r\n\r\n",
    "hints before": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(b"x"),
}


async def everything(client: Peer) -> bytes:
    """All that comes in answer to one request, up to a final answer's end, less what differs every time."""
    seen = b""
    while True:
        answer = await read_answer(client)
        lines = [li for li in answer.head.split(b"\r\n") if li.partition(b":")[0].decode().lower() not in CHANGING]
        seen += b"\r\n".join(lines) + answer.body
        if answer.status >= 200:
            return seen


@LANE
@pytest.mark.parametrize("form", ANSWERS)
async def test_an_answer_cut_anywhere_is_the_same_answer(stage: MakeStage, books: Books, lane: str, form: str) -> None:
    whole = ANSWERS[form]
    places = iter([len(whole), *range(1, len(whole), 2)])

    async def script(peer: Peer) -> None:
        try:
            while True:
                await read_request(peer)
                await peer.send(whole, pause_after=(next(places),))
        except (EOFError, TimeoutError, ConnectionError):
            pass

    s = await on(stage, lane, script)
    client = await s.client()
    await client.send(request("/api/x", s.key))
    expected = await everything(client)
    for _ in range(1, len(whole), 2):
        await client.send(request("/api/x", s.key))
        assert await everything(client) == expected
    events = await the_books_agree(s, books)
    assert {event["outcome"] for event in events} == {Outcome.COMPLETED}
    if "tokens" in events[0]["meters"] and form != "hints before":
        assert {event["meters"]["tokens"] for event in events} == {3}


# -- ended anywhere


@LANE
@pytest.mark.parametrize("form", ["with a length", "in chunks"])
async def test_an_answer_that_ends_too_early_is_never_a_whole_one(
    stage: MakeStage, books: Books, lane: str, form: str
) -> None:
    whole = ANSWERS[form]
    sizes = iter(range(0, len(whole), 3))

    async def script(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(whole[: next(sizes)])

    s = await on(stage, lane, script)
    head_ends = whole.index(b"\r\n\r\n") + 4
    count = 0
    for size in range(0, len(whole), 3):
        client = await s.client()
        await client.send(request("/api/x", s.key, "Connection: close"))
        received = await client.read_to_end()
        await client.close()
        count += 1
        if size < head_ends:
            assert received.startswith(b"HTTP/1.1 502 "), size
            assert b'"upstream_failed"' in received
        else:
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), size
            assert not body.endswith(b"\r\n0\r\n\r\n")
            if b"Content-Length" in head:
                assert len(body) < len(TOLD)
    events = await the_books_agree(s, books)
    assert len(events) == count
    assert {event["outcome"] for event in events} == {Outcome.UPSTREAM_FAILED}


@LANE
async def test_a_request_that_ends_anywhere_costs_only_what_was_begun(
    stage: MakeStage, books: Books, lane: str
) -> None:
    s = await on(stage, lane, named)
    data = request("/api/b", s.key, "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n"
    for size in range(1, len(data), 4):
        client = await s.client()
        await client.send(data[:size])
        client.half_close()
        await client.read_to_end()
        await client.close()
    events = await the_books_agree(s, books)
    assert {event["outcome"] for event in events} <= {Outcome.CLIENT_GONE}
    assert (await ask(await s.client(), data)).status == 200


# -- what goes beside a message


@LANE
async def test_trailers_pass_both_ways(stage: MakeStage, lane: str) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        try:
            while True:
                seen.append(await read_request(peer))
                await peer.send(ANSWERS["in chunks"])
        except (EOFError, TimeoutError, ConnectionError):
            pass

    s = await on(stage, lane, script)
    client = await s.client()
    head = request("/api/x", s.key, "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST")
    for _ in range(2):
        await client.send(head + b"3\r\nabc\r\n0\r\nX-Sum: 5\r\nX-User-Id: eve\r\nAuthorization: x\r\n\r\n")
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await client.read_until(b"0\r\nX-Sum: 3\r\n\r\n")).count(b"X-Sum") == 1
    for sent in seen:
        assert sent.endswith(b"0\r\nX-Sum: 5\r\n\r\n")  # and none that would speak for the gateway
        assert b"eve" not in sent


@LANE
async def test_hints_pass_before_the_answer_and_100_does_not(stage: MakeStage, lane: str) -> None:
    async def script(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await peer.send(ok(b"x"))
        await peer.read_to_end()

    s = await on(stage, lane, script)
    client = await s.client()
    await client.send(request("/api/x", s.key))
    assert [(await read_answer(client)).status for _ in range(2)] == [103, 200]


@LANE
async def test_head_has_a_length_and_no_body(stage: MakeStage, books: Books, lane: str) -> None:
    async def script(peer: Peer) -> None:
        try:
            while True:
                answer = ok(TOLD, JSON)
                is_head = (await read_request(peer)).startswith(b"HEAD")
                await peer.send(answer.removesuffix(TOLD) if is_head else answer)
        except (EOFError, TimeoutError, ConnectionError):
            pass

    s = await on(stage, lane, script)
    client = await s.client()
    for method in ("HEAD", "GET", "HEAD", "HEAD", "GET"):
        answer = await ask(client, request("/api/x", s.key, method=method))
        assert (answer.status, answer.headers["content-length"]) == (200, str(len(TOLD)))
        assert answer.body == (b"" if method == "HEAD" else TOLD)
    events = await the_books_agree(s, books)
    if "tokens" in events[0]["meters"]:
        assert [event["meters"]["tokens"] for event in events] == [0, 3, 0, 0, 3]


@LANE
async def test_a_client_that_waits_for_100_gets_it_once(stage: MakeStage, books: Books, lane: str) -> None:
    s = await on(stage, lane, named)
    client = await s.client()
    head = request("/api/x", s.key, "Expect: 100-continue", "Content-Length: 4", method="POST")
    for _ in range(2):
        await client.send(head)
        assert (await read_answer(client)).status == 100
        await client.send(b"body")
        answer = await read_answer(client)
        assert (answer.status, answer.json()["body"]) == (200, "body")
    assert len(await the_books_agree(s, books)) == 2


@LANE
async def test_a_pipeline_of_all_kinds_is_answered_in_order(stage: MakeStage, books: Books, lane: str) -> None:
    """Answered, refused, unknown, broken and unfinished: each in its turn, and none takes another's bytes."""

    async def script(peer: Peer) -> None:
        try:
            while True:
                head = await read_request(peer)
                if b"/broken" in head:
                    return
                body = b"" if head.startswith(b"HEAD") else b"answer to " + head.split(b" ")[1].partition(b"?")[0]
                await peer.send(ok(body))
        except (EOFError, TimeoutError, ConnectionError):
            pass

    s = await on(stage, lane, script)
    chunked = request("/api/c", s.key, "Transfer-Encoding: chunked", method="POST") + b"2\r\nhi\r\n0\r\n\r\n"
    pipeline = [
        (request("/api/a", s.key), 200, b"answer to /a"),
        (request("/api/b", None), 401, None),
        (request("/nowhere", s.key), 404, None),
        (request("/api/h", s.key, method="HEAD"), 200, b""),
        (chunked, 200, b"answer to /c"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", 200, b'{"status":"ok"}'),
        (request("/api/broken", s.key, method="POST", body=b"x"), 502, None),
        (request("/api/d", s.key, method="PUT", body=b"GET /api/smuggled HTTP/1.1\r\n\r\n"), 200, b"answer to /d"),
        (request("/api/e", "sk_live_wrong"), 401, None),
        (request("/api/f", s.key, "Connection: close"), 200, b"answer to /f"),
        (request("/api/after", s.key), 0, None),
    ]
    client = await s.client()
    await client.send(b"".join(data for data, _, _ in pipeline))
    for data, status, body in pipeline[:-1]:
        answer = await read_answer(client, to_head=data.startswith(b"HEAD"))
        assert answer.status == status, data
        assert body is None or answer.body == body
    assert await client.read_to_end() == b""
    assert not any(b"/after" in received for received in s.upstream.received)
    assert len(await the_books_agree(s, books)) == 6


@LANE
async def test_events_pass_as_they_come(stage: MakeStage, books: Books, lane: str) -> None:
    """Each event is with the client within 5 ms of its arrival (in the middle: this machine does other things too)."""
    sent: list[float] = []

    async def script(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(25):
            await go_on.wait()
            go_on.clear()
            sent.append(time.monotonic())
            await peer.send(b"9\r\ndata: 1\n\n\r\n")
        await peer.send(b"0\r\n\r\n")
        await peer.read_to_end()

    go_on, took = asyncio.Event(), []
    s = await on(stage, lane, script)
    client = await s.client()
    body = b'{"stream":true}'
    await client.send(request("/api/x", s.key, JSON.decode(), method="POST", body=body))
    await client.read_until(b"\r\n\r\n")
    for _ in range(25):
        go_on.set()
        await client.read_until(b"data: 1\n\n\r\n")
        took.append(time.monotonic() - sent[-1])
    await client.read_until(b"0\r\n\r\n")
    assert sorted(took)[len(took) // 2] < 0.005
    await the_books_agree(s, books)


@pytest.mark.parametrize("lane", ["plain", "metered", "in parts", "with places", "injected", "retried", "cached"])
async def test_a_websocket_cut_anywhere_is_the_same_conversation(stage: MakeStage, books: Books, lane: str) -> None:
    asked, said = frame(1, 5, is_masked=True) + frame(2, 130, is_masked=True), frame(1, 9) + frame(1, 200)
    back = ACCEPTED + said

    async def script(peer: Peer) -> None:
        at = int((await read_request(peer)).split(b"at=")[1].split(b" ")[0].partition(b"&")[0])
        await peer.send(back, pause_after=(at % len(back) or 1,))
        assert await peer.read_exactly(len(asked)) == asked
        await peer.send(said, pause_after=(at % len(said) or 1,))
        await peer.read_to_end()

    s = await on(stage, lane, script)
    if lane == "in parts":
        parts = '{"settle_every_messages": 1}'  # each message waits for its permit
        await s.catalogue.pg.execute(f"UPDATE routes SET spec = spec || '{parts}'")
        await s.inside.caught_up(s.catalogue.pg)
    count = 0
    for at in range(1, len(request("/api/ws?at=100", s.key, *HANDSHAKE)) + len(asked), 7):
        data = request(f"/api/ws?at={at}", s.key, *HANDSHAKE) + asked
        client = await s.client()
        await client.send(data, pause_after=(at,))
        assert (await read_answer(client)).status == 101
        assert await client.read_exactly(2 * len(said)) == said * 2
        await client.close()
        count += 1
    events = await the_books_agree(s, books)
    whole = [event for event in events if "requests" in event["meters"]]
    assert len(whole) == count
    for direction in ("messages_in", "messages_out"):
        expected = 2 * count if direction == "messages_in" else 4 * count
        assert sum(event["meters"].get(direction, 0) for event in events) == expected


# -- abandoned anywhere


Place = tuple[tuple[str, int], ...]
"""Where a life waits: the functions that are in each other, and their lines."""


def place_of(ex: Exchange) -> Place:
    at, found = ex._life, []
    while at is not None and hasattr(at, "cr_frame"):
        found.append((at.cr_code.co_name, at.cr_frame.f_lineno))
        at = at.cr_await
    return tuple(found)


class Leaves:
    """Makes a client leave the first time that its request's life waits at a place where none has left before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: list[Place] = []
        self.is_gone = self.is_off = False
        resume = Exchange.resume
        this = self

        def resumed(ex: Exchange, value: Any) -> None:
            resume(ex, value)
            if not (this.is_gone or this.is_off or ex.is_over) and (place := place_of(ex)) not in this.places:
                this.places.append(place)
                this.is_gone = True
                asyncio.get_running_loop().call_soon(ex.throw, ClientGone())
                ex.client.abort()

        monkeypatch.setattr(Exchange, "resume", resumed)


@LANE
@pytest.mark.parametrize("kind", ["GET", "whole", "POST", "events", "ws"])
async def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(
    stage: MakeStage, books: Books, lane: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(peer: Peer) -> None:
        try:
            while True:
                head = await read_request(peer)
                await asyncio.sleep(0)
                if b"/whole" in head:
                    await peer.send(ok(TOLD, JSON))  # in one piece: its life is resumed once
                    continue
                if b"/ws" in head:
                    await peer.send(ACCEPTED + frame(1, 3), pause_after=(20, len(ACCEPTED) + 1))
                    return
                if b"/events" in head:
                    stream = ANSWERS["an event stream"]
                    await peer.send(stream, pause_after=(60, len(stream) - 20))
                else:
                    await peer.send(ok(TOLD, JSON), pause_after=(20, 80))
        except (EOFError, TimeoutError, ConnectionError):
            pass

    s = await on(stage, lane, slow)
    leaves = Leaves(monkeypatch)
    for _ in range(20):
        client = await s.client()
        leaves.is_gone = False
        if kind == "POST":
            data = request("/api/x", s.key, JSON.decode(), method="POST", body=b'{"stream":true}')
            await client.send(data, pause_after=(len(data) - 4,))
        elif kind == "ws":
            await client.send(request("/api/ws", s.key, *HANDSHAKE) + frame(1, 5, is_masked=True))
        else:
            await client.send(request(f"/api/{kind}", s.key, "Cache-Control: no-cache"))
        received = await client.read_to_end() if leaves.is_gone else await one_answer(client)
        await client.close()
        await until(lambda: not any(c.is_busy for c in s.inside.door.connections))
        events = await the_books_agree(s, books)
        assert {event["outcome"] for event in events} <= {Outcome.CLIENT_GONE, Outcome.COMPLETED}
        if not leaves.is_gone:
            assert received.startswith(b"HTTP/1.1 101 " if kind == "ws" else b"HTTP/1.1 200 ")
            break
    else:
        pytest.fail("it waits at more places than were tried")
    leaves.is_off = True
    waited_in = {name for place in leaves.places for name, _ in place}
    assert {"serve", "authenticate", "connect"} <= waited_in
    assert ("through_cache" in waited_in) == ("cached" in lane)
    assert ("try_again" in waited_in) == LANES[lane].is_dead_first
    assert len(leaves.places) >= 5 - (
        kind == "whole"
    )  # the key, the verdict, the connection, the answer's head, its body
    pools = s.inside.gateway.snapshot.table.by_id[s.route_id].pools
    await until(lambda: sum(pool.outstanding for pool in set(pools._order)) == 0, within_s=2)  # none is lost
    assert (await ask(await s.client(), request("/api/x", s.key))).status == 200  # and all goes on


async def one_answer(client: Peer) -> bytes:
    try:
        return (await read_answer(client)).head
    except EOFError:
        return b""
