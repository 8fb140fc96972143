"""What a guest costs before it has a job is not the run's to pay, also where none was warm."""

from __future__ import annotations

import pytest

from sandbox.backends.jail.backend import JailBackend, JailOptions
from tests.sandbox.conftest import start
from tests.sandbox.runs import node
from tests.sandbox.traces import UID_BASE


@pytest.mark.parametrize("bubblewrap_only", [False, True])
async def test_a_node_that_was_started_for_the_run(bubblewrap_only: bool) -> None:
    """Its own account holds the start of Node, some 30 ms; the bill does not."""
    options = JailOptions(warm_python=0, warm_node=0, slots=8, uid_base=UID_BASE, bubblewrap_only=bubblewrap_only)
    backend = JailBackend(options)
    await start(backend)
    try:
        ended = await node(backend, "const u = process.cpuUsage(); console.log((u.user + u.system) / 1000)")
    finally:
        await backend.close()
    assert ended.usage.cpu_ms < float(ended.stdout) - 5
