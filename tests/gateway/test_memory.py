"""What is remembered of requests for all connections: the same answers, the same books, and nothing outlives a change."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg

from ledger import ids
from ledger.keys import KeyKind, Mode, generate
from tests.gateway.conftest import MakeStage, Stage
from tests.support.gateway import PROJECT, Books, Catalogue
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
    memory = here.inside.door.memory
    (block,) = memory.blocks.values()
    assert memory.heads == {}
    assert here.key.encode() not in repr([block.fields.items, block.fields.index, block.fields.raw]).encode()
    await here.inside.settled()
    events = await books.events()
    assert len({event["id"] for event in events}) == 2
    assert len({event["customer"] for event in events}) == 1


async def tell_user(peer: Peer) -> None:
    """Answer each request with the X-User-Id it came with; a key that got through is an error."""
    with suppress(EOFError):
        while True:
            head = await peer.read_until(b"\r\n\r\n")
            user = head.partition(b"X-User-Id: ")[2].partition(b"\r\n")[0] if b"X-User-Id: " in head else b"nobody"
            if b"k_live_" in head:
                user = b"a key: " + head
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user))


async def ask(client: Peer, head: bytes) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection."""
    await client.send(head)
    return await answer(client)


async def answer(client: Peer) -> tuple[int, bytes]:
    head = await client.read_until(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await client.read_exactly(size)


async def test_the_same_fields_with_another_key_are_another_caller(
    stage: MakeStage, catalogue: Catalogue, books: Books
) -> None:
    """Alternating and pipelined on one connection, then on another: each request is its own key's."""
    here = await stage(tell_user)
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    project = await catalogue.key("sk")
    keys = {here.key: b"ada", bob: b"bob", project: b"nobody"}
    client = await here.client()
    for _ in range(3):
        for key, user in keys.items():
            assert await ask(client, HEAD % (key.encode(), b"1")) == (200, user)
    assert len(here.inside.door.memory.blocks) == 1
    await client.send(b"".join(HEAD % (key.encode(), b"1") for key in keys))
    assert [await answer(client) for _ in keys] == [(200, user) for user in keys.values()]
    other = await here.client()
    for key, user in reversed(keys.items()):
        assert await ask(other, HEAD % (key.encode(), b"1")) == (200, user)
    await here.inside.settled()
    events = await books.events()
    assert Counter(event["customer"] for event in events if event["customer"]) == {
        ids.customer_id_for(PROJECT, "live", "ada"): 5,
        ids.customer_id_for(PROJECT, "live", "bob"): 5,
    }


async def test_what_a_key_may_not_do_is_found_out_for_each(stage: MakeStage, catalogue: Catalogue) -> None:
    here = await stage(tell_user)
    inside_only = await catalogue.key("sk", allowed_origins=["app.example.com"])
    reads_only = await catalogue.key("pk")
    over = await catalogue.key("sk", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    nobody = generate(KeyKind.SECRET, Mode.LIVE).text
    client = await here.client()
    head = b"POST /api/x HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.test\r\nX-API-Key: %b\r\nContent-Length: 0\r\n\r\n"
    for _ in range(2):
        assert (await ask(client, head % here.key.encode()))[0] == 200
        for key, status in ((inside_only, 403), (reads_only, 403), (over, 401), (nobody, 401)):
            assert (await ask(client, head % key.encode()))[0] == status, key
    assert len(here.inside.door.memory.blocks) == 1


async def test_a_secret_key_names_its_user_although_a_customers_key_may_not(
    stage: MakeStage, catalogue: Catalogue
) -> None:
    here = await stage(tell_user)
    project = await catalogue.key("sk")
    client = await here.client()
    head = b"GET /api/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nX-User-Id: eve\r\n\r\n"
    for _ in range(2):
        assert await ask(client, head % here.key.encode()) == (200, b"ada")
        assert await ask(client, head % project.encode()) == (200, b"eve")


async def test_the_gateways_own_endpoints_read_the_key_too(stage: MakeStage, catalogue: Catalogue) -> None:
    here = await stage(tell_user, tier={"quotas": {"requests": 10}})
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    client = await here.client()
    for key, used in ((here.key, 1), (bob, 1), (here.key, 2)):
        head = HEAD % (key.encode(), b"1")
        assert (await ask(client, head))[0] == 200
        status, body = await ask(client, head.replace(b"/api/x", b"/api/usage"))
        assert (status, json.loads(body)["usage"]["count"]) == (200, used)


async def test_a_key_elsewhere_is_no_credential(stage: MakeStage, catalogue: Catalogue) -> None:
    """Something like a key in front of the credential, or a second credential."""
    here = await stage(tell_user, route={"key_header": "X-Mine"})
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    client = await here.client()
    before = b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Note: %b\r\nX-API-Key: %b\r\n\r\n"
    twice = b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Mine: %b\r\nX-API-Key: %b\r\n\r\n"
    ada = here.key.encode()
    for _ in range(2):
        assert (await ask(client, before % (bob.encode(), ada)))[1].startswith(b"a key: ")  # the note's own
        assert (await ask(client, before % (ada, b"none")))[0] == 401
        assert (await ask(client, twice % (ada, bob.encode())))[0] == 401
        assert await ask(client, b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Mine: %b\r\n\r\n" % ada) == (200, b"ada")


async def test_a_note_that_repeats_the_key_does_not_make_the_note_a_credential(
    stage: MakeStage, catalogue: Catalogue, books: Books
) -> None:
    """Who sends the key in two fields is one caller; the same with another key in the note is the same caller."""
    here = await stage(tell_user)
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    client = await here.client()
    head = b"GET /api/x HTTP/1.1\r\nHost: a\r\nX-Note: %b\r\nX-API-Key: %b\r\n\r\n"
    ada = here.key.encode()
    assert await ask(client, HEAD % (bob.encode(), b"1")) == (200, b"bob")
    for note in (ada, bob.encode(), ada, bob.encode()):
        status, told = await ask(client, head % (note, ada))
        assert (status, b"X-Note: " + note in told, b"X-User-Id: ada" in told) == (200, True, True)
    await here.inside.settled()
    counted = Counter(event["customer"] for event in await books.events())
    assert counted[ids.customer_id_for(PROJECT, "live", "ada")] == 4


async def test_a_second_key_in_the_query_is_seen_although_the_fields_are_known(
    stage: MakeStage, catalogue: Catalogue
) -> None:
    here = await stage(tell_user, route={"key_query": "k"})
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    head = b"GET /api/x%b HTTP/1.1\r\nHost: a\r\nX-API-Key: %b\r\n\r\n"
    ada, second = here.key.encode(), b"?k=" + bob.encode()
    for _ in range(2):
        client = await here.client()
        assert await ask(client, head % (b"", ada)) == (200, b"ada")
        assert await ask(client, head % (b"?page=2", ada)) == (200, b"ada")
    assert (await ask(client, head % (second, ada)))[0] == 401


async def test_any_order_of_requests_on_any_connection(stage: MakeStage, catalogue: Catalogue) -> None:
    """What is remembered never shows: 400 requests in random order, each answered as if it were the first."""
    here = await stage(tell_user, route={"methods": ["GET", "POST"]})
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    project = await catalogue.key("sk")
    users = {here.key: b"ada", bob: b"bob", project: b"nobody", generate(KeyKind.CUSTOMER, Mode.LIVE).text: None}
    ways = [b"X-API-Key: %b\r\n", b"Authorization: Bearer %b\r\n", b"authorization: bearer %b\r\nX-User-Id: eve\r\n"]
    clients = [await here.client() for _ in range(3)]
    chance = random.Random(20)
    for _ in range(400):
        key, user = chance.choice(list(users.items()))
        way, method = chance.choice(ways), chance.choice([b"GET", b"POST"])
        path = b"/api/%d" % chance.randrange(3)
        head = b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, path, way % key.encode())
        if user == b"nobody" and b"eve" in way:
            user = b"eve"
        status, body = await ask(chance.choice(clients), head)
        assert (status, body if user else None) == (200 if user else 401, user), head


async def test_who_is_not_let_in_is_not_kept(stage: MakeStage) -> None:
    here = await stage(echo_paths)
    status, _ = await get(here, HEAD % (b"ck_live_" + b"0" * 38, b"1"))
    assert status == b"HTTP/1.1 401 Unauthorized"
    assert here.inside.door.memory.heads == {}
    assert here.inside.door.memory.blocks == {}


async def test_strangers_are_kept_apart_and_refused_at_sight(stage: MakeStage) -> None:
    here = await stage(echo_paths)
    head = HEAD % (b"ck_live_" + b"0" * 38, b"1")
    first = await get(here, head)
    (stranger,) = here.inside.door.memory.strangers.values()
    read_once = stranger.fields
    assert await get(here, head) != first  # the same refusal with another request id
    (again,) = here.inside.door.memory.strangers.values()
    assert again is stranger
    assert again.fields is read_once
    for n in range(4_200):
        here.inside.door.memory.strangers[b"%d" % n] = stranger
    assert (await get(here, HEAD % (b"ck_live_" + b"1" * 38, b"1")))[0] == b"HTTP/1.1 401 Unauthorized"
    assert len(here.inside.door.memory.strangers) < 4_096


async def test_a_stranger_whose_key_becomes_valid_is_let_in(stage: MakeStage, pg: asyncpg.Connection) -> None:
    here = await stage(echo_paths)
    head = HEAD % (here.key.encode(), b"1")
    await pg.execute("UPDATE keys SET revoked_at = now()")
    await here.inside.caught_up(pg)
    assert (await get(here, head))[0] == b"HTTP/1.1 401 Unauthorized"
    assert len(here.inside.door.memory.strangers) == 1
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


async def test_a_head_from_another_address_is_another_caller(stage: MakeStage, catalogue: Catalogue) -> None:
    """A shared block belongs to an address; a known head is checked against it."""
    here = await stage(echo_paths)
    near = await catalogue.key("sk", allowed_ips=["127.0.0.0/8"])
    memory = here.inside.door.memory
    assert (await get(here, HEAD % (near.encode(), b"1")))[0] == b"HTTP/1.1 200 OK"
    (key,) = memory.blocks
    assert key.startswith(b"127.0.0.1 ")
    user = HEAD % (near.encode(), b"1\r\nX-User-Id: eve")
    assert (await get(here, user))[0] == b"HTTP/1.1 200 OK"
    (known,) = memory.heads.values()
    assert known.caller is not None
    known.caller.peer_ip = "192.0.2.7"
    assert (await get(here, user))[0] == b"HTTP/1.1 200 OK"
    (again,) = memory.heads.values()
    assert again.caller is not None
    assert again.caller.peer_ip == "127.0.0.1"
    assert again.caller is not known.caller


async def test_there_are_never_more_than_the_bound(stage: MakeStage) -> None:
    here = await stage(echo_paths, max_known_heads=3)
    for n in range(8):
        assert (await get(here, HEAD % (here.key.encode(), b"%d" % n)))[0] == b"HTTP/1.1 200 OK"
        assert len(here.inside.door.memory.blocks) <= 3


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
