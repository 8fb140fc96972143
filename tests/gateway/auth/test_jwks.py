"""An issuer's keys: fetched within bounds, kept, refreshed, used on while it is away. The clock is the test's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from aiohttp import web

from gateway.auth.jwks import (
    FRESH_S,
    FRESH_UNLESS_SAID_S,
    MAX_DOCUMENT_BYTES,
    STALE_S,
    Fetched,
    Fetcher,
    KeySource,
    Unreachable,
    fresh_for_s,
)
from tests.support.issuer import Answer, KeySetServer, SigningKey, key_set, signing_key

FRESH = 1000.0
OLD, NEW = signing_key("ES256", "old"), signing_key("ES256", "new", number=1)


# -- how long an answer is fresh


@pytest.mark.parametrize(
    ("cache_control", "age", "fresh_s"),
    [
        (None, None, FRESH_UNLESS_SAID_S),
        ("public", None, FRESH_UNLESS_SAID_S),
        ("max-age=900", None, 900),
        ("public, MAX-AGE=900, must-revalidate", None, 900),
        ('max-age="900"', None, 900),
        ("s-maxage=9000, max-age=900", None, 900),
        ("s-maxage=9000", None, FRESH_UNLESS_SAID_S),
        ("max-age=900", "300", 600),
        ("max-age=900", "nonsense", 900),
        ("max-age=900", "9" * 400, FRESH_S[0]),
        ("max-age=0", None, FRESH_S[0]),
        ("max-age=1", None, FRESH_S[0]),
        ("no-cache, max-age=900", None, FRESH_S[0]),
        ("no-store", None, FRESH_S[0]),
        ("max-age=99999999", None, FRESH_S[1]),
        ("max-age=" + "9" * 300, None, FRESH_S[1]),
        ("max-age=-5", None, FRESH_UNLESS_SAID_S),
    ],
)
def test_an_answer_is_fresh_for_as_long_as_it_says_within_bounds(
    cache_control: str | None, age: str | None, fresh_s: float
) -> None:
    assert fresh_for_s(cache_control, age) == fresh_s


# -- fetching


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    one = Fetcher(timeout_s=0.5)
    yield one
    await one.close()


@pytest.fixture
async def server() -> AsyncIterator[KeySetServer]:
    async with KeySetServer(OLD) as one:
        yield one


async def _refused(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(Unreachable) as caught:
        await fetcher.fetch(url)
    return str(caught.value)


async def test_a_key_set_is_fetched_with_its_freshness(fetcher: Fetcher, server: KeySetServer) -> None:
    server.headers = {"Cache-Control": "max-age=1234", "Set-Cookie": "a=b"}
    assert await fetcher.fetch(server.url) == (key_set(OLD), 1234)


async def test_a_query_in_the_url_is_sent(fetcher: Fetcher, server: KeySetServer) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.raw_path)

    server.answer = answer
    fetched = await fetcher.fetch(f"{server.origin}/keys?p=b2c_1&x=1")
    assert fetched.document == b"/keys?p=b2c_1&x=1"


def _redirect_to(location: str | None) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/keys":
            return web.Response(body=key_set(OLD))
        return web.Response(status=302, headers={} if location is None else {"Location": location})

    return answer


async def test_a_redirect_on_the_same_host_is_followed(fetcher: Fetcher, server: KeySetServer) -> None:
    for location in ("/keys", "keys", f"{server.origin}/keys"):
        server.answer = _redirect_to(location)
        assert (await fetcher.fetch(server.url)).document == key_set(OLD)


async def test_a_redirect_to_another_host_is_not(fetcher: Fetcher, server: KeySetServer) -> None:
    async with KeySetServer(NEW) as other:
        for location in (
            other.url,
            f"//127.0.0.1:{other.port}/keys",
            f"http://localhost:{server.port}/keys",
            f"https://127.0.0.1:{server.port}/keys",
            f"http://user@127.0.0.1:{server.port}/keys",
            "file:///etc/passwd",
        ):
            server.answer = _redirect_to(location)
            assert await _refused(fetcher, server.url) == "redirected to another host"
        assert other.asked == 0
    server.answer = _redirect_to(None)
    assert await _refused(fetcher, server.url) == "redirected to nowhere"


async def test_redirects_in_a_circle_end(fetcher: Fetcher, server: KeySetServer) -> None:
    server.answer = _redirect_to("/jwks.json")
    assert await _refused(fetcher, server.url) == "redirected more than 3 times"
    assert server.asked == 4


async def test_an_endless_answer_is_cut_off(fetcher: Fetcher, server: KeySetServer) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)
            sent += 65_536

    server.answer = answer
    assert await _refused(fetcher, server.url) == f"answered with more than {MAX_DOCUMENT_BYTES} bytes"
    assert sent < 16 * 2**20


async def test_the_largest_answer_is_read(fetcher: Fetcher, server: KeySetServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * MAX_DOCUMENT_BYTES)

    server.answer = answer
    assert len((await fetcher.fetch(server.url)).document) == MAX_DOCUMENT_BYTES


async def test_a_compressed_answer_is_refused(fetcher: Fetcher, server: KeySetServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    server.answer = answer
    assert await _refused(fetcher, server.url) == "answered with a content coding that was not asked for"


@pytest.mark.parametrize("status", [204, 304, 401, 404, 500, 503])
async def test_any_status_but_200_is_a_failure(fetcher: Fetcher, server: KeySetServer, status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    server.answer = answer
    assert await _refused(fetcher, server.url) == f"answered with status {status}"


async def test_an_issuer_that_hangs_is_given_up(fetcher: Fetcher, server: KeySetServer) -> None:
    async def before_the_head(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async def inside_the_body(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # a byte now and then, so that no silence is ever long
            await response.write(b" ")
            await asyncio.sleep(0.01)

    for answer in (before_the_head, inside_the_body):
        server.answer = answer
        assert await _refused(fetcher, server.url) == "did not answer in time"


async def test_an_issuer_that_is_gone_or_speaks_no_http_is_a_failure(fetcher: Fetcher, server: KeySetServer) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-nonsense\r\n\r\n")
        writer.close()

    babbler = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with babbler:
        port = babbler.sockets[0].getsockname()[1]
        assert (await _refused(fetcher, f"http://127.0.0.1:{port}/")).startswith("broke off its answer")
        assert (await _refused(fetcher, f"https://127.0.0.1:{port}/")) == "has no certificate that is trusted here"
    await server.stop()
    assert (await _refused(fetcher, server.url)).startswith("cannot be connected to")


# -- keeping


class Issuer:
    """An issuer made of variables: what it publishes, whether it is there, and a clock."""

    def __init__(self, *keys: SigningKey) -> None:
        self.now = 5_000.0
        self.keys = keys
        self.is_there = True
        self.asked = 0
        self.losses = 0
        self.failures = 0
        self.gate: asyncio.Event | None = None
        self.document: bytes | None = None
        self.fetches: set[asyncio.Task[None]] = set()
        self.source = KeySource(
            "issuer idp", "http://127.0.0.1/", self._fetch, lambda: self.now, self.fetches,
            on_loss=self._lost, on_failure=self._failed,
        )  # fmt: skip

    def _lost(self) -> None:
        self.losses += 1

    def _failed(self) -> None:
        self.failures += 1

    async def _fetch(self, url: str) -> Fetched:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if not self.is_there:
            raise Unreachable("answered with status 500")
        return Fetched(key_set(*self.keys) if self.document is None else self.document, FRESH)

    def has(self, key: SigningKey) -> bool:
        return self.source.is_usable and self.source.find(key.key_id, key.algorithm) is not None

    async def sweep(self) -> None:
        """What the gateway does once a second."""
        if self.source.is_due:
            await self.source.refreshed()


async def test_keys_are_fetched_once_for_all_who_wait() -> None:
    idp = Issuer(OLD)
    idp.gate = asyncio.Event()
    assert not idp.source.is_usable
    waiting = [asyncio.ensure_future(idp.source.refreshed()) for _ in range(50)]
    await asyncio.sleep(0)
    assert len(idp.fetches) == 1
    idp.gate.set()
    await asyncio.gather(*waiting)
    assert idp.asked == 1
    assert idp.has(OLD)
    assert not idp.fetches


async def test_who_stops_waiting_does_not_break_off_the_fetch() -> None:
    idp = Issuer(OLD)
    idp.gate = asyncio.Event()
    impatient, patient = (asyncio.ensure_future(idp.source.refreshed()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    idp.gate.set()
    await patient
    assert idp.has(OLD)
    assert idp.asked == 1


async def test_keys_are_fetched_again_before_they_are_stale() -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.now += FRESH * 0.8 - 1
    await idp.sweep()
    assert idp.asked == 1
    idp.now += 1
    await idp.sweep()
    assert idp.asked == 2
    assert not idp.source.is_stale


async def test_rotation_a_new_key_comes_and_an_old_one_goes() -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.keys = (OLD, NEW)
    idp.now += FRESH
    await idp.sweep()
    assert idp.has(OLD)
    assert idp.has(NEW)
    assert (idp.source.version, idp.losses) == (0, 0)
    idp.keys = (NEW,)
    idp.now += FRESH
    await idp.sweep()
    assert not idp.has(OLD)
    assert idp.has(NEW)
    assert (idp.source.version, idp.losses) == (1, 1)


async def test_another_key_under_the_same_id_is_a_loss_too() -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.keys = (signing_key("ES256", "old", number=1),)
    idp.now += FRESH
    await idp.sweep()
    assert idp.losses == 1


async def test_an_issuer_that_publishes_no_key_any_more_is_taken_at_its_word(caplog: pytest.LogCaptureFixture) -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.keys = ()
    idp.now += FRESH
    await idp.sweep()
    assert idp.source.is_usable
    assert not idp.has(OLD)
    assert idp.losses == 1
    assert "publishes no key" in caplog.text


async def test_unknown_keys_cause_one_fetch_in_30_seconds() -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    assert not idp.source.may_look_again
    idp.now += 29.9
    assert not idp.source.may_look_again
    idp.now += 0.1
    assert idp.source.may_look_again
    await idp.source.refreshed()
    assert not idp.source.may_look_again
    assert idp.asked == 2


async def test_while_the_issuer_is_away_its_last_keys_are_used(caplog: pytest.LogCaptureFixture) -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.is_there = False
    asked = []
    for _ in range(2000):
        idp.now += 1
        before = idp.asked
        await idp.sweep()
        if idp.asked > before:
            asked.append(idp.now - 5000)
    assert idp.has(OLD)
    assert idp.source.is_stale
    assert asked[:8] == [800, 801, 803, 807, 815, 831, 863, 923], "after 1 s, doubling to 60 s"
    assert {later - earlier for earlier, later in pairwise(asked[7:])} == {60}
    assert idp.failures == len(asked)
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines == ["issuer idp is down: answered with status 500"], "one line, however often it is tried"
    idp.is_there = True
    idp.now += 60
    await idp.sweep()
    assert not idp.source.is_stale
    assert not idp.source.is_away


async def test_keys_are_not_used_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.is_there = False
    idp.now += FRESH + STALE_S - 1
    await idp.sweep()
    assert idp.has(OLD)
    idp.now += 1
    assert not idp.source.is_usable, "also before the next try has failed"
    idp.now += 60
    await idp.sweep()
    assert not idp.has(OLD)
    assert (idp.source.version, idp.losses) == (1, 1)
    assert "no longer used" in caplog.text


@pytest.mark.parametrize("document", [b"", b"<html>", b'{"keys": 1}', b"{}", b"\xff"])
async def test_garbage_does_not_replace_keys(document: bytes) -> None:
    idp = Issuer(OLD)
    await idp.sweep()
    idp.document = document
    idp.now += FRESH
    await idp.sweep()
    assert idp.has(OLD)
    assert idp.source.is_away
    assert idp.failures == 1


async def test_without_any_keys_a_failure_is_not_repeated_by_every_token() -> None:
    idp = Issuer(OLD)
    idp.is_there = False
    assert idp.source.may_try
    await idp.source.refreshed()
    assert not idp.source.may_try
    idp.now += 1
    assert idp.source.may_try


async def test_a_fault_of_our_own_is_a_failure_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    idp = Issuer(OLD)

    async def broken(_: str) -> Fetched:
        raise RuntimeError("a fault")

    idp.source._fetch = broken
    await idp.source.refreshed()
    assert idp.source.is_away
    assert "failed inside" in caplog.text
