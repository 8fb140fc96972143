"""SIGHUP replaces the workers one after the other: nobody notices but the process list."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

from aiohttp import web

from tests.gateway.test_app import Plane, plane
from tests.support.gateway import Catalogue
from tests.support.processes import eventually


async def keep_asking(port: int, until: asyncio.Event, seen: Counter[str], *, anew: bool) -> None:
    """One request after the other, as an honest HTTP/1.1 client: a new connection only when the last answer said so
    (or each time). Anything but a whole 200 is counted as a failure."""
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while not until.is_set():
        try:
            async with asyncio.timeout(10):
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                end = b"Connection: close\r\n" if anew else b""
                writer.write(b"GET /quick/x HTTP/1.1\r\nHost: a\r\n" + end + b"\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(2)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            seen[f"failed: {error!r}"] += 1
            reader = None
            continue
        seen["ok" if head.startswith(b"HTTP/1.1 200 ") and body == b"ok" else f"odd: {head!r}"] += 1
        if b"\r\nConnection: close\r\n" in head:
            seen["told to go"] += not anew
            writer.close()
            reader = None
    if writer is not None:
        writer.close()


class Upstream:
    """`/x` answers at once, `/slow` when told to, `/stream` sends a piece now and the rest when told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = 0

    async def __aenter__(self) -> Upstream:
        app = web.Application()
        app.add_routes([web.get("/x", self._quick), web.get("/slow", self._slow), web.get("/stream", self._stream)])
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.address = self._runner.addresses[0]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go_on.set()
        await self._runner.cleanup()

    async def _quick(self, _: web.Request) -> web.Response:
        return web.Response(body=b"ok")

    async def _slow(self, _: web.Request) -> web.Response:
        self.waiting += 1
        await self.go_on.wait()
        return web.Response(body=b"at last")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"first ")
        self.waiting += 1
        await self.go_on.wait()
        await answer.write(b"second")
        return answer


async def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    await asyncio.to_thread(eventually, condition, within_s=20, what=what)


async def curl(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
    whole = await reader.read()
    writer.close()
    return whole


async def test_workers_are_replaced_under_load_without_a_failed_request(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    async with Upstream() as upstream:
        await catalogue.route("quick", "/quick/*", [upstream.address[:2]], auth="none")
        with plane(postgres_url, redis_url, workers=2, drain_timeout_ms=10_000, drain_idle_ms=500) as running:
            seen: Counter[str] = Counter()
            until = asyncio.Event()
            clients = [asyncio.create_task(keep_asking(running.port, until, seen, anew=i % 4 == 0)) for i in range(12)]
            open_ones = [asyncio.create_task(curl(running.port, f"/quick/{path}")) for path in ("slow", "stream")]
            await wait_for(lambda: upstream.waiting == 2 and seen["ok"] > 50, "clients at work")
            before = running.workers()
            for round_ in range(2):
                old = running.workers()
                running.process.send_signal(signal.SIGHUP)
                if not round_:
                    await wait_for(lambda: len(set(running.workers()) - set(before)) > 0, "a successor")
                    upstream.go_on.set()  # what was open while its worker was replaced finishes there

                def all_replaced(old: list[int] = old) -> bool:
                    return len(now := running.workers()) == 2 and not set(now) & set(old)

                await wait_for(all_replaced, "two new workers")
                await wait_for(running.is_ready, "readiness")
                served = seen["ok"]
                await wait_for(lambda served=served: seen["ok"] > served + 50, "more answers")
            until.set()
            await asyncio.gather(*clients)
            answers = await asyncio.gather(*open_ones)
            assert answers[0].endswith(b"at last")
            assert b"first" in answers[1]
            assert b"second" in answers[1]
            assert {what for what in seen if what not in ("ok", "told to go")} == set(), seen
            assert seen["told to go"] > 0
            counted = "tollgate_requests_total[('route', 'quick'), ('status', '2xx')]"
            await wait_for(lambda: running.samples().get(counted) == seen["ok"] + 2, "every answer counted")


async def test_connections_wait_while_their_worker_is_started_anew(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    """kill -9 resets what was open in it, and nothing that comes after."""
    async with Upstream() as upstream:
        await catalogue.route("quick", "/quick/*", [upstream.address[:2]], auth="none")
        with plane(postgres_url, redis_url, workers=1) as running:
            os.kill(running.workers()[0], signal.SIGKILL)
            answers = await asyncio.gather(*(curl_once(running.port) for _ in range(8)))
            assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers), answers


async def curl_once(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /quick/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    whole = await reader.read()
    writer.close()
    return whole


async def test_hanging_up_reads_the_settings_again(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    """New ones take effect in the new workers; wrong ones change nothing; what the parent holds is named."""
    file = tmp_path / "tollgate.toml"
    file.write_text("[gateway]\nmax_target_bytes = 300\n")
    running = Plane(postgres_url, redis_url, config=file, drain_idle_ms=50)
    said = ""
    try:
        await wait_for(running.is_ready, "the gateway's start")
        long = "/" + "x" * 400
        assert running.get(running.port, long)[0] == 414

        def hang_up(text: str) -> list[int]:
            file.write_text(text)
            old = running.workers()
            running.process.send_signal(signal.SIGHUP)
            return old

        old = hang_up("[gateway]\nmax_target_bytes = 3\n")
        time.sleep(0.5)
        assert running.workers() == old
        assert running.get(running.port, long)[0] == 414
        old = hang_up("[gateway]\nmax_target_bytes = 500\nworkers = 2\n")
        await wait_for(lambda: len(now := running.workers()) == 1 and now != old, "a new worker")
        assert running.get(running.port, long)[0] == 404
    finally:
        running.process.terminate()
        running.process.wait(10)
        said = running.end()
    assert "Traceback" not in said
    assert "the settings stay as they were" in said
    assert "gateway.workers changes only when the gateway is restarted" in said
