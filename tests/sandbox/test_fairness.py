"""More runs than there is room for, from several projects at once: who waits, who is turned away, and who comes next."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from tests.sandbox.service import Asker, service

STUCK = {"lang": "python", "code": "import time; time.sleep(60)", "policy": {"timeoutMs": 60_000}}
BRIEF = {"lang": "python", "code": "import time; time.sleep(0.1)"}


async def waiting(asker: Asker, count: int) -> None:
    """Until so many of the asker's runs are running or waiting."""
    async with asyncio.timeout(20):
        while len((await asker.ask("GET", "/api/runs?limit=100"))[1]["runs"]) != count:
            await asyncio.sleep(0.01)


async def test_a_flood_of_one_project_neither_starves_another_nor_grows(empty_postgres_url: str) -> None:
    bounds = {"max_running": 2, "max_running_per_project": 2, "max_waiting": 40, "max_waiting_per_project": 10}
    async with service(empty_postgres_url, warm_node=0, wait_ms=60_000, **bounds) as flood:
        other = replace(flood, project="prj_b")
        ended: list[str] = []

        async def run(asker: Asker) -> tuple[int, Any, Any]:
            answer = await asker.ask("POST", "/api/run", BRIEF)
            if answer[0] == 200:
                ended.append(asker.project)
            return answer

        held = [asyncio.create_task(flood.run(STUCK)) for _ in range(2)]
        await waiting(flood, 2)
        tasks = [asyncio.create_task(run(flood)) for _ in range(25)]
        await waiting(flood, 12)
        quiet = [asyncio.create_task(run(other)) for _ in range(2)]
        await waiting(other, 2)
        for document in (await flood.ask("GET", "/api/runs?limit=100"))[1]["runs"]:
            if document["status"] == "running":
                await flood.ask("DELETE", f"/api/run/{document['id']}")
        answers = await asyncio.gather(*tasks)
        assert [status for status, _, _ in await asyncio.gather(*quiet)] == [200, 200]
        await asyncio.gather(*held)
    refused = [(document["code"], headers["Retry-After"]) for status, document, headers in answers if status == 429]
    assert refused == [("too_many_runs", "1")] * 15
    assert [status for status, _, _ in answers].count(200) == 10
    assert ended.index("prj_b") <= 2  # in turns with the flood, not behind its ten
    assert [n for n, project in enumerate(ended) if project == "prj_b"][1] <= 5


async def test_when_every_queue_is_full_everybody_is_told_to_come_back(empty_postgres_url: str) -> None:
    bounds = {"max_running": 1, "max_running_per_project": 1, "max_waiting": 4, "max_waiting_per_project": 3}
    async with service(empty_postgres_url, warm_node=0, wait_ms=500, **bounds) as asker:
        held = asyncio.create_task(asker.run(STUCK))
        await waiting(asker, 1)
        projects = [replace(asker, project=f"prj_{n}") for n in range(8)]
        answers = await asyncio.gather(*(project.ask("POST", "/api/run", BRIEF) for project in projects))
        assert {status for status, _, _ in answers} == {503}  # four at once, the other four when their patience ended
        assert {(document["code"], headers["Retry-After"]) for _, document, headers in answers} == {("busy", "1")}
        streams = await asker.ask("POST", "/api/run/stream", BRIEF)
        assert (streams[0], streams[2]["Retry-After"]) == (503, "1")  # a refusal, not a stream that breaks off
        for document in (await asker.ask("GET", "/api/runs"))[1]["runs"]:
            await asker.ask("DELETE", f"/api/run/{document['id']}")
        await held
        assert (await asker.run(BRIEF))[0] == 200
