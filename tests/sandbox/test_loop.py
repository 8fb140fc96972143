"""The service's event loop is never kept busy for more than 5 ms: everything else waits meanwhile, other runs' ends too."""

from __future__ import annotations

import asyncio
import gc
import io
import json
from collections.abc import Iterator

import pytest

from tests.sandbox.service import Asker, service
from tests.support.blocking import longest_callback

MOST_MS = 5.0
BINARY = {"lang": "python", "code": "import os, sys; sys.stdout.buffer.write(os.urandom(1_000_000))"}
"""What is not UTF-8 takes longest to become text."""


@pytest.fixture
def without_garbage() -> Iterator[None]:
    """What this test process has gathered so far is not the service's to collect."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


async def passed_over(asker: Asker, body: object) -> None:
    """Ask, and take the answer without making anything of it: we are in the loop that is measured."""
    data = io.BytesIO(json.dumps(body).encode())
    headers = asker.headers(**{"Content-Type": "application/json"})
    async with asker.session.post(f"{asker.url}/api/run", data=data, headers=headers) as response:
        assert response.status == 200
        async for _ in response.content.iter_any():
            pass


@pytest.mark.parametrize("lang", ["python", "node"])
async def test_runs_do_not_block_the_loop(empty_postgres_url: str, without_garbage: None, lang: str) -> None:
    async with service(empty_postgres_url, backend="jail") as asker:
        longest = []
        for _ in range(3):  # what blocks does so each time; what the machine did to us does not
            with longest_callback() as found:
                for _ in range(3):
                    await asyncio.gather(*(asker.run({"lang": lang, "code": "1"}) for _ in range(2)))
                await passed_over(asker, BINARY)
            longest.append(found)
        least = min(longest, key=lambda found: found.ms)
        assert least.ms <= MOST_MS, least.what
