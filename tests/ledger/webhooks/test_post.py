"""Deliveries to a real server: signed, in order, again after a failure, given up after three days, never inside."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from ledger.ids import PLATFORM_PROJECT_ID, new_id
from ledger.vault import Vault
from ledger.webhooks.emit import emit
from ledger.webhooks.post import Post, forget_old, pause_s
from ledger.webhooks.public import PublicOnly
from ledger.webhooks.sign import new_secret, signature

VAULT = Vault([os.urandom(32)])


@dataclass
class Receiver:
    """Takes what is sent; answers with the statuses it is given, then 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.text())
        self.fields.append({name.lower(): value for name, value in request.headers.items()})
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"Location": self.url} if 300 <= status < 400 else {})

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for body in self.bodies]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/hook", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield found
    await runner.cleanup()


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post(VAULT, allow_private=True)
    yield made
    await made.close()


async def endpoint(pg: asyncpg.Connection, url: str, *events: str) -> tuple[str, str]:
    """An endpoint of the platform's test half; its id and secret."""
    endpoint_id, secret = new_id("endpoint"), new_secret()
    await pg.execute(
        "INSERT INTO webhook_endpoints (id, project_id, mode, url, events, secret) VALUES ($1, $2, 'test', $3, $4, $5)",
        *(endpoint_id, PLATFORM_PROJECT_ID, url, list(events), VAULT.seal(secret, endpoint_id)),
    )
    return endpoint_id, secret


async def tell(pg: asyncpg.Connection, type_: str = "key.created", mode: str = "test") -> None:
    await emit(pg, PLATFORM_PROJECT_ID, mode, type_, {"id": "key_1"})


async def now_due(pg: asyncpg.Connection) -> None:
    await pg.execute("UPDATE webhook_deliveries SET available_at = now()")


async def test_an_event_is_delivered_signed(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    _, secret = await endpoint(pg, receiver.url)
    await tell(pg)
    assert await post.deliver_due(pg) == 1
    assert await post.deliver_due(pg) == 0
    (body,), (fields,) = receiver.bodies, receiver.fields
    assert json.loads(body)["data"] == {"id": "key_1"}
    message_id, at = fields["webhook-id"], int(fields["webhook-timestamp"])
    assert fields["webhook-signature"] == signature(secret, message_id, at, body)


async def test_only_who_listens_is_told(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    await endpoint(pg, receiver.url, "key.revoked", "tier.deleted")
    for type_ in ("key.created", "key.revoked", "tier.created"):
        await tell(pg, type_)
    await tell(pg, "key.revoked", "live")
    while await post.deliver_due(pg):
        pass
    assert receiver.types == ["key.revoked"]
    assert await pg.fetchval("SELECT count(*) FROM webhook_messages") == 1


async def test_order_holds_while_the_first_one_fails(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    await endpoint(pg, receiver.url)
    receiver.statuses = [500, 302, 404]
    for type_ in ("key.created", "key.rotated", "key.revoked"):
        await tell(pg, type_)
    for _ in range(3):
        assert await post.deliver_due(pg) == 1
        assert await post.deliver_due(pg) == 0  # not yet, and nothing may overtake it
        await now_due(pg)
    while await post.deliver_due(pg):
        pass
    assert receiver.types == ["key.created"] * 4 + ["key.rotated", "key.revoked"]
    assert len({fields["webhook-id"] for fields in receiver.fields[:4]}) == 1


async def test_one_that_fails_does_not_hold_up_another(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    await endpoint(pg, "http://127.0.0.1:1/nobody")
    await endpoint(pg, receiver.url)
    await tell(pg)
    await tell(pg, "key.revoked")
    while await post.deliver_due(pg):
        pass
    assert receiver.types == ["key.created", "key.revoked"]
    row = await pg.fetchrow(
        "SELECT state, last_error FROM webhook_deliveries WHERE state = 'pending' ORDER BY id LIMIT 1"
    )
    assert row["last_error"].startswith("no answer")


async def test_after_three_days_it_is_given_up_and_the_next_goes(
    pg: asyncpg.Connection, post: Post, receiver: Receiver
) -> None:
    await endpoint(pg, receiver.url)
    receiver.statuses = [500]
    await tell(pg, "key.created")
    await tell(pg, "key.revoked")
    await pg.execute(
        "UPDATE webhook_deliveries SET created_at = now() - interval '3 days 1 s'"
        " WHERE id = (SELECT min(id) FROM webhook_deliveries)"
    )
    while await post.deliver_due(pg):
        pass
    assert receiver.types == ["key.created", "key.revoked"]
    states = await pg.fetch("SELECT state FROM webhook_deliveries ORDER BY id")
    assert [row["state"] for row in states] == ["given_up", "delivered"]


async def test_gone_turns_an_endpoint_off(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    endpoint_id, _ = await endpoint(pg, receiver.url)
    receiver.statuses = [410]
    await tell(pg)
    await post.deliver_due(pg)
    assert await pg.fetchval("SELECT is_enabled FROM webhook_endpoints WHERE id = $1", endpoint_id) is False


async def test_during_a_rotation_both_secrets_sign(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    endpoint_id, old = await endpoint(pg, receiver.url)
    new = new_secret()
    await pg.execute(
        "UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + interval '1 day', secret = $1",
        VAULT.seal(new, endpoint_id),
    )
    await tell(pg)
    await post.deliver_due(pg)
    (body,), (fields,) = receiver.bodies, receiver.fields
    at = int(fields["webhook-timestamp"])
    expected = [signature(secret, fields["webhook-id"], at, body) for secret in (new, old)]
    assert fields["webhook-signature"].split(" ") == expected


async def test_nothing_inside_is_called(pg: asyncpg.Connection, receiver: Receiver) -> None:
    strict = Post(VAULT)
    try:
        await endpoint(pg, receiver.url)
        await endpoint(pg, receiver.url.replace("http://127.0.0.1", "https://localhost"))
        await tell(pg)
        while await strict.deliver_due(pg):
            pass
    finally:
        await strict.close()
    assert receiver.bodies == []
    errors = await pg.fetch("SELECT last_error FROM webhook_deliveries")
    assert {row["last_error"] for row in errors} == {"the address is not allowed"}


async def test_a_name_that_changes_its_mind_reaches_nothing_inside(
    pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is looked at, inside a moment later. What was looked at is what is dialled."""
    answers = [["93.184.216.34"], ["127.0.0.1"], ["10.0.0.1", "93.184.216.34"], ["::ffff:127.0.0.1"], ["::1"]]
    dialled: list[str] = []

    class Fickle(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                ResolveResult(hostname=host, host=one, port=port, family=family, proto=0, flags=0)
                for one in answers.pop(0)
            ]

        async def close(self) -> None: ...

    async def dial(addr_infos: list[Any], **_: Any) -> None:
        dialled.extend(info[4][0] for info in addr_infos)
        raise OSError("not in this test")

    monkeypatch.setattr("ledger.webhooks.post.PublicOnly", lambda: PublicOnly(Fickle()))
    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", dial)
    strict = Post(VAULT)
    try:
        await endpoint(pg, "https://fickle.example/hook")
        await tell(pg)
        while answers:
            assert await strict.deliver_due(pg) == 1
            await now_due(pg)
    finally:
        await strict.close()
    assert dialled == ["93.184.216.34", "93.184.216.34"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_nowhere(pg: asyncpg.Connection, post: Post, receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    await endpoint(pg, receiver.url)
    await tell(pg)
    await post.deliver_due(pg)
    assert len(receiver.bodies) == 1
    assert await pg.fetchval("SELECT last_error FROM webhook_deliveries") == f"answered {status}"


SPELT = ["0177.0.0.1", "017700000001", "0x7f000001", "0x7f.1", "127.0x0.1", "127.1", "2130706433", "0", "0.0.0.0"]
SPELT += ["[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "127.0.0.1.", "localhost."]


@pytest.mark.parametrize("host", SPELT)
async def test_no_spelling_of_this_machine_is_called(pg: asyncpg.Connection, receiver: Receiver, host: str) -> None:
    """As the system's own resolver reads them: decimal, octal, hexadecimal, short, mapped."""
    port = receiver.url.rpartition(":")[2].partition("/")[0]
    strict = Post(VAULT)
    try:
        await endpoint(pg, f"https://{host}:{port}/hook")
        await tell(pg)
        assert await strict.deliver_due(pg) == 1
    finally:
        await strict.close()
    error = await pg.fetchval("SELECT last_error FROM webhook_deliveries")
    assert error == "the address is not allowed" or error.endswith("leads to no public address"), error


async def test_what_is_done_is_forgotten_after_a_month(pg: asyncpg.Connection, post: Post, receiver: Receiver) -> None:
    await endpoint(pg, receiver.url)
    await tell(pg)
    await post.deliver_due(pg)
    receiver.statuses = [500]
    await tell(pg)
    await post.deliver_due(pg)
    await pg.execute("UPDATE webhook_messages SET created_at = now() - interval '31 days'")
    await forget_old(pg)
    assert [row["state"] for row in await pg.fetch("SELECT state FROM webhook_deliveries")] == ["pending"]


def test_pauses_grow_and_fill_three_days() -> None:
    pauses = [pause_s(n) for n in range(1, 20)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 5
    assert sum(pauses[:13]) >= 3 * 86_400
