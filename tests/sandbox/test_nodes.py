"""Two nodes of one sandbox: whichever is asked about a run, the one that has it answers, and nobody else is obeyed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import aiohttp
import asyncpg
import orjson
import pytest

from gateway.proxy.builtin import Sandbox, nodes_of
from tests.sandbox.service import SECRET, Asker, service
from tests.support.gateway import Catalogue, InProcessGateway
from tollgate.dev.code_runner import run_routes

SPIN = {"lang": "python", "code": "print('up', flush=True)\nwhile True: pass", "policy": {"timeoutMs": 60_000}}
UNKNOWN = "run_" + "0" * 32


@pytest.fixture
async def two(empty_postgres_url: str) -> AsyncIterator[tuple[Asker, Asker]]:
    """Two nodes that know of each other; they would be processes of two machines."""
    async with (
        service(empty_postgres_url, warm_python=1, warm_node=0) as a,
        service(empty_postgres_url, warm_python=1, warm_node=0) as b,
    ):
        await known(empty_postgres_url, 2)
        yield a, b


async def known(url: str, count: int) -> None:
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(10):
        while await connection.fetchval("SELECT count(*) FROM sandbox.nodes") != count:
            await asyncio.sleep(0.01)
    await connection.close()


async def test_a_stop_reaches_the_node_that_runs_it(two: tuple[Asker, Asker]) -> None:
    a, b = two
    async with aclosing(a.events(SPIN)) as events:
        name, data = await anext(events)
        assert name == "start"
        run = data["id"]
        assert await anext(events) == ("stdout", {"text": "up\n"})
        assert (await b.ask("GET", f"/api/run/{run}"))[:2] == (200, {"id": run, "status": "running"})
        assert {"id": run, "status": "running"} in (await b.ask("GET", "/api/runs"))[1]["runs"]
        for stranger in (replace(b, project="prj_b"), replace(b, kind="ck", customer="cus_b")):
            assert (await stranger.ask("DELETE", f"/api/run/{run}"))[0] == 404
            assert (await stranger.ask("GET", f"/api/run/{run}"))[0] == 404
            assert (await stranger.ask("GET", "/api/runs"))[1]["runs"] == []
        assert (await b.ask("DELETE", f"/api/run/{run}"))[:2] == (202, {"id": run, "status": "stopping"})
        name, data = await anext(events)
        assert (name, data["reason"], data["exitCode"]) == ("end", "stopped", 143)
    status, result, _ = await b.ask("GET", f"/api/run/{run}")  # at once: A may not have written it yet
    assert (status, result["reason"]) == (200, "stopped")
    assert (await b.ask("DELETE", f"/api/run/{run}"))[1]["code"] == "run_ended"


async def test_a_result_is_found_by_the_other_node_at_once(two: tuple[Asker, Asker]) -> None:
    a, b = two
    for _ in range(20):
        _, reply = await a.run({"lang": "python", "code": "print(6 * 7)"})
        status, again, _ = await b.ask("GET", f"/api/run/{reply['id']}")
        assert (status, again) == (200, reply)


async def test_what_neither_has_is_not_there(two: tuple[Asker, Asker]) -> None:
    began = time.monotonic()
    assert (await two[1].ask("GET", f"/api/run/{UNKNOWN}"))[0] == 404
    assert (await two[1].ask("DELETE", f"/api/run/{UNKNOWN}"))[0] == 404
    assert time.monotonic() - began < 1.0  # all answered; nobody was waited for in vain


async def test_the_same_idempotency_key_at_the_other_node(two: tuple[Asker, Asker]) -> None:
    a, b = two
    body = {"lang": "python", "code": "import time; time.sleep(1); print('once')"}
    first = asyncio.create_task(a.ask("POST", "/api/run", body, **{"Idempotency-Key": "k"}))
    async with asyncio.timeout(10):
        while not (await a.ask("GET", "/api/runs"))[1]["runs"]:
            await asyncio.sleep(0.01)
    status, problem, headers = await b.ask("POST", "/api/run", body, **{"Idempotency-Key": "k"})
    assert (status, problem["code"], headers["Retry-After"]) == (409, "run_in_progress", "1")
    _, reply, _ = await first
    status, again, headers = await b.ask("POST", "/api/run", body, **{"Idempotency-Key": "k"})
    assert (status, again, headers["X-Usage-Runs"]) == (200, reply, "0")


async def test_a_node_that_says_nothing_is_not_taken_for_a_no(
    two: tuple[Asker, Asker], empty_postgres_url: str
) -> None:
    connection = await asyncpg.connect(empty_postgres_url)
    await connection.execute("INSERT INTO sandbox.nodes VALUES ('ghost', now())")
    status, problem, headers = await two[0].ask("DELETE", f"/api/run/{UNKNOWN}")
    assert (status, problem["code"], headers["Retry-After"]) == (503, "node_silent", "1")
    assert (await two[0].ask("GET", "/api/runs"))[0] == 200  # a list does without it
    await connection.execute("UPDATE sandbox.nodes SET seen_at = now() - interval '16 s' WHERE name = 'ghost'")
    assert (await two[0].ask("DELETE", f"/api/run/{UNKNOWN}"))[0] == 404
    await connection.close()


async def test_only_nodes_are_obeyed(two: tuple[Asker, Asker], empty_postgres_url: str) -> None:
    """Whoever may connect to a database may notify in it; without the secret nothing comes of it."""
    a, _ = two
    connection = await asyncpg.connect(empty_postgres_url)
    async with aclosing(a.events(SPIN)) as events:
        _, data = await anext(events)
        run = data["id"]
        question = {"from": "x", "number": 1, "what": "stop", "run": run, "owner": ["prj_a", "test", "", True]}
        for forged in ("0" * 64 + orjson.dumps(question).decode(), "", "0" * 64 + "[", "\u00e9" * 70):
            await connection.execute("SELECT pg_notify('tollgate_sandbox', $1)", forged)
        assert (await two[1].ask("GET", f"/api/run/{run}"))[1][
            "status"
        ] == "running"  # came after those, and is answered
        assert (await a.ask("GET", f"/api/run/{run}"))[1]["status"] == "running"
    await connection.close()


async def test_a_node_that_ends_is_asked_no_more(empty_postgres_url: str) -> None:
    async with service(empty_postgres_url, warm_python=1, warm_node=0) as a:
        async with service(empty_postgres_url, warm_python=1, warm_node=0):
            await known(empty_postgres_url, 2)
        await known(empty_postgres_url, 1)
        assert (await a.ask("GET", f"/api/run/{UNKNOWN}"))[0] == 404


async def test_through_the_gateway(
    two: tuple[Asker, Asker], pg: asyncpg.Connection, postgres_url: str, redis_url: str
) -> None:
    """As it balances, requests about a run may all go to the node that does not have it."""
    urls = [asker.url for asker in two]
    rows = Catalogue(pg)
    await rows.project()
    await rows.tier("free", default=True)
    key = await rows.key("sk")
    for route in run_routes():
        spec = route.model_dump(exclude={"name", "path", "upstream"}, exclude_unset=True)
        await rows.route(route.name, route.path, [urls[0] if "POST" in route.methods else urls[1]], **spec)
    async with InProcessGateway(postgres_url, redis_url) as inside:
        inside.gateway.sandbox = Sandbox(nodes_of(", ".join(urls)), SECRET)
        await inside.ready()
        url = "http://{}:{}".format(*inside.address)
        headers = {"X-API-Key": key, "X-User-Id": "ada"}
        async with aiohttp.ClientSession(url, headers=headers) as session:
            streams = [await session.post("/api/run/stream", json=SPIN) for _ in range(4)]
            runs = []
            for stream in streams:
                assert await stream.content.readline() == b"event: start\n"
                runs.append(orjson.loads((await stream.content.readline())[6:])["id"])
            for run in runs:
                for _ in range(2):
                    async with session.get(f"/api/run/{run}") as told:
                        assert (told.status, await told.json()) == (200, {"id": run, "status": "running"})
                async with session.delete(f"/api/run/{run}") as stopped:
                    assert stopped.status == 202, await stopped.text()
            for stream in streams:
                assert b'"reason":"stopped"' in (await stream.read()).split(b"event: end")[1]
            for run in runs:
                for _ in range(2):
                    async with session.get(f"/api/run/{run}") as told:
                        assert (await told.json())["reason"] == "stopped"
        await inside.settled()
