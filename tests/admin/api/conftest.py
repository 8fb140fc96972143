"""A running control plane over two projects, and a client for each key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from admin.app import Running, running
from admin.declare import apply
from admin.keys import create_key
from config.encryption import new_key
from config.settings import AdminSettings, Settings
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.specs import KeySpec
from tests.admin.declared import ACTOR, SHOP, apply_text, shop

RIVAL = SHOP.replace("name: Shop", "name: Rival").replace("/shop/", "/rival/")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `json` is None where the body is not JSON."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text) if "json" in self.headers.get("Content-Type", "") else None

    @property
    def code(self) -> str:
        return str(self.json["code"])

    @property
    def errors(self) -> dict[str, str]:
        return {error["field"]: error["message"] for error in self.json["errors"]}


class Client:
    """Requests with one key (or none), each checked for what every answer must have."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self._session = session
        self._url = url
        self.key = key

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key is not None:
            sent.setdefault("Authorization", f"Bearer {self.key}")
        data = body
        if isinstance(body, dict | list):
            data = orjson.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        async with self._session.request(method, self._url + path, data=data, headers=sent) as response:
            answer = Answer(response.status, response.headers, await response.text())
        assert answer.headers["X-Request-Id"]
        assert answer.status < 500 or answer.status == 503, answer.text
        if answer.status >= 400 and method != "HEAD":
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json["status"] == answer.status
            assert answer.json["request_id"] == answer.headers["X-Request-Id"]
            assert answer.json["message"] == answer.json["detail"]
        return answer

    async def get(self, path: str, **headers: str) -> Answer:
        return await self("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self("POST", path, body, **headers)

    async def patch(self, path: str, body: Any) -> Answer:
        return await self("PATCH", path, body)

    async def delete(self, path: str) -> Answer:
        return await self("DELETE", path)


@dataclass(frozen=True, slots=True)
class World:
    """Project Shop with a key of each kind, project Rival, and the operator."""

    pg: asyncpg.Connection
    where: Running
    session: aiohttp.ClientSession
    shop_id: str
    rival_id: str
    test: Client
    live: Client
    publishable: Client
    customer: Client
    rival: Client
    platform: Client

    def client(self, key: str | None) -> Client:
        return Client(self.session, self.where.url, key)

    async def key(self, project_id: str, **fields: Any) -> str:
        """The text of a fresh key."""
        spec = KeySpec.model_validate({"name": "test", **fields})
        return (await create_key(self.pg, project_id, spec, actor=ACTOR)).key.text


@pytest.fixture
async def control_plane(postgres_url: str) -> AsyncIterator[Running]:
    """The control plane on free ports."""
    admin = AdminSettings(port=0, metrics_port=0, max_body_bytes=65_536)
    async with running(
        Settings(postgres_url=SecretStr(postgres_url), admin=admin, encryption_keys=SecretStr(new_key()))
    ) as where:
        yield where


@pytest.fixture
async def world(pg: asyncpg.Connection, control_plane: Running) -> AsyncIterator[World]:
    await apply(pg, shop(), actor=ACTOR)
    await apply_text(pg, RIVAL)
    ids = {row["name"]: row["id"] for row in await pg.fetch("SELECT id, name FROM projects")}

    async def key(project_id: str, **fields: Any) -> str:
        spec = KeySpec.model_validate({"name": "fixture", **fields})
        return (await create_key(pg, project_id, spec, actor=ACTOR)).key.text

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def client(project_id: str, **fields: Any) -> Client:
            return Client(session, control_plane.url, await key(project_id, **fields))

        yield World(
            pg=pg,
            where=control_plane,
            session=session,
            shop_id=ids["Shop"],
            rival_id=ids["Rival"],
            test=await client(ids["Shop"]),
            live=await client(ids["Shop"], mode="live"),
            publishable=await client(ids["Shop"], kind="pk"),
            customer=await client(ids["Shop"], kind="ck", customer="ada"),
            rival=await client(ids["Rival"]),
            platform=await client(PLATFORM_PROJECT_ID),
        )
