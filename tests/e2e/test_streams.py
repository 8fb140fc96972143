"""Bodies in motion: large ones arrive identical, event streams piece by piece, and nothing piles up in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.e2e import raw
from tests.e2e.books import Books
from tests.e2e.conftest import Door, Origins
from tests.e2e.stack import Stack
from tests.support.upstreams.counting import pattern, pattern_digest

Through = Callable[[str], Door]

_64_MIB = 64 * 2**20
_1_GIB = 2**30
_MOST_GROWTH = 32 * 2**20
_IN_SOCKET_BUFFERS = 48 * 2**20
"""More than the kernel keeps for two connections in a row at its default limits (4 MiB sent + 32 MiB received each)."""


async def _download(door: Door, path: str) -> tuple[int, str]:
    length, digest = 0, sha256()
    async with aiohttp.ClientSession(headers=door.headers) as session, session.get(door.url + path) as response:
        assert response.status == 200, await response.text()
        async for block in response.content.iter_any():
            length += len(block)
            digest.update(block)
    return length, digest.hexdigest()


async def _upload(door: Door, length: int, *, chunked: bool) -> tuple[int, str]:
    async def blocks() -> AsyncIterator[bytes]:
        for block in pattern(length):
            yield block

    headers = door.headers if chunked else {**door.headers, "Content-Length": str(length)}
    async with aiohttp.ClientSession(headers=headers) as session, session.put(door.url + "/echo", data=blocks()) as got:
        assert got.status == 200, await got.text()
        answer = await got.json()
    return answer["length"], answer["sha256"]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_64_mib_come_down_identical(through: Through, books: Books, customer: str, framing: str) -> None:
    seen = await _download(through("/c"), f"/body?bytes={_64_MIB}&framing={framing}")
    assert seen == (_64_MIB, pattern_digest(_64_MIB))
    event = await books.only_event(customer)
    assert (event.outcome, event.status, event.meters["bytes_out"]) == ("completed", 200, _64_MIB)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_64_mib_go_up_identical(through: Through, books: Books, customer: str, chunked: bool) -> None:
    assert await _upload(through("/c"), _64_MIB, chunked=chunked) == (_64_MIB, pattern_digest(_64_MIB))
    event = await books.only_event(customer)
    assert (event.outcome, event.meters["bytes_in"]) == ("completed", _64_MIB)


async def test_up_and_down_at_the_same_time_on_many_connections(through: Through) -> None:
    door = through("/c")
    expected = (4_000_000, pattern_digest(4_000_000))
    seen = await asyncio.gather(
        *(_download(door, "/body?bytes=4000000&framing=chunked") for _ in range(5)),
        *(_upload(door, 4_000_000, chunked=n % 2 == 0) for n in range(5)),
    )
    assert seen == [expected] * 10


async def test_server_sent_events_arrive_one_by_one(
    doors: tuple[Door, Door], origins: Origins, request_id: str
) -> None:
    transcripts = []
    for door in doors:
        gate = f"{request_id}-{door.name}"
        async with (
            aiohttp.ClientSession(headers=door.headers, timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(f"{door.url}/sse?n=5&gate={gate}") as response,
        ):
            events = []
            for _ in range(5):
                # The origin sends the next event only when this one was read: were it held back, this would time out.
                events.append((await response.content.readuntil(b"\n\n")).decode())
                origins.counting.open_gate(gate)
            rest = await response.content.read()
        transcripts.append((response.status, response.headers["Content-Type"], events, rest))
    assert transcripts[0] == transcripts[1]
    assert transcripts[1][2][4] == "id: 4\ndata: event 4\n\n"


def test_trailers_of_an_answer_pass(doors: tuple[Door, Door]) -> None:
    direct, gateway = (raw.get(door.url + "/trailers", door.headers) for door in doors)
    assert (gateway.status, gateway.body) == (direct.status, direct.body)
    assert gateway.trailers == direct.trailers == {"x-sum": "42", "x-rows": "7"}


def test_interim_answers_pass(doors: tuple[Door, Door]) -> None:
    """RFC 9110 §15.2: a proxy must forward them, except those it asked for itself."""
    direct, gateway = (raw.get(door.url + "/early", door.headers) for door in doors)
    assert (gateway.status, gateway.body) == (direct.status, direct.body) == (200, b"late")
    assert [head.split(b"\r\n")[0] for head in gateway.interim] == [b"HTTP/1.1 103 Early Hints"]


def test_trailers_of_a_request_pass(doors: tuple[Door, Door]) -> None:
    seen = []
    for door in doors:
        prefix = door.url.partition("//")[2].partition("/")[2]
        head = [f"POST /{prefix}/echo HTTP/1.1".replace("//", "/", 1), "Host: e2e", "Trailer: X-Sum"]
        head += [f"{name}: {value}" for name, value in door.headers.items()] + ["Transfer-Encoding: chunked", "", ""]
        with raw.Connection(door.url) as connection:
            connection.send("\r\n".join(head).encode() + b"3;ext=1\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n")
            answer = connection.read().json()
        seen.append((answer["length"], answer["sha256"], answer["trailers"]))
    assert seen[0] == seen[1]
    assert seen[1][2] == [["X-Sum", "3"]]


def _worker(stack: Stack) -> psutil.Process:
    [pid] = stack.gateway_workers()
    return psutil.Process(pid)


def _reset_peak(process: psutil.Process) -> int:
    """Forget the process's highest memory use so far; returns what it uses now, in bytes."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return int(process.memory_info().rss)


def _peak(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


async def test_a_gibibyte_either_way_fits_in_32_mib(
    through: Through, stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    door, worker = through("/c"), _worker(stack)
    await _download(door, "/body?bytes=1000")
    before = _reset_peak(worker)
    length, _ = await _download(door, f"/body?bytes={_1_GIB}")
    assert length == _1_GIB
    down = _peak(worker) - before
    assert await _upload(door, _1_GIB, chunked=True) == (_1_GIB, pattern_digest(_1_GIB))
    up = _peak(worker) - before
    with capsys.disabled():
        print(f"\n  1 GiB grew the worker by {down / 2**20:.1f} MiB (download), {up / 2**20:.1f} MiB (upload)")
    assert max(down, up) < _MOST_GROWTH


def _when_it_stands_still(read: Callable[[], int], quiet_s: float = 0.3) -> int:
    """The value of a counter once it has not moved for `quiet_s`. Standing still is what is observed here."""
    value, since = read(), time.monotonic()
    while value == 0 or time.monotonic() - since < quiet_s:
        time.sleep(0.02)
        if (now := read()) != value:
            value, since = now, time.monotonic()
    return value


def test_a_client_that_does_not_read_stops_the_origin(
    through: Through, stack: Stack, origins: Origins, request_id: str
) -> None:
    door, worker = through("/c"), _worker(stack)
    before = _reset_peak(worker)
    with raw.Connection(door.url, receive_buffer=65_536) as connection:
        head = f"GET /c/body?bytes={_1_GIB}&id={request_id} HTTP/1.1\r\nHost: e2e\r\n"
        connection.send((head + "".join(f"{n}: {v}\r\n" for n, v in door.headers.items()) + "\r\n").encode())
        sent = _when_it_stands_still(lambda: origins.counting.sent(request_id))
    assert 0 < sent < _IN_SOCKET_BUFFERS
    assert _peak(worker) - before < _MOST_GROWTH


def test_an_origin_that_does_not_read_stops_the_client(
    through: Through, stack: Stack, origins: Origins, request_id: str
) -> None:
    door, worker = through("/c"), _worker(stack)
    before = _reset_peak(worker)
    body = bytes(4 * _64_MIB)
    with raw.Connection(door.url) as connection:
        head = f"PUT /c/unread?gate={request_id} HTTP/1.1\r\nHost: e2e\r\nContent-Length: {len(body)}\r\n"
        connection.send((head + "".join(f"{n}: {v}\r\n" for n, v in door.headers.items()) + "\r\n").encode())
        sent = connection.send_what_fits(body, patience_s=0.5)
        assert 0 < sent < _IN_SOCKET_BUFFERS
        assert _peak(worker) - before < _MOST_GROWTH
        origins.counting.open_gate(request_id)
        connection.send(body[sent:])
        answer = connection.read().json()
    assert (answer["length"], answer["sha256"]) == (len(body), sha256(body).hexdigest())
