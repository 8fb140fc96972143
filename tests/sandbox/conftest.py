"""Backends to run code on, one of each per pytest process; a backend that cannot be had here skips with its reason.

`backend` is each of them in turn, so every test that takes it is part of the conformance suite. After each such test the
machine is looked at: no process, mount, cgroup, file or descriptor may be left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.backends.base import Backend, Unavailable
from sandbox.backends.jail.backend import JailBackend, JailOptions
from tests.sandbox.traces import UID_BASE, Traces

BACKENDS = ["jail"]


async def start(name: str) -> Backend:
    """A started backend; skips the test where there is none."""
    backend: Backend = JailBackend(JailOptions(warm_python=1, warm_node=1, slots=32, uid_base=UID_BASE))
    try:
        await backend.start()
    except Unavailable as error:
        pytest.skip(f"no {name} backend here: {error}")
    return backend


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    before = Traces.take()
    backend = await start(request.param)
    Traces.take()  # knows the broker from now on
    yield backend
    await backend.close()
    deadline = time.monotonic() + 10
    while left := Traces.take().beyond(before):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file of the host that no run may change."""
    path = tmp_path / "host.txt"
    path.write_text("untouched")
    return path
