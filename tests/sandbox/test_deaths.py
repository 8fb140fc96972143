"""What is left when processes of the plane are killed in the middle of runs: nothing, and the next one works."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from config.load import to_environment
from sandbox.backends.base import Broken, Handle
from sandbox.backends.docker.backend import DockerBackend, DockerOptions
from sandbox.backends.jail.backend import JailBackend
from sandbox.nouns import Limits
from tests.sandbox.conftest import jail, start
from tests.sandbox.engine import IMAGE, engine
from tests.sandbox.runs import job, says
from tests.sandbox.service import Asker, settings
from tests.sandbox.traces import Traces
from tollgate.dev.server import free_port

STUBBORN = """
import os, signal, time
for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0: os.setsid()
print("up", flush=True)
time.sleep(60)
"""


async def nothing_beyond(before: Traces) -> None:
    deadline = time.monotonic() + 60
    while left := Traces.take().beyond(before):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


def pid_of_broker(backend: JailBackend) -> int:
    assert backend._link is not None
    return backend._link._process.pid


async def test_the_broker_is_killed() -> None:
    before = Traces.take()
    backend = await start(jail())
    assert isinstance(backend, JailBackend)
    up = asyncio.Event()
    made = job(STUBBORN, limits=Limits(timeout_ms=60_000))
    task = asyncio.create_task(backend.run(made, Handle(), lambda stream, data: up.set()))
    await up.wait()
    os.kill(pid_of_broker(backend), signal.SIGKILL)
    with pytest.raises(Broken):
        await task
    async with asyncio.timeout(10):
        while True:
            try:
                assert await says(backend, "print('again')") == "again"
                break
            except Broken:
                await asyncio.sleep(0.02)
    await backend.close()
    await nothing_beyond(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="the zygote needs root")
@pytest.mark.parametrize("is_whole", [False, True])
async def test_the_zygote_is_killed(is_whole: bool) -> None:
    """Runs go on, in jails that bubblewrap makes, and soon there is another."""
    before = Traces.take()
    backend = jail(zygote=is_whole)
    await start(backend)
    broker = psutil.Process(pid_of_broker(backend))

    def named() -> list[psutil.Process]:
        found = []
        for child in broker.children():
            with suppress(psutil.Error):  # it has ended meanwhile
                found += [child] if any("zygote.py" in word for word in child.cmdline()) else []
        return found

    zygote = min(named(), key=psutil.Process.create_time)  # the others are its clones
    zygote.kill()
    done, deadline = 0, time.monotonic() + 60
    while done < 4 or not named():
        with suppress(Broken):  # a guest that was being made when it died
            assert await says(backend, "print('on')") == "on"
            done += 1
        assert time.monotonic() < deadline
    await backend.close()
    await nothing_beyond(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="the zygote needs root")
@pytest.mark.parametrize("is_whole", [False, True])
async def test_nothing_of_a_clone_is_outside_its_cgroup(is_whole: bool) -> None:
    """Not even what a warm guest has started before it has a job."""
    backend = jail(zygote=is_whole)
    await start(backend)
    try:
        for _ in range(5):
            assert await says(backend, "print('on')") == "on"
            broker = psutil.Process(pid_of_broker(backend))
            for child in broker.children():
                with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                    groups = Path(f"/proc/{child.pid}/cgroup").read_text()
                    for below in child.children(recursive=True):
                        assert Path(f"/proc/{below.pid}/cgroup").read_text() == groups, below.cmdline()
    finally:
        await backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_the_service_is_killed_again_and_again(empty_postgres_url: str) -> None:
    """Mixed runs with random kills: whatever was under way, nothing of it stays."""
    import aiohttp

    backend = await start(jail())  # skips where there is none
    await backend.close()
    before = Traces.take()
    chance = random.Random(3)
    port = free_port()
    environ = to_environment(settings(empty_postgres_url, port=port))
    command = [sys.executable, "-m", "tollgate.cli", "sandbox"]
    codes = [STUBBORN, "print(1)", "while True: pass", "x = 'x' * 10**9", "import os\nwhile True: os.fork()"]
    for _ in range(3):
        process = subprocess.Popen(
            command, env={**os.environ, **environ}, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
        )
        try:
            async with aiohttp.ClientSession() as session:
                asker = Asker(session, f"http://127.0.0.1:{port}")
                await until_up(asker)
                body: dict[str, Any] = {"lang": "python", "policy": {"timeoutMs": 400, "memoryMB": 64}}
                assert (await asker.run({**body, "code": "print('up')"}))[0] == 200
                tasks = [
                    asyncio.create_task(asker.run({**body, "code": chance.choice(codes)}))
                    for _ in range(chance.randint(4, 12))
                ]
                await asyncio.sleep(0.2 + chance.random() * 0.6)
                assert Traces.take().beyond(before)
                process.send_signal(signal.SIGKILL)
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            process.kill()
            process.wait()
        await nothing_beyond(before)


async def until_up(asker: Asker) -> None:
    import aiohttp

    async with asyncio.timeout(30):
        while True:
            try:
                status, _, _ = await asker.ask("GET", "/ready")
                if status == 200:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_containers_of_a_killed_sandbox_are_reaped() -> None:
    """A start removes what is labelled with a process that is no longer there, and nothing else."""
    from sandbox.backends.docker.engine import LABEL, Engine
    from sandbox.backends.jail.cgroups import instance_of, is_alive

    dead = subprocess.Popen(["true"])
    dead.wait()
    url = engine()
    made = [Engine(url, IMAGE, None, instance) for instance in (f"{dead.pid}-1", instance_of(os.getpid()))]
    containers = [each.start("python", "/tollgate-test-reaping", 1 << 20, None, None) for each in made]
    try:
        made[0].reap(is_alive)
        left = made[0]._api.containers(all=True, filters={"label": LABEL})
        assert [found["Id"] for found in left] == [containers[1].id]
    finally:
        for each, container in zip(made, containers, strict=True):
            container.stream.close()
            each.remove(container.id)
            each.close()
        for group in Path("/sys/fs/cgroup").glob("*/tollgate-test-reaping"):
            group.rmdir()


async def test_without_an_engine_or_an_image_there_is_a_reason(tmp_path: Path) -> None:
    from sandbox.backends.base import Unavailable

    with pytest.raises(Unavailable, match="no Docker Engine answers"):
        await DockerBackend(DockerOptions(url=f"unix://{tmp_path}/none")).start()
    with pytest.raises(Unavailable, match="image absent is not there: build it"):
        await DockerBackend(DockerOptions(url=engine(), image="absent")).start()
    with pytest.raises(Unavailable, match="no runtime runsc"):
        await DockerBackend(DockerOptions(url=engine(), image=IMAGE, runtime="runsc")).start()
