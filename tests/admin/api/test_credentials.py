"""Credentials of upstreams over HTTP: taken, kept, never given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from admin.app import Running, running
from config.encryption import decode_keys, new_key
from config.settings import AdminSettings, Settings
from ledger.vault import Vault
from tests.admin.api.conftest import World

SECRET = "sk-sent-over-http"
KEYS = new_key()
UPSTREAM: dict[str, Any] = {
    "name": "other",
    "targets": ["https://api.example.com"],
    "credential": {"header": "Authorization", "prefix": "Bearer ", "value": SECRET},
}


@pytest.fixture
async def control_plane(postgres_url: str) -> AsyncIterator[Running]:
    """One that has an encryption key."""
    admin = AdminSettings(port=0, metrics_port=0)
    settings = Settings(postgres_url=SecretStr(postgres_url), admin=admin, encryption_keys=SecretStr(KEYS))
    async with running(settings) as where:
        yield where


async def test_is_taken_and_never_given_back(world: World) -> None:
    made = await world.test.post("/api/v1/upstreams", UPSTREAM)
    assert made.status == 201
    assert made.json["credential"] == {"header": "Authorization", "prefix": "Bearer ", "query": None, "basic": None}
    path = f"/api/v1/upstreams/{made.json['id']}"
    answers = [made, await world.test.get(path), await world.test.get("/api/v1/upstreams")]
    answers += [await world.test.get("/api/v1/export"), await world.test.patch(path, {"connect_timeout_ms": 9})]
    assert all(SECRET not in answer.text for answer in answers)
    sealed = await world.pg.fetchval("SELECT secret FROM upstreams WHERE id = $1", made.json["id"])
    assert Vault(decode_keys(KEYS)).open(sealed, made.json["id"]) == SECRET  # the last change left it alone


async def test_a_change_of_the_value_alone(world: World) -> None:
    made = await world.test.post("/api/v1/upstreams", UPSTREAM)
    path = f"/api/v1/upstreams/{made.json['id']}"
    changed = await world.test.patch(path, {"credential": {"query": "key", "value": "sk-another"}})
    assert (changed.status, changed.json["credential"]["query"]) == (200, "key")
    sealed = await world.pg.fetchval("SELECT secret FROM upstreams WHERE id = $1", made.json["id"])
    assert Vault(decode_keys(KEYS)).open(sealed, made.json["id"]) == "sk-another"
    gone = await world.test.patch(path, {"credential": None})
    assert gone.json["credential"] is None
    assert await world.pg.fetchval("SELECT secret FROM upstreams WHERE id = $1", made.json["id"]) is None


async def test_the_control_planes_environment_is_nobodys_to_read(world: World) -> None:
    stolen = {**UPSTREAM, "credential": {"header": "X", "value_from_env": "TOLLGATE_POSTGRES_URL"}}
    answer = await world.test.post("/api/v1/upstreams", stolen)
    assert (answer.status, answer.errors.keys()) == (422, {"credential.value_from_env"})
    file = {"projects": [{"name": "Shop", "upstreams": [stolen]}]}
    answer = await world.test.post("/api/v1/apply", file)
    assert (answer.status, answer.errors.keys()) == (422, {"projects[0].upstreams[0].credential.value_from_env"})


async def test_a_declaration_with_a_value(world: World) -> None:
    file = {"projects": [{"name": "Shop", "upstreams": [UPSTREAM]}]}
    first = await world.test.post("/api/v1/apply", file)
    assert (first.status, SECRET in first.text) == (200, False)
    assert (await world.test.post("/api/v1/apply", file)).json["changes"] == []


@pytest.mark.parametrize(
    "wrong", [SECRET, {"header": "A", "value": SECRET + "\n"}, {"header": SECRET * 9, "value": "x"}]
)
async def test_a_fault_does_not_repeat_it(world: World, wrong: Any) -> None:
    answer = await world.test.post("/api/v1/upstreams", {**UPSTREAM, "credential": wrong})
    assert answer.status == 422
    assert (isinstance(wrong, dict) and wrong["value"] == "x") or SECRET not in answer.text
