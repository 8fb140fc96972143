"""The service, as the gateway sees it: started in this process on free ports, asked over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from config.load import load
from config.settings import Settings
from sandbox.app import running
from tests.sandbox.traces import UID_BASE

SECRET = "between-gateway-and-sandbox"


def settings(postgres_url: str, **more: Any) -> Settings:
    """Settings of a small sandbox; `more` are of its section."""
    given = {
        "uid_base": UID_BASE,
        "port": 0,
        "metrics_port": 0,
        "secret": SECRET,
        "postgres_url": postgres_url,
        "warm_python": 2,
        "warm_node": 1,
    }
    environ = {f"TOLLGATE_SANDBOX_{name.upper()}": str(value) for name, value in (given | more).items()}
    return load(None, environ, {}).settings


@dataclass(slots=True)
class Asker:
    """Asks the service as the gateway would for one project and customer."""

    session: aiohttp.ClientSession
    url: str
    project: str = "prj_a"
    customer: str = "cus_a"
    kind: str = "sk"
    mode: str = "test"
    secret: str = SECRET

    def headers(self, **more: str) -> dict[str, str]:
        return {
            "X-Tollgate-Secret": self.secret,
            "X-Tollgate-Project": self.project,
            "X-Tollgate-Customer": self.customer,
            "X-Tollgate-Key-Kind": self.kind,
            "X-Tollgate-Mode": self.mode,
            "X-Request-Id": "request-1",
            **more,
        }

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, JSON, headers."""
        text = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        data = None if text is None else io.BytesIO(text)
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method, self.url + path, data=data, headers=self.headers(**headers)
        ) as response:
            return response.status, json.loads(await response.read()), response.headers

    async def run(self, body: Any, **headers: str) -> tuple[int, Any]:
        status, document, _ = await self.ask("POST", "/api/run", body, **headers)
        return status, document

    async def events(self, body: Any, **headers: str) -> AsyncIterator[tuple[str, Any]]:
        """Server-sent events as they come."""
        sent = self.headers(**headers)
        async with self.session.post(self.url + "/api/run/stream", json=body, headers=sent) as response:
            assert response.status == 200, await response.text()
            name = ""
            async for line in response.content:
                if line.startswith(b"event: "):
                    name = line[7:].decode().strip()
                elif line.startswith(b"data: "):
                    yield name, json.loads(line[6:])


@asynccontextmanager
async def service(postgres_url: str, **more: Any) -> AsyncIterator[Asker]:
    """A running service and somebody to ask it; skips the test where no backend is safe."""
    async with running(settings(postgres_url, **more)) as found:
        if found.choice.backend is None and "bwrap" not in more:
            assert "self-test" not in found.choice.why_not, found.choice.why_not
            pytest.skip(f"no backend here: {found.choice.why_not}")
        async with aiohttp.ClientSession() as session:
            yield Asker(session, found.url)
