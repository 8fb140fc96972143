"""A key that is revoked or expires ends the WebSockets and answers that it began, and what had passed is settled."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway import standing as standing_module
from ledger.events import Outcome
from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.metering.test_frames import frame
from tests.gateway.test_app import plane
from tests.gateway.test_parts import ASKED, ECHO, Echo, dial
from tests.gateway.test_websocket import HANDSHAKE
from tests.gateway.wire import ask, ok, read_answer, read_request, request
from tests.support.gateway import PROJECT, Books, Catalogue, until
from tests.support.raw import Peer, Upstream, connect

REASON = b"the key is not valid any more"
CLOSED = b"\x88%c\x03\xf0%b" % (2 + len(REASON), REASON)


class Endless:
    """An upstream whose answer begins when it is told to, and never ends; `left` once the gateway has gone."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        if at_once:
            self.go_on.set()

    async def __call__(self, peer: Peer) -> None:
        await read_request(peer)
        await self.go_on.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await peer.read_to_end()
        self.left.set()


async def revoke(s: Stage, catalogue: Catalogue) -> float:
    """Revoke all keys; when that was."""
    await catalogue.pg.execute("UPDATE keys SET revoked_at = now()")
    return time.monotonic()


async def event(s: Stage, books: Books) -> dict[str, Any]:
    await s.inside.settled()
    assert await books.reservations() == []
    [only] = await books.events()
    return only


async def test_a_websocket_is_closed_with_its_key(stage: MakeStage, books: Books, catalogue: Catalogue) -> None:
    echo = Echo()
    s = await stage(echo)
    client = await dial(s)
    await client.send(ASKED * 3)
    await client.read_exactly(3 * len(ECHO))
    at = await revoke(s, catalogue)
    assert await client.read_to_end() == CLOSED
    assert time.monotonic() - at < 1.0
    await until(lambda: echo.got[3 * len(ASKED) :][:1] == b"\x88")  # the upstream is told as well
    ended = await event(s, books)
    assert (ended["outcome"], ended["status"]) == (Outcome.LIMIT_REACHED, 101)
    assert (ended["meters"]["messages_in"], ended["meters"]["messages_out"]) == (3, 3)
    assert s.inside.gateway.metrics.counts["cut_off_total"] == 1


async def test_a_long_answer_is_broken_off_with_its_key(stage: MakeStage, books: Books, catalogue: Catalogue) -> None:
    up = Endless()
    s = await stage(up, tier={"quotas": {"requests": 5}})
    client = await s.client()
    await client.send(request("/api/x", s.key))
    await client.read_until(b"abc\r\n")
    at = await revoke(s, catalogue)
    assert b"0\r\n\r\n" not in await client.read_to_end()
    assert time.monotonic() - at < 1.0
    await up.left.wait()
    ended = await event(s, books)
    assert (ended["outcome"], ended["meters"]["bytes_out"]) == (Outcome.LIMIT_REACHED, 3)
    assert await books.quotas() == {"requests": 1}


async def test_an_answer_that_has_not_begun_ends_when_it_does(
    stage: MakeStage, books: Books, catalogue: Catalogue
) -> None:
    up = Endless(at_once=False)
    s = await stage(up)
    client = await s.client()
    await client.send(request("/api/x", s.key))
    await until(lambda: s.upstream.received)
    await revoke(s, catalogue)
    await s.inside.caught_up(catalogue.pg)
    await until(lambda: s.inside.standing._ending)
    up.go_on.set()
    assert b"0\r\n\r\n" not in await client.read_to_end()
    assert (await event(s, books))["outcome"] == Outcome.LIMIT_REACHED


async def test_a_short_answer_that_was_asked_for_in_time_is_given(
    stage: MakeStage, books: Books, catalogue: Catalogue
) -> None:
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await go_on.wait()
        await peer.send(ok(b"hello"))

    s = await stage(slow)
    client = await s.client()
    await client.send(request("/api/x", s.key))
    await until(lambda: s.upstream.received)
    await revoke(s, catalogue)
    await until(lambda: s.inside.standing._ending)
    go_on.set()
    assert (await read_answer(client)).body == b"hello"
    assert (await event(s, books))["outcome"] == Outcome.COMPLETED
    await until(lambda: not s.inside.standing._ending)
    assert (await ask(client, request("/api/x", s.key))).status == 401


async def test_a_key_that_expires_ends_what_it_began(
    stage: MakeStage, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_module, "_EXPIRY_S", 0.05)
    s = await stage(Echo())
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    key = await catalogue.key("sk", expires_at=soon)
    lasting = await dial(s)
    client = await s.client()
    await client.send(request("/api/ws", key, *HANDSHAKE))
    assert (await read_answer(client)).status == 101
    assert await client.read_to_end() == CLOSED
    assert datetime.now(UTC) - soon < timedelta(seconds=1)
    await lasting.send(ASKED)
    assert await lasting.read_exactly(len(ECHO)) == ECHO  # whoever else is connected


async def test_a_frame_that_is_under_way_is_waited_for(stage: MakeStage, catalogue: Catalogue) -> None:
    large, go_on = frame(2, 3_000), asyncio.Event()

    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await peer.send(large[:1_000])
        await go_on.wait()
        await peer.send(large[1_000:])
        await peer.read_to_end()

    s = await stage(slow)
    client = await dial(s)
    await client.read_exactly(1_000)
    await revoke(s, catalogue)
    await until(lambda: s.inside.standing._ending)
    go_on.set()
    assert await client.read_to_end() == large[1_000:] + CLOSED


async def test_one_that_never_ends_its_frame_is_cut_off(
    stage: MakeStage, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_module, "_FRAME_S", 0.05)
    s = await stage(Echo(hello=frame(2, 3_000)[:1_000]))
    client = await dial(s)
    await client.read_exactly(1_000)
    await revoke(s, catalogue)
    assert await client.read_to_end() == b""


async def test_a_websocket_goes_with_its_route_and_other_answers_are_finished(
    stage: MakeStage, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_module, "_EXPIRY_S", 0.05)
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        if b"Upgrade" in await read_request(peer):
            await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            await peer.read_to_end()
        else:
            await peer.send(ok(b"whole")[:-1])
            await go_on.wait()
            await peer.send(b"e")

    s = await stage(script)
    socket, answer = await dial(s), await s.client()
    await answer.send(request("/api/x", s.key))
    await answer.read_until(b"whol")
    await catalogue.pg.execute("DELETE FROM routes")
    assert (await socket.read_to_end())[2:4] == b"\x03\xe9"  # 1001
    go_on.set()
    assert await answer.read_exactly(1) == b"e"


async def test_a_change_of_somebody_elses_ends_nobody(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(Echo())
    client = await dial(s)
    await catalogue.customer("somebody else")
    await catalogue.pg.execute("UPDATE tiers SET requests_per_minute = 7")  # of whom is connected, but not their end
    await s.inside.caught_up(catalogue.pg)
    await until(lambda: s.inside.standing._seen == s.inside.gateway.snapshot.generation)
    await client.send(ASKED)
    assert await client.read_exactly(len(ECHO)) == ECHO


async def test_who_cannot_be_looked_at_goes_on_until_they_can(
    stage: MakeStage, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = await stage(Echo())
    client = await dial(s)
    asked, load = [], s.inside.gateway.snapshot._load_principal

    async def away(key_hash: bytes) -> Any:
        asked.append(key_hash)
        raise OSError("away")

    monkeypatch.setattr(s.inside.gateway.snapshot, "_load_principal", away)
    await revoke(s, catalogue)
    await until(lambda: len(asked) >= 2)
    await client.send(ASKED)
    assert await client.read_exactly(len(ECHO)) == ECHO
    monkeypatch.setattr(s.inside.gateway.snapshot, "_load_principal", load)
    assert await client.read_to_end() == CLOSED


async def test_a_key_that_is_deleted_ends_what_it_began(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(Echo())
    client = await dial(s)
    await catalogue.pg.execute("DELETE FROM subscriptions")
    await catalogue.pg.execute("DELETE FROM keys WHERE project_id = $1", PROJECT)
    assert await client.read_to_end() == CLOSED


async def test_the_real_gateway_does_so_within_a_second(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    async with Upstream(Echo()) as upstream:
        await catalogue.tier("free", default=True)
        key = await catalogue.key("sk")
        await catalogue.route("api", "/api/*", [(upstream.host, upstream.port)])
        with plane(postgres_url, redis_url, workers=2) as running:
            async with await connect("127.0.0.1", running.port) as client:
                await client.send(request("/api/ws", key, *HANDSHAKE))
                assert (await read_answer(client)).status == 101
                await catalogue.pg.execute("UPDATE keys SET revoked_at = now()")
                at = time.monotonic()
                assert await client.read_to_end() == CLOSED
                assert time.monotonic() - at < 1.0
