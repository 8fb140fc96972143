"""Making and rotating keys, below HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from typing import Any

import asyncpg
import pytest

from admin.changes import Refused, Unfit
from admin.declare import apply
from admin.keys import CreatedKey, Key, create_key, get_key, list_keys, revoke_key, rotate_key
from admin.nouns import Scope
from ledger.keys import KeyKind, Mode, hash_key, is_well_formed
from ledger.specs import KeySpec
from tests.admin.declared import ACTOR, audit, revision, shop

PG = asyncpg.Connection


@pytest.fixture
async def project(pg: PG) -> str:
    """The id of project Shop."""
    (created, *_) = await apply(pg, shop(), actor=ACTOR)
    return created.object_id


def spec(**fields: Any) -> KeySpec:
    return KeySpec.model_validate({"name": "test", **fields})


async def known(pg: PG, created: CreatedKey) -> Key:
    key = await get_key(pg, created.id)
    assert key is not None
    return key


async def test_all_of_a_key_is_kept_but_its_text(pg: PG, project: str) -> None:
    moment = datetime.now(UTC) + timedelta(days=1)
    wanted = spec(
        kind="ck",
        mode="live",
        customer="ada",
        scopes=["a", "b"],
        requests_per_minute=7,
        allowed_origins=["*.example.com"],
        allowed_ips=["10.0.0.0/8"],
        expires_at=moment,
    )
    created = await create_key(pg, project, wanted, actor=ACTOR)
    assert is_well_formed(created.key.text.encode())
    key = await known(pg, created)
    assert (key.kind, key.mode, key.customer, key.scopes) == (KeyKind.CUSTOMER, Mode.LIVE, "ada", ("a", "b"))
    assert (key.requests_per_minute, key.allowed_origins) == (7, ("*.example.com",))
    assert (key.allowed_ips, key.expires_at) == ((IPv4Network("10.0.0.0/8"),), moment)
    row = await pg.fetchrow("SELECT hash, keys::text AS whole FROM keys")
    assert row is not None
    assert row["hash"] == hash_key(created.key.text.encode())
    assert created.key.text[12:] not in row["whole"]


async def test_the_text_is_shown_by_nothing(pg: PG, project: str) -> None:
    created = await create_key(pg, project, spec(), actor=ACTOR)
    assert created.key.text not in repr(created)
    (row,) = [row for row in await audit(pg) if row["noun"] == "key"]
    assert created.key.text[12:] not in str(row)
    assert created.key.hash.hex() not in str(row)
    assert (row["action"], row["actor"], row["before"], row["after"]["prefix"]) == (
        "created",
        ACTOR,
        None,
        created.key.prefix,
    )


async def test_a_customer_of_the_other_mode_is_none(pg: PG, project: str) -> None:
    with pytest.raises(Unfit, match="no live customer is called 'bob'"):
        await create_key(pg, project, spec(kind="ck", mode="live", customer="bob"), actor=ACTOR)
    assert await pg.fetchval("SELECT count(*) FROM keys") == 0


async def test_newest_first(pg: PG, project: str) -> None:
    made = [(await create_key(pg, project, spec(name=f"k{i}"), actor=ACTOR)).id for i in range(3)]
    await create_key(pg, project, spec(mode="live"), actor=ACTOR)
    found = await list_keys(pg, Scope(project, Mode.TEST), None, None)
    assert sorted((key.id for key in found), reverse=True) == [key.id for key in found]
    assert {key.id for key in found} == set(made)


async def test_a_scope_hides_the_rest(pg: PG, project: str) -> None:
    created = await create_key(pg, project, spec(), actor=ACTOR)
    assert await get_key(pg, created.id, Scope(project, Mode.TEST)) is not None
    assert await get_key(pg, created.id, Scope(project, Mode.LIVE)) is None
    assert await get_key(pg, created.id, Scope("prj_platform", Mode.TEST)) is None


async def test_revoking_is_told_once(pg: PG, project: str) -> None:
    key = await known(pg, await create_key(pg, project, spec(), actor=ACTOR))
    before = await revision(pg)
    first = await revoke_key(pg, key, actor=ACTOR)
    again = await revoke_key(pg, key, actor=ACTOR)
    assert first == again
    assert await revision(pg) == before + 1
    rows = [row for row in await audit(pg) if row["action"] == "revoked"]
    assert len(rows) == 1
    assert (rows[0]["before"]["revoked_at"], rows[0]["after"]["revoked_at"] is None) == (None, False)


async def test_a_successor_has_the_same_properties(pg: PG, project: str) -> None:
    fields = {"kind": "ck", "customer": "ada", "scopes": ["a"], "requests_per_minute": 7, "allowed_ips": ["::1"]}
    old = await known(pg, await create_key(pg, project, spec(**fields), actor=ACTOR))
    new = await known(pg, await rotate_key(pg, old, 60, actor=ACTOR))
    for name in ("project_id", "mode", "kind", "name", "customer", "scopes", "requests_per_minute", "allowed_ips"):
        assert getattr(new, name) == getattr(old, name)
    assert (new.expires_at, new.prefix == old.prefix) == (None, False)
    retired = await get_key(pg, old.id)
    assert retired is not None
    assert retired.rotated_to == new.id
    assert [row["action"] for row in await audit(pg) if row["noun"] == "key"] == ["created", "created", "rotated"]


async def test_a_grace_never_prolongs_a_life(pg: PG, project: str) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=30)
    old = await known(pg, await create_key(pg, project, spec(expires_at=moment), actor=ACTOR))
    new = await known(pg, await rotate_key(pg, old, 3600, actor=ACTOR))
    retired = await get_key(pg, old.id)
    assert retired is not None
    assert (retired.expires_at, new.expires_at) == (moment, moment)


async def test_what_is_not_rotated(pg: PG, project: str) -> None:
    revoked = await known(pg, await create_key(pg, project, spec(), actor=ACTOR))
    await revoke_key(pg, revoked, actor=ACTOR)
    expired = await known(pg, await create_key(pg, project, spec(), actor=ACTOR))
    await pg.execute("UPDATE keys SET expires_at = now() WHERE id = $1", expired.id)
    rotated = await known(pg, await create_key(pg, project, spec(), actor=ACTOR))
    await rotate_key(pg, rotated, 60, actor=ACTOR)
    for key, why in ((revoked, "is revoked"), (expired, "has expired"), (rotated, "was rotated before")):
        with pytest.raises(Refused, match=why):
            await rotate_key(pg, key, 60, actor=ACTOR)
    with pytest.raises(Unfit, match="expected 0 to 2592000 seconds"):
        await rotate_key(pg, rotated, 2592001, actor=ACTOR)


async def test_rotated_twice_at_once_has_one_successor(pg: PG, project: str, postgres_url: str) -> None:
    key = await known(pg, await create_key(pg, project, spec(), actor=ACTOR))
    other: PG = await asyncpg.connect(postgres_url)
    try:
        outcomes = await asyncio.gather(
            rotate_key(pg, key, 60, actor=ACTOR), rotate_key(other, key, 60, actor=ACTOR), return_exceptions=True
        )
    finally:
        await other.close()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["CreatedKey", "Refused"]
    assert await pg.fetchval("SELECT count(*) FROM keys") == 2
