"""The open-loop generator: waiting is counted, and so is every request."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bench import packages
from tests.bench.cases import request

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="pace.c is compiled with gcc")

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_CHUNKED = b"HTTP/1.1 429 Too Many Requests\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


async def _seen(
    tmp_path: Path, delay_of: Callable[[int], float], answer: bytes, *options: str
) -> tuple[dict[str, Any], int]:
    """What pace saw of a server that waits before its n-th answer, and how many requests the server got."""
    got = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            got += 1
            await asyncio.sleep(delay_of(got))
            writer.write(answer)
        writer.close()

    program = packages.compile_pace(tmp_path)
    raw = request("key")
    requests = tmp_path / "requests"
    requests.write_bytes(b"%d\n%b" % (len(raw), raw))
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            program, "-p", str(port), "-f", requests, *options, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    return json.loads(out), got


async def test_whoever_waits_behind_a_stalled_answer_is_counted_as_slow(tmp_path: Path) -> None:
    """One answer in 200 takes 0.4 s; 80 departures fall into it, not 1."""
    stalled = lambda n: 0.4 if n == 20 else 0.0  # noqa: E731
    seen, _ = await _seen(tmp_path, stalled, _ANSWER, "-c", "1", "-r", "200", "-s", "1")
    assert seen["requests"] == 200
    assert seen["p99_us"] > 350_000
    assert seen["longest_queue"] >= 60


async def test_a_known_number_of_requests_is_sent_and_every_answer_awaited(tmp_path: Path) -> None:
    seen, got = await _seen(tmp_path, lambda _: 0.0, _ANSWER, "-c", "8", "-n", "300")
    assert (seen["requests"], seen["ok"], seen["refused"], seen["errors"], got) == (300, 300, 0, 0, 300)


async def test_refusals_and_chunked_answers_are_told_apart(tmp_path: Path) -> None:
    seen, got = await _seen(tmp_path, lambda _: 0.0, _CHUNKED, "-c", "4", "-n", "40", "-k")
    assert (seen["ok"], seen["refused"], seen["errors"], got) == (0, 40, 0, 40)
