"""Heads of known callers are kept for all connections: the same answers, the same books, and nothing outlives a change."""

from __future__ import annotations

from contextlib import suppress

import asyncpg

from tests.gateway.conftest import MakeStage, Stage
from tests.support.gateway import Books
from tests.support.raw import Peer

HEAD = b"GET /api/x HTTP/1.1\r\nHost: gate.test\r\nX-API-Key: %b\r\nX-Request: %b\r\n\r\n"


async def echo_paths(peer: Peer) -> None:
    """Answer each request with its request line, until the gateway hangs up."""
    with suppress(EOFError):
        while True:
            line = (await peer.read_until(b"\r\n\r\n")).partition(b"\r\n")[0]
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line))


async def get(here: Stage, head: bytes) -> tuple[bytes, bytes]:
    """Status line and body of the answer on a new connection."""
    client = await here.client()
    await client.send(head)
    answer = await client.read_until(b"\r\n\r\n")
    size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return answer.partition(b"\r\n")[0], await client.read_exactly(size)


async def test_the_second_connection_finds_what_the_first_one_learned(stage: MakeStage, books: Books) -> None:
    here = await stage(echo_paths)
    head = HEAD % (here.key.encode(), b"1")
    first, second = await get(here, head), await get(here, head)
    assert first == second == (b"HTTP/1.1 200 OK", b"GET /x HTTP/1.1")
    (known,) = here.inside.door.heads.values()
    assert known.line.path == b"/api/x"
    await here.inside.settled()
    events = await books.events()
    assert len({event["id"] for event in events}) == 2
    assert len({event["customer"] for event in events}) == 1


async def test_who_is_not_let_in_is_not_kept(stage: MakeStage) -> None:
    here = await stage(echo_paths)
    status, _ = await get(here, HEAD % (b"ck_live_" + b"0" * 38, b"1"))
    assert status == b"HTTP/1.1 401 Unauthorized"
    assert here.inside.door.heads == {}


async def test_strangers_are_kept_apart_and_refused_at_sight(stage: MakeStage) -> None:
    here = await stage(echo_paths)
    head = HEAD % (b"ck_live_" + b"0" * 38, b"1")
    first = await get(here, head)
    (stranger,) = here.inside.door.strangers.values()
    read_once = stranger.fields
    assert await get(here, head) != first  # the same refusal with another request id
    (again,) = here.inside.door.strangers.values()
    assert again is stranger
    assert again.fields is read_once
    for n in range(4_200):
        here.inside.door.strangers[b"%d" % n] = stranger
    assert (await get(here, HEAD % (b"ck_live_" + b"1" * 38, b"1")))[0] == b"HTTP/1.1 401 Unauthorized"
    assert len(here.inside.door.strangers) < 4_096


async def test_a_stranger_whose_key_becomes_valid_is_let_in(stage: MakeStage, pg: asyncpg.Connection) -> None:
    here = await stage(echo_paths)
    head = HEAD % (here.key.encode(), b"1")
    await pg.execute("UPDATE keys SET revoked_at = now()")
    await here.inside.caught_up(pg)
    assert (await get(here, head))[0] == b"HTTP/1.1 401 Unauthorized"
    assert len(here.inside.door.strangers) == 1
    await pg.execute("UPDATE keys SET revoked_at = NULL")
    await here.inside.caught_up(pg)
    assert (await get(here, head))[0] == b"HTTP/1.1 200 OK"


async def test_a_revoked_key_is_refused_although_its_head_is_known(stage: MakeStage, pg: asyncpg.Connection) -> None:
    here = await stage(echo_paths)
    head = HEAD % (here.key.encode(), b"1")
    assert (await get(here, head))[0] == b"HTTP/1.1 200 OK"
    await pg.execute("UPDATE keys SET revoked_at = now()")
    await here.inside.caught_up(pg)
    assert (await get(here, head))[0] == b"HTTP/1.1 401 Unauthorized"


async def test_a_head_from_another_address_is_another_caller(stage: MakeStage, pg: asyncpg.Connection) -> None:
    here = await stage(echo_paths)
    head = HEAD % (here.key.encode(), b"1")
    assert (await get(here, head))[0] == b"HTTP/1.1 200 OK"
    (known,) = here.inside.door.heads.values()
    assert known.caller is not None
    known.caller.peer_ip = "192.0.2.7"
    assert (await get(here, head))[0] == b"HTTP/1.1 200 OK"
    (again,) = here.inside.door.heads.values()
    assert again.caller is not None
    assert again.caller.peer_ip == "127.0.0.1"
    assert again.caller is not known.caller


async def test_there_are_never_more_than_the_bound(stage: MakeStage) -> None:
    here = await stage(echo_paths, max_known_heads=3)
    for n in range(8):
        assert (await get(here, HEAD % (here.key.encode(), b"%d" % n)))[0] == b"HTTP/1.1 200 OK"
        assert len(here.inside.door.heads) <= 3


async def test_a_body_after_a_known_head_is_read_like_any_other(stage: MakeStage) -> None:
    bodies: list[bytes] = []

    async def reads_bodies(peer: Peer) -> None:
        with suppress(EOFError):
            while True:
                await peer.read_until(b"\r\n\r\n")
                bodies.append(await peer.read_exactly(3))
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    here = await stage(reads_bodies)
    head = b"POST /api/x HTTP/1.1\r\nHost: a\r\nX-API-Key: %b\r\nContent-Length: 3\r\n\r\n" % here.key.encode()
    for body in (b"one", b"two"):
        assert await get(here, head + body) == (b"HTTP/1.1 200 OK", b"ok")
    client = await here.client()
    await client.send(head)
    await client.send(b"thr")
    await client.read_until(b"ok")
    assert bodies == [b"one", b"two", b"thr"]
