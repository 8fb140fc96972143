"""The upstream's credential: put into every request, never the client's to see or to choose."""

from __future__ import annotations

import logging
from base64 import b64encode
from typing import Any

import asyncpg
import pytest

from config.encryption import decode_keys, new_key
from ledger.vault import Vault
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import answering, ask, ok, read_answer, request
from tests.support.gateway import ENCRYPTION_KEY, until

HELLO = answering(ok(b"hello"))
SECRET = "sk-upstream/0123 =&?"
BASIC = b64encode(f"user:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("credential", "sent"),
    [
        ({"header": "Authorization", "prefix": "Bearer "}, f"\r\nAuthorization: Bearer {SECRET}\r\n"),
        ({"header": "X-Api-Key"}, f"\r\nX-Api-Key: {SECRET}\r\n"),
        ({"basic": "user"}, f"\r\nAuthorization: Basic {BASIC}\r\n"),
        ({"query": "api_key"}, "GET /x?a=1&api_key=sk-upstream%2F0123%20%3D%26%3F HTTP/1.1\r\n"),
    ],
)
@pytest.mark.parametrize("of", ["credential", "upstream_credential"])
async def test_the_upstream_gets_it_and_the_client_does_not(
    stage: MakeStage, caplog: pytest.LogCaptureFixture, credential: dict[str, str], sent: str, of: str
) -> None:
    caplog.set_level(logging.DEBUG)
    s = await stage(HELLO, route={of: {**credential, "value": SECRET}})
    client = await s.client()
    for _ in range(2):  # as a new caller, and as one that is remembered
        answer = await ask(client, request("/api/x?a=1", s.key))
        assert answer.status == 200
        assert SECRET.encode() not in answer.head
    assert s.upstream.received[0].count(sent.encode()) == 2
    assert s.key.encode() not in s.upstream.received[0]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("theirs", ["X-Up-Key: theirs", "x-up-KEY: theirs", "X_Up_Key: theirs", "x_up-key: theirs"])
async def test_a_clients_own_field_of_that_name_does_not_pass(stage: MakeStage, theirs: str) -> None:
    s = await stage(HELLO, route={"credential": {"header": "X-Up-Key", "value": SECRET}})
    assert (await ask(await s.client(), request("/api/x", s.key, theirs))).status == 200
    assert b"theirs" not in s.upstream.received[0]
    assert f"\r\nX-Up-Key: {SECRET}\r\n".encode() in s.upstream.received[0]


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/api/x", b"/x?key=secret"),
        ("/api/x?", b"/x?key=secret"),
        ("/api/x?key=theirs&a=1&key", b"/x?a=1&key=secret"),
        ("/api/x?k%65y=theirs&%6Bey=", b"/x?key=secret"),
        ("/api/x?keys=1&ke+y=2", b"/x?keys=1&ke+y=2&key=secret"),
    ],
)
async def test_a_parameter_of_the_same_name_is_not_the_clients_to_send(
    stage: MakeStage, target: str, sent: bytes
) -> None:
    s = await stage(HELLO, route={"upstream_credential": {"query": "key", "value": "secret"}})
    assert (await ask(await s.client(), request(target, s.key))).status == 200
    assert s.upstream.received[0].split(b" ")[1] == sent


async def test_a_routes_own_goes_in_place_of_its_upstreams(stage: MakeStage) -> None:
    own = {"header": "X-Own", "value": "own"}
    s = await stage(HELLO, route={"credential": own, "upstream_credential": {"header": "X-Up", "value": "up"}})
    assert (await ask(await s.client(), request(key=s.key))).status == 200
    assert b"\r\nX-Own: own\r\n" in s.upstream.received[0]
    assert b"X-Up" not in s.upstream.received[0]


@pytest.mark.parametrize("is_late", [False, True])
async def test_nor_does_one_in_the_trailers(stage: MakeStage, is_late: bool) -> None:
    s = await stage(HELLO, route={"credential": {"header": "X-Up-Key", "value": SECRET}})
    client = await s.client()
    head = request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n"
    rest = b"0\r\nX-Up-Key: theirs\r\nx_up_key: theirs\r\nX-Tollgate-Secret: theirs\r\nX-Sum: kept\r\n\r\n"
    await client.send(head if is_late else head + rest)
    if is_late:
        await until(lambda: s.upstream.received and s.upstream.received[0].endswith(b"a\r\n"))
        await client.send(rest)
    assert (await read_answer(client)).status == 200
    assert s.upstream.received[0].endswith(b"0\r\nX-Sum: kept\r\n\r\n")


async def test_a_client_cannot_name_it_away(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"credential": {"header": "X-Own", "value": "own"}})
    assert (await ask(await s.client(), request("/api/x", s.key, "Connection: X-Own", "X-Own: theirs"))).status == 200
    assert b"\r\nX-Own: own\r\n" in s.upstream.received[0]
    assert b"theirs" not in s.upstream.received[0]


@pytest.mark.parametrize("keys", [None, new_key()], ids=["none", "another"])
async def test_without_its_key_nothing_is_forwarded(stage: MakeStage, keys: Any) -> None:
    s = await stage(HELLO, route={"credential": {"query": "k", "value": "v"}, "auth": "none"}, encryption_keys=keys)
    answer = await ask(await s.client(), request(key=s.key))
    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "credential_unavailable", "1")
    assert s.upstream.received == []


async def test_a_new_secret_is_used_from_then_on_and_rotation_changes_nothing(
    stage: MakeStage, pg: asyncpg.Connection
) -> None:
    fresh = new_key()
    s = await stage(
        HELLO,
        route={"credential": {"header": "X-Own", "value": "first"}},
        encryption_keys=f"{fresh},{ENCRYPTION_KEY}",
    )
    client = await s.client()
    assert (await ask(client, request(key=s.key))).status == 200
    sealed = Vault(decode_keys(fresh)).seal("second", s.route_id)
    await pg.execute("UPDATE routes SET secret = $1", sealed)
    await s.inside.caught_up(pg)
    await until(lambda: s.inside.gateway.snapshot.table.by_id[s.route_id].sealed[0] == sealed)
    assert (await ask(client, request(key=s.key))).status == 200
    own = [line for line in s.upstream.received[0].split(b"\r\n") if line.startswith(b"X-Own")]
    assert own == [b"X-Own: first", b"X-Own: second"]


async def test_a_secret_moved_to_another_row_does_not_open(stage: MakeStage, pg: asyncpg.Connection) -> None:
    s = await stage(HELLO, route={"credential": {"header": "X-Own", "value": "v"}})
    await pg.execute("UPDATE upstreams SET secret = (SELECT secret FROM routes)")
    await pg.execute("""UPDATE upstreams SET spec = spec || '{"credential": {"header": "X-Own"}}'""")
    await pg.execute("UPDATE routes SET spec = spec - 'credential', secret = NULL")
    await s.inside.caught_up(pg)
    assert (await ask(await s.client(), request(key=s.key))).status == 503
