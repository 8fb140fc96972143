"""Many who miss the same at once, answers that are told although stale, and what is asked for only if it is kept."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable

import pytest

from gateway import cached
from gateway.proxy.cache import RouteCache
from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.wire import Answer, ask, drop, ok, read_answer, read_request, request
from tests.support.gateway import Books, Catalogue, until
from tests.support.raw import Peer

PUBLIC = b"Cache-Control: public, max-age=60"


class Slow:
    """An upstream that answers each request when it is told to, with a number and these fields."""

    def __init__(self, *fields: bytes) -> None:
        self.fields = fields
        self.asked: list[bytes] = []
        self.waiting: list[Peer] = []
        self.status = b"200 OK"

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                self.asked.append(await read_request(peer))
                self.waiting.append(peer)
        except (EOFError, TimeoutError, ConnectionError):
            pass

    async def answer(self, at: int = 0) -> None:
        await until(lambda: len(self.waiting) > at)
        await self.waiting.pop(at).send(self.next())

    def next(self) -> bytes:
        return ok(b"answer %d" % len(self.asked), *self.fields, status=self.status)


class Quick(Slow):
    """The same, at once. `is_ill`: it hangs up instead."""

    is_ill = False

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                self.asked.append(await read_request(peer))
                if self.is_ill:
                    return
                await peer.send(self.next())
        except (EOFError, TimeoutError, ConnectionError):
            pass


def cache_of(s: Stage) -> RouteCache:
    cache: RouteCache = s.inside.gateway.snapshot.table.by_id[s.route_id].cache
    return cache


async def asking(s: Stage, *lines: str, target: str = "/api/x", method: str = "GET") -> asyncio.Task[Answer]:
    """A request that has come as far as it can."""
    client = await s.client()
    before = sum(c.is_busy for c in s.inside.door.connections)
    task = asyncio.create_task(ask(client, request(target, s.key, *lines, method=method)))
    await until(lambda: sum(c.is_busy for c in s.inside.door.connections) > before)
    return task


async def settled_waiting(s: Stage, count: int) -> None:
    """Wait until so many wait for a flight."""

    def waiting() -> int:
        cache = s.inside.gateway.snapshot.table.by_id[s.route_id].cache  # made at first use
        by_key = cache.flights._flights.values() if cache is not None else ()
        return sum(len(flight._waiting) for flights in by_key for flight in flights.values())

    await until(lambda: waiting() == count)


async def answers(*tasks: Awaitable[Answer]) -> list[Answer]:
    return list(await asyncio.gather(*tasks))


def age(s: Stage, seconds: float) -> None:
    """Make all that is kept older."""
    for entries in cache_of(s)._entries.values():
        for entry in entries:
            entry.born_at -= seconds


# -- one fetches for all


async def test_of_many_who_miss_the_same_one_fetches(stage: MakeStage, books: Books) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {}}, tier={"quotas": {"requests": 99}})
    tasks = [await asking(s) for _ in range(8)]
    head = await asking(s, method="HEAD")
    conditional = await asking(s, 'If-None-Match: "other"')
    await settled_waiting(s, 9)
    await up.answer()
    for answer in await answers(*tasks, conditional):
        assert answer.body == b"answer 1"
    assert (await head).headers["content-length"] == "8"
    assert len(up.asked) == 1
    status = [answer.headers["cache-status"] for answer in await answers(*tasks)]
    assert status == ["tollgate; fwd=miss; stored"] + ["tollgate; fwd=miss; ttl=60; collapsed"] * 7
    await s.inside.settled()
    assert await books.quotas() == {"requests": 10}
    assert [event.get("notes") for event in await books.events()].count({"cache": "hit"}) == 9
    assert s.inside.gateway.metrics.counts["cache_collapsed_total"] == 9
    assert cache_of(s).flights._flights == {}


@pytest.mark.parametrize(
    "fields",
    [(b"Cache-Control: private, max-age=60",), (b"Cache-Control: public, max-age=0", b'ETag: "1"'), ()],
    ids=["private", "never fresh", "nothing said"],
)
async def test_an_answer_that_is_not_for_others_lets_them_all_go(stage: MakeStage, fields: tuple[bytes, ...]) -> None:
    up = Slow(*fields)
    s = await stage(up, route={"cache": {}})
    tasks = [await asking(s) for _ in range(4)]
    await settled_waiting(s, 3)
    await up.answer()
    await until(lambda: len(up.waiting) == 3)  # all at once, none after the other
    tasks += [await asking(s), await asking(s)]
    await until(lambda: len(up.waiting) == 5)  # nor do those who come later wait for one another
    for _ in range(5):
        await up.answer()
    assert len({answer.body for answer in await answers(*tasks)}) > 1
    assert len(up.asked) == 6


@pytest.mark.parametrize("who", ["Authorization: Basic dTpw", "Cookie: a=b"])
async def test_what_one_who_says_who_they_are_is_told_is_nobody_elses(
    stage: MakeStage, catalogue: Catalogue, who: str
) -> None:
    """A lifetime alone lets an answer be shared that was asked for without any (RFC 9111 §3.5), and no other."""
    up = Slow(b"Cache-Control: max-age=60")
    s = await stage(up, route={"auth": "none", "cache": {}})
    named = asyncio.create_task(ask(await s.client(), request("/api/x", None, who)))
    await until(lambda: up.waiting)
    others = [asyncio.create_task(ask(await s.client(), request("/api/x", None))) for _ in range(2)]
    await settled_waiting(s, 2)
    await up.answer()
    assert (await named).body == b"answer 1"
    await until(lambda: len(up.waiting) == 2)
    await up.answer()
    await up.answer()
    assert b"answer 1" not in {answer.body for answer in await answers(*others)}
    assert (await ask(await s.client(), request("/api/x", None))).headers["cache-status"].startswith("tollgate; hit")


async def test_answers_that_vary_are_fetched_side_by_side_once_that_is_known(stage: MakeStage) -> None:
    up = Slow(PUBLIC, b"Vary: Accept")
    s = await stage(up, route={"cache": {}})
    first = await asking(s, "Accept: a")
    second = await asking(s, "Accept: b")
    await settled_waiting(s, 1)
    await up.answer()
    assert (await first).body == b"answer 1"
    await up.answer()  # it was not for the second, which asks now
    assert (await second).body == b"answer 2"
    tasks = [await asking(s, f"Accept: {kind}") for kind in ("c", "c", "d", "d")]
    await until(lambda: len(up.waiting) == 2)
    await settled_waiting(s, 2)
    await up.answer()
    await up.answer()
    bodies = [answer.body for answer in await answers(*tasks)]
    assert (bodies[0] == bodies[1], bodies[2] == bodies[3], len(up.asked)) == (True, True, 4)


@pytest.mark.parametrize("line", ["Cache-Control: no-cache", "Cache-Control: max-age=0", "Range: bytes=0-1"])
async def test_who_wants_an_answer_of_its_own_does_not_wait(stage: MakeStage, line: str) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {}})
    tasks = [await asking(s), await asking(s, line)]
    await until(lambda: len(up.waiting) == 2)
    await up.answer()
    await up.answer()
    assert {answer.status for answer in await answers(*tasks)} == {200}


@pytest.mark.parametrize("how", ["client gone", "upstream gone", "an error", "in the middle"])
async def test_a_fetch_that_dies_is_taken_over_by_one(stage: MakeStage, how: str) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {}, "retries": 0})
    leader = await s.client()
    await leader.send(request("/api/x", s.key))
    await until(lambda: up.waiting)
    tasks = [await asking(s) for _ in range(4)]
    await settled_waiting(s, 4)
    if how == "client gone":
        drop(leader)
    elif how == "upstream gone":
        await up.waiting[0].close()
    elif how == "an error":
        await up.waiting[0].send(ok(b"oops", status=b"503 Oops"))
        assert (await read_answer(leader)).status == 503
    else:
        await up.waiting[0].send(ok(b"0123456789", PUBLIC)[:-5])
        await leader.read_until(b"01234")
        drop(leader)
    up.waiting.pop(0)
    await settled_waiting(s, 3)  # one of them fetches
    await up.answer()
    assert {answer.body for answer in await answers(*tasks)} == {b"answer 2"}
    assert len(up.asked) == 2


async def test_who_has_waited_long_enough_asks_for_itself(stage: MakeStage) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {"wait_ms": 50}})
    tasks = [await asking(s), await asking(s)]
    await until(lambda: len(up.waiting) == 2)
    await up.answer(1)
    await up.answer()
    assert {answer.status for answer in await answers(*tasks)} == {200}


async def test_nobody_waits_where_that_is_not_wanted(stage: MakeStage) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {"wait_ms": 0}})
    tasks = [await asking(s), await asking(s)]
    await until(lambda: len(up.waiting) == 2)
    await up.answer()
    await up.answer()
    await answers(*tasks)


async def test_who_leaves_while_waiting_leaves_nothing(stage: MakeStage, books: Books) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {}}, tier={"quotas": {"requests": 9}})
    task, gone = await asking(s), await s.client()
    await gone.send(request("/api/x", s.key))
    await settled_waiting(s, 1)
    drop(gone)
    await until(lambda: sum(c.is_busy for c in s.inside.door.connections) == 1)
    await up.answer()
    assert (await task).status == 200
    await s.inside.settled()
    assert await books.reservations() == []
    assert [event["outcome"] for event in await books.events()] == ["client_gone", "completed"]
    assert await books.quotas() == {"requests": 1}  # nothing was sent for who left


async def test_an_answer_that_is_too_large_to_keep_keeps_nobody(stage: MakeStage) -> None:
    async def large(peer: Peer) -> None:
        await read_request(peer)
        lines = b"HTTP/1.1 200 OK\r\n" + PUBLIC + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        await peer.send(lines + b"800\r\n" + b"x" * 2048 + b"\r\n")
        await peer.read_to_end()

    s = await stage(large, route={"cache": {"max_entry_bytes": 1024}})
    for _ in range(3):
        client = await s.client()
        await client.send(request("/api/x", s.key))
        await client.read_until(b"x" * 2048)


async def test_what_was_fetched_before_a_change_is_not_kept(stage: MakeStage) -> None:
    up = Slow(PUBLIC)
    s = await stage(up, route={"cache": {}})
    old = await asking(s)
    change = await asking(s, method="POST")
    await up.answer(1)
    assert (await change).status == 200
    await up.answer()
    assert (await old).status == 200
    new = await asking(s)
    await up.answer()
    assert (await new).body == b"answer 3"


# -- only if it is kept


async def test_only_if_it_is_kept(stage: MakeStage, books: Books, caplog: pytest.LogCaptureFixture) -> None:
    up = Quick(PUBLIC)
    s = await stage(up, route={"cache": {}}, tier={"quotas": {"requests": 9}})
    client = await s.client()
    only = request("/api/x", s.key, "Cache-Control: only-if-cached")
    answer = await ask(client, only)
    assert (answer.status, answer.json()["code"]) == (504, "not_kept")
    await s.inside.settled()
    assert await books.quotas() == {"requests": 0}
    assert (await ask(client, request("/api/x", s.key))).status == 200
    assert (await ask(client, only)).body == b"answer 1"
    age(s, 61)
    assert (await ask(client, only)).status == 504
    assert len(up.asked) == 1
    assert "not_kept" not in caplog.text


# -- told although it is stale (RFC 5861)


STALE = b"Cache-Control: public, max-age=10, stale-while-revalidate=30, stale-if-error=100"


async def test_a_stale_answer_is_told_while_one_renews_it(stage: MakeStage, books: Books) -> None:
    up = Quick(STALE, b'ETag: "1"')
    s = await stage(up, route={"cache": {}}, tier={"quotas": {"requests": 99}})
    client = await s.client()
    await ask(client, request("/api/x", s.key))
    age(s, 15)
    told = await ask(client, request("/api/x", s.key))
    assert (told.body, told.headers["cache-status"], told.headers["age"]) == (
        b"answer 1",
        "tollgate; hit; ttl=-5",
        "15",
    )
    await until(lambda: len(up.asked) == 2 and not cache_of(s).flights._flights)
    assert b'If-None-Match: "1"' in up.asked[1]
    renewed = await ask(client, request("/api/x", s.key))
    assert (renewed.body, renewed.headers["age"], len(up.asked)) == (b"answer 2", "0", 2)
    await s.inside.settled()
    assert await books.quotas() == {"requests": 3}  # what was fetched for nobody costs nobody anything
    assert len(await books.events()) == 3
    assert s.inside.gateway.metrics.counts["cache_stale_total"] == 1


async def test_only_one_renews_it(stage: MakeStage) -> None:
    up = Slow(STALE)
    s = await stage(up, route={"cache": {}})
    first = await asking(s)
    await up.answer()
    await first
    age(s, 15)
    client = await s.client()
    for _ in range(5):
        assert (await ask(client, request("/api/x", s.key))).body == b"answer 1"
    await until(lambda: up.waiting)
    assert len(up.asked) == 2
    await up.answer()
    await until(lambda: not cache_of(s).flights._flights)
    assert (await ask(client, request("/api/x", s.key))).body == b"answer 2"


@pytest.mark.parametrize("how", ["gone", "an error", "not to be kept any more", "silent"])
async def test_what_cannot_be_renewed(stage: MakeStage, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "_UNATTENDED_S", 0.1)
    up = Slow(STALE)
    s = await stage(up, route={"cache": {}, "retries": 0})
    first = await asking(s)
    await up.answer()
    await first
    age(s, 15)
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).body == b"answer 1"
    await until(lambda: up.waiting)
    if how == "gone":
        await up.waiting[0].close()
    elif how == "an error":
        await up.waiting[0].send(ok(b"oops", status=b"500 Oops"))
    elif how == "not to be kept any more":
        await up.waiting[0].send(ok(b"mine", b"Cache-Control: private"))
    up.waiting.clear()
    await until(lambda: not cache_of(s).flights._flights)
    if how == "not to be kept any more":
        assert cache_of(s)._entries == {}
    else:
        assert (await ask(client, request("/api/x", s.key))).body == b"answer 1"


@pytest.mark.parametrize(("age_s", "asks"), [(5, False), (39, False), (41, True)])
async def test_no_longer_than_the_upstream_says(stage: MakeStage, age_s: int, asks: bool) -> None:
    up = Quick(STALE)
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    await ask(client, request("/api/x", s.key))
    age(s, age_s)
    assert (await ask(client, request("/api/x", s.key))).body == (b"answer 2" if asks else b"answer 1")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (STALE + b", must-revalidate", "A: b"),
        (STALE + b", proxy-revalidate", "A: b"),
        (STALE, "Cache-Control: no-cache"),
        (STALE, "Cache-Control: max-age=5"),
        (STALE, "Cache-Control: min-fresh=1"),
    ],
)
async def test_who_does_not_want_it_stale_does_not_get_it(stage: MakeStage, said: bytes, wanted: str) -> None:
    up = Quick(said)
    s = await stage(up, route={"cache": {}, "retries": 0})
    client = await s.client()
    await ask(client, request("/api/x", s.key))
    age(s, 15)
    assert (await ask(client, request("/api/x", s.key, wanted))).body == b"answer 2"
    age(s, 15)
    up.is_ill = True
    assert (await ask(client, request("/api/x", s.key, wanted))).status == 502


@pytest.mark.parametrize("how", ["hangs up", "503"])
async def test_a_stale_answer_is_better_than_none(stage: MakeStage, books: Books, how: str) -> None:
    up = Quick(STALE)
    s = await stage(up, route={"cache": {}, "retries": 0})
    client = await s.client()
    await ask(client, request("/api/x", s.key))
    age(s, 100)
    up.is_ill, up.status = how == "hangs up", b"503 Oops"
    told = await ask(client, request("/api/x", s.key))
    assert (told.status, told.body) == (200, b"answer 1")
    assert told.headers["cache-status"] == "tollgate; hit; ttl=-90; detail=stale-if-error"
    age(s, 20)
    assert (await ask(client, request("/api/x", s.key))).status in (502, 503)
    await s.inside.settled()
    assert [event["outcome"] for event in await books.events()][:2] == ["completed", "completed"]


async def test_each_answer_says_where_it_came_from(stage: MakeStage) -> None:
    up = Quick(PUBLIC, b"Server: x")
    s = await stage(up, route={"cache": {}, "response_headers": {"remove": ["Server"]}})
    client = await s.client()

    async def said(*lines: str, method: str = "GET") -> str:
        answer = await ask(client, request("/api/x", s.key, *lines, method=method))
        assert "server" not in answer.headers
        return answer.headers["cache-status"].removeprefix("tollgate; ")

    assert await said() == "fwd=miss; stored"
    assert await said() == "hit; ttl=60"
    assert await said("Cache-Control: no-cache") == "fwd=request; stored"
    assert await said("Range: bytes=0-1") == "fwd=bypass"
    assert await said(method="POST") == "fwd=method"


# -- whatever happens


class Whimsical:
    """An upstream whose answers are for everybody, for one only, stale at once, late, broken or refused; seeded.

    A private answer names whom it is for; a public one counts the changes that were made to its path before it was asked.
    """

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.changes: Counter[bytes] = Counter()

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                head = await read_request(peer)
                method, path, _ = head.split(b"\r\n")[0].split(b" ")
                if method == b"POST":
                    self.changes[path] += 1
                    await peer.send(ok(b"changed"))
                    continue
                count = self.changes[path]
                await asyncio.sleep(self.dice.random() * 0.006)
                mood = self.dice.choice(["public", "public", "private", "etag", "stale", "error", "hang up", "half"])
                who = head.partition(b"X-Who: ")[2].partition(b"\r\n")[0]
                if mood == "hang up":
                    return
                if mood == "error":
                    await peer.send(ok(b"oops", status=b"503 Oops"))
                elif mood == "private":
                    await peer.send(ok(b"private to " + who, b"Cache-Control: private, max-age=60"))
                else:
                    said = {
                        "public": b"Cache-Control: public, max-age=60",
                        "half": b"Cache-Control: public, max-age=60",
                        "etag": b"Cache-Control: public, max-age=0",
                        "stale": b"Cache-Control: public, max-age=1, stale-while-revalidate=60, stale-if-error=60",
                    }[mood]
                    answer = ok(b"public after %d" % count, said, b'ETag: "%d"' % count)
                    await peer.send(answer[:-3] if mood == "half" else answer)
                    if mood == "half":
                        return
        except (EOFError, TimeoutError, ConnectionError):
            pass


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_nobody_is_told_what_is_not_for_them(stage: MakeStage, books: Books, seed: int) -> None:
    dice = random.Random(seed)
    up = Whimsical(dice)
    s = await stage(up, route={"cache": {"wait_ms": 30}, "retries": 0}, tier={"quotas": {"requests": None}})
    seen: Counter[str] = Counter()
    done: Counter[str] = Counter()

    async def user(name: str) -> None:
        for _ in range(25):
            path = f"/api/{dice.randrange(3)}"
            line = dice.choice(["A: b", "A: b", "Cache-Control: no-cache", "Cache-Control: only-if-cached"])
            act = dice.choice(["ask"] * 6 + ["leave", "change", "age"])
            client = await s.client()
            try:
                if act == "change":
                    assert (await ask(client, request(path, s.key, method="POST", body=b""))).status == 200
                    done[path] += 1
                elif act == "leave":
                    await client.send(request(path, s.key, f"X-Who: {name}", line))
                    await asyncio.sleep(dice.random() * 0.004)
                elif act == "age":
                    cache = s.inside.gateway.snapshot.table.by_id[s.route_id].cache
                    if cache is not None:
                        age(s, 5)
                else:
                    changes = done[path]
                    answer = await ask(client, request(path, s.key, f"X-Who: {name}", line))
                    told = answer.body.decode()
                    seen[
                        f"{answer.status} {answer.headers.get('cache-status', '').partition(';')[2].split(';')[0]}"
                    ] += 1
                    if answer.status == 200:
                        assert told == f"private to {name}" or told.startswith("public after "), told
                        if told.startswith("public"):  # as it was when it was asked for, or later
                            assert int(told.removeprefix("public after ")) >= changes
            except EOFError:
                seen["broken off"] += 1
            finally:
                drop(client)

    await asyncio.gather(*(user(f"user {n}") for n in range(8)))
    await s.inside.settled()
    await until(lambda: not cache_of(s).flights._flights)
    assert {key.split(" ")[0] for key in seen} <= {"200", "502", "503", "504", "broken"}
    assert seen["200  hit"] + seen["200  fwd=miss"] > 20

    async def nothing_is_held() -> bool:
        return not await books.reservations()

    await until(nothing_is_held)
    gateway = s.inside.gateway
    assert gateway.caches.copied == 0
    used = sum(entry.size for entries in cache_of(s)._entries.values() for entry in entries)
    assert cache_of(s).used == used
