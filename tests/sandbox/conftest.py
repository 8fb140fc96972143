"""Backends to run code on; one that cannot be had here skips with its reason.

`backend` is each of them in turn, so every test that takes it is part of the conformance suite. After each such test the
machine is looked at: no process, mount, cgroup, file or descriptor may be left. Jails are made anew for each test; an
Engine's warm containers cost a quarter of a second each, so those are shared by a module.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from sandbox.backends.base import Backend, Unavailable
from sandbox.backends.docker.backend import DockerBackend, DockerOptions
from sandbox.backends.jail.backend import JailBackend, JailOptions
from tests.sandbox.engine import IMAGE, engine
from tests.sandbox.traces import UID_BASE, Traces


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start processes stay in one xdist worker: beside each other they would only slow each other down."""
    here = Path(__file__).parent
    wanted = {"backend", "asker", "empty_postgres_url"}
    for item in items:
        if item.path.is_relative_to(here) and (
            wanted & set(getattr(item, "fixturenames", ()))
            or item.path.name in ("test_deaths.py", "test_chaos.py", "test_container.py")
        ):
            item.add_marker(pytest.mark.xdist_group("sandbox"))
            item.add_marker(pytest.mark.timeout(180))


async def start(backend: Backend) -> Backend:
    """The backend, started; skips the test where this machine has not what it needs. A hole is a failure, not a reason."""
    try:
        await backend.start()
    except Unavailable as error:
        if "self-test" in str(error):
            raise
        pytest.skip(f"no {backend.name} backend here: {error}")
    return backend


def jail(*, zygote: bool = False, bubblewrap_only: bool = False) -> JailBackend:
    options = JailOptions(warm_python=1, warm_node=1, slots=32, uid_base=UID_BASE)
    return JailBackend(replace(options, zygote=zygote, bubblewrap_only=bubblewrap_only))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def containers() -> AsyncIterator[DockerBackend]:
    """An Engine's containers, for all tests of a module."""
    backend = DockerBackend(DockerOptions(url=engine(), image=IMAGE, warm_python=1, warm_node=0))
    await start(backend)
    yield backend
    await backend.close()
    left = [path for tree in backend._trees for path in tree.glob(f"tollgate-docker-{os.getpid()}*")]
    assert left == []


@pytest_asyncio.fixture(loop_scope="module")
async def docker_backend(containers: DockerBackend) -> AsyncIterator[DockerBackend]:
    """The same; every container that the test used is gone after it."""
    yield containers
    async with asyncio.timeout(60):
        while containers._ends:
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture(loop_scope="module")
async def jail_backend() -> AsyncIterator[JailBackend]:
    """Jails, with nothing left of them after the test."""
    async with watched(jail()) as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def bubblewrap_backend() -> AsyncIterator[JailBackend]:
    """Jails that bubblewrap makes, as all do that are not root's, or have packages or network."""
    async with watched(jail(bubblewrap_only=True)) as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="module")
async def zygote_backend() -> AsyncIterator[JailBackend]:
    """Jails whose interpreters a zygote clones too; needs root."""
    if os.geteuid() != 0:
        pytest.skip("the zygote needs root")
    async with watched(jail(zygote=True)) as backend:
        yield backend


@asynccontextmanager
async def watched(backend: JailBackend) -> AsyncIterator[JailBackend]:
    """A started backend; afterwards nothing of it may be left."""
    before = Traces.take()
    await start(backend)
    Traces.take()  # knows the broker from now on
    yield backend
    await backend.close()
    deadline = time.monotonic() + 60
    while left := Traces.take().beyond(before):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


@pytest.fixture(params=["jail", "bubblewrap", "zygote", "docker"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file of the host that no run may change."""
    path = tmp_path / "host.txt"
    path.write_text("untouched")
    return path
