"""Secrets of upstreams and routes: stored sealed, compared by opening, told to nobody."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from admin.changes import Unfit
from admin.credentials import Resealed, reseal
from admin.declare import export, show
from config.encryption import decode_keys, new_key
from ledger.vault import Vault
from tests.admin.declared import apply_text, audit, brief, revision

PG = asyncpg.Connection
SECRET, OTHER = "sk-first-secret", "sk-other-secret"
OLD, NEW = decode_keys(new_key()), decode_keys(new_key())
VAULT = Vault(OLD)


def declared(credential: str, of_route: str = "") -> str:
    return f"""
projects:
  - name: P
    upstreams:
      - {{name: u, targets: ["http://a"]{f", credential: {credential}" if credential else ""}}}
    routes:
      - {{name: r, path: /r/*, upstream: u{f", credential: {of_route}" if of_route else ""}}}
"""


def bearer(value: str | None) -> str:
    given = f", value: {value}" if value else ""
    return f"{{header: Authorization, prefix: 'Bearer '{given}}}"


async def secret_of(pg: PG, table: str = "upstreams") -> bytes | None:
    secret: bytes | None = await pg.fetchval(f"SELECT secret FROM {table}")
    return secret


async def everything(pg: PG) -> str:
    """All that the database says about control tables, as text."""
    rows: list[Any] = []
    for table in ("upstreams", "routes", "audit", "changes"):
        rows += await pg.fetch(f"SELECT * FROM {table}")
    return str(rows) + str(await audit(pg))


async def test_is_stored_sealed_and_found_nowhere_else(pg: PG) -> None:
    changes = await apply_text(pg, declared(bearer(SECRET), f"{{query: key, value: {OTHER}}}"), vault=VAULT)
    assert brief(changes)[1:] == ["created upstream u", "created route r"]
    for table, noun, value in (("upstreams", "u", SECRET), ("routes", "r", OTHER)):
        sealed = await secret_of(pg, table)
        assert sealed is not None
        object_id = await pg.fetchval(f"SELECT id FROM {table} WHERE name = $1", noun)
        assert VAULT.open(sealed, object_id) == value
    text = await everything(pg) + show(changes) + str(changes) + await export(pg)
    assert SECRET not in text
    assert OTHER not in text
    assert '"value": "(new)"' in show(await apply_text(pg, declared(bearer("sk-third")), vault=VAULT))


async def test_the_same_again_writes_nothing(pg: PG) -> None:
    await apply_text(pg, declared(bearer(SECRET)), vault=VAULT)
    before, sealed = await revision(pg), await secret_of(pg)
    assert await apply_text(pg, declared(bearer(SECRET)), vault=VAULT) == []
    assert await apply_text(pg, declared(bearer(None)), vault=VAULT) == []
    assert await apply_text(pg, declared(bearer(None))) == []  # what stays needs no key
    assert await apply_text(pg, await export(pg), vault=VAULT, prune=True) == []
    assert (await revision(pg), await secret_of(pg)) == (before, sealed)


async def test_another_value_is_a_change(pg: PG) -> None:
    await apply_text(pg, declared(bearer(SECRET)), vault=VAULT)
    before, sealed = await revision(pg), await secret_of(pg)
    [change] = await apply_text(pg, declared(bearer(OTHER)), vault=VAULT)
    assert change.fields["credential"][1]["value"] == "(new)"
    assert await revision(pg) > before
    assert await secret_of(pg) != sealed


async def test_another_place_for_the_same_value_needs_no_value(pg: PG) -> None:
    await apply_text(pg, declared(bearer(SECRET)), vault=VAULT)
    sealed = await secret_of(pg)
    assert brief(await apply_text(pg, declared("{header: X-Key}"))) == ["updated upstream u"]
    assert await secret_of(pg) == sealed


async def test_without_a_credential_nothing_is_kept(pg: PG) -> None:
    await apply_text(pg, declared(bearer(SECRET)), vault=VAULT)
    await apply_text(pg, declared(""), vault=VAULT)
    assert await secret_of(pg) is None


@pytest.mark.parametrize(
    ("credential", "vault", "message"),
    [
        (bearer(SECRET), None, "no encryption key is set"),
        (bearer(None), VAULT, "none is stored yet"),
        ("{query: k, value_from_env: HOME}", VAULT, "`tollgate apply` alone"),
    ],
)
async def test_what_cannot_be_kept_is_refused(pg: PG, credential: str, vault: Vault | None, message: str) -> None:
    with pytest.raises(Unfit, match=message) as refused:
        await apply_text(pg, declared(credential), vault=vault)
    assert refused.value.path[:5] == ("projects", 0, "upstreams", 0, "credential")
    assert SECRET not in str(refused.value)


async def test_rotation_seals_everything_anew(pg: PG) -> None:
    await apply_text(pg, declared(bearer(SECRET), f"{{basic: u, value: {OTHER}}}"), vault=VAULT)
    before = await revision(pg)
    assert await reseal(pg, Vault(NEW + OLD)) == Resealed(2, 0, ())
    assert await revision(pg) == before + 2  # gateways read them again
    assert await reseal(pg, Vault(NEW)) == Resealed(0, 2, ())
    route = await pg.fetchval("SELECT id FROM routes")
    assert await reseal(pg, Vault(decode_keys(new_key()))) == Resealed(
        0, 0, tuple(sorted([route, await pg.fetchval("SELECT id FROM upstreams")]))
    )
    assert await apply_text(pg, declared(bearer(SECRET), f"{{basic: u, value: {OTHER}}}"), vault=Vault(NEW)) == []


async def test_a_secret_that_cannot_be_opened_is_replaced_by_the_declared_one(pg: PG) -> None:
    await apply_text(pg, declared(bearer(SECRET)), vault=VAULT)
    assert brief(await apply_text(pg, declared(bearer(SECRET)), vault=Vault(NEW))) == ["updated upstream u"]
    assert await apply_text(pg, declared(bearer(SECRET)), vault=Vault(NEW)) == []
