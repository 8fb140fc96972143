"""Kept answers through a whole gateway: what is kept, whom it is told to, and that it is counted all the same."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from tests.gateway.conftest import MakeStage
from tests.gateway.wire import answering, ask, drop, ok, read_answer, read_request, request
from tests.support.gateway import Books, Catalogue, until
from tests.support.raw import Peer

PUBLIC = b"Cache-Control: public, max-age=60"


class Numbered:
    """An upstream that numbers its answers. `fields` are those of the answers, `status` and `chunked` their form."""

    def __init__(self, *fields: bytes) -> None:
        self.fields = fields
        self.requests: list[bytes] = []
        self.status = b"200 OK"
        self.is_chunked = False
        self.body = b""

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                head = await read_request(peer)
                self.requests.append(head)
                etag = next((f.partition(b": ")[2] for f in self.fields if f.startswith(b"ETag")), None)
                if etag is not None and b"If-None-Match: " + etag in head:
                    await peer.send(
                        b"HTTP/1.1 304 Not Modified\r\n" + b"".join(f + b"\r\n" for f in self.fields) + b"\r\n"
                    )
                    continue
                body = self.body or b"answer %d" % len(self.requests)
                if head.startswith(b"HEAD"):
                    await peer.send(ok(body, *self.fields).removesuffix(body))
                elif self.is_chunked:
                    lines = b"".join(f + b"\r\n" for f in self.fields)
                    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                    await peer.send(b"HTTP/1.1 200 OK\r\n" + lines + chunked)
                else:
                    await peer.send(ok(body, *self.fields, status=self.status))
        except (EOFError, TimeoutError, ConnectionError):
            pass


async def test_a_kept_answer_is_told_again_and_counted_again(stage: MakeStage, books: Books) -> None:
    up = Numbered(PUBLIC, b'ETag: "1"', b"Vary: Accept-Encoding", b"X-Own: x")
    s = await stage(
        up,
        route={"cache": {}, "meters": {"requests": 1, "units": 2}},
        tier={"per_minute": 9, "quotas": {"requests": 99}},
    )
    client = await s.client()
    first, second, third = [await ask(client, request("/api/x?a=1", s.key)) for _ in range(3)]
    assert [answer.body for answer in (first, second, third)] == [b"answer 1"] * 3
    assert len(up.requests) == 1
    assert "age" not in first.headers
    assert (second.headers["age"], second.headers["cache-status"].startswith("tollgate; hit; ttl=")) == ("0", True)
    assert (second.headers["content-length"], second.headers["etag"], second.headers["x-own"]) == ("8", '"1"', "x")
    assert [a.headers["x-ratelimit-remaining"] for a in (first, second, third)] == ["8", "7", "6"]
    assert second.headers["x-request-id"] != first.headers["x-request-id"]

    await s.inside.settled()
    events = await books.events()
    assert [event.get("notes") for event in events] == [None, {"cache": "hit"}, {"cache": "hit"}]
    assert all(event["meters"] == {"requests": 1, "units": 2, "bytes_in": 0, "bytes_out": 8} for event in events)
    assert (await books.quotas())["requests"] == 3
    counts = s.inside.gateway.metrics.counts
    assert (counts["cache_hits_total"], counts["cache_misses_total"]) == (2, 1)


async def test_without_a_key_a_lifetime_is_enough_with_one_it_must_be_public(
    stage: MakeStage, catalogue: Catalogue
) -> None:
    up = Numbered(b"Cache-Control: max-age=60")
    s = await stage(up, route={"cache": {}})
    await catalogue.route("open", "/open/*", [(s.upstream.host, s.upstream.port)], auth="none", cache={})
    await s.inside.caught_up(catalogue.pg)
    client = await s.client()

    async def twice(target: str, *lines: str, key: str | None = None) -> int:
        before = len(up.requests)
        for _ in range(2):
            assert (await ask(client, request(target, key, *lines))).status == 200
        return len(up.requests) - before

    assert await twice("/api/x", key=s.key) == 2
    assert await twice("/open/a") == 1
    assert await twice("/open/b", "Authorization: Basic dTpw") == 2
    assert await twice("/open/c", "Cookie: a=b") == 2
    up.fields = (b"Cache-Control: s-maxage=60",)
    assert await twice("/api/y", key=s.key) == 1


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"Cache-Control: public",),
        (b"Cache-Control: public, max-age=0",),
        (b"Cache-Control: public, max-age=60, no-store",),
        (b"Cache-Control: public, max-age=60, private",),
        (b'Cache-Control: public, max-age=60, private="x-own"',),
        (b"Cache-Control: public, max-age=60", b"Cache-Control: no-cache"),
        (b"Cache-Control: public, max-age=60, max-age=0",),
        (b"Cache-Control: public, max-age=abc",),
        (b"Cache-Control: public", b"Expires: 0"),
        (b"Cache-Control: public", b"Expires: Thu, 01 Jan 1970 00:00:00 GMT"),
        (PUBLIC, b"Set-Cookie: a=b"),
        (PUBLIC, b"Vary: *"),
        (PUBLIC, b"Vary: Accept, X-User-Id"),
        (PUBLIC, b"Vary: Authorization"),
        (PUBLIC, b"Age: 60"),
    ],
    ids=lambda fields: b"; ".join(fields).decode() or "nothing",
)
async def test_what_is_not_kept(stage: MakeStage, fields: tuple[bytes, ...]) -> None:
    up = Numbered(*fields)
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    assert [(await ask(client, request(key=s.key))).body for _ in range(2)] == [b"answer 1", b"answer 2"]


@pytest.mark.parametrize(
    ("status", "is_kept"),
    [(b"200 OK", True), (b"404 No", True), (b"301 M", True), (b"500 X", False), (b"302 F", False)],
)
async def test_which_statuses_are_kept(stage: MakeStage, status: bytes, is_kept: bool) -> None:
    up = Numbered(PUBLIC)
    up.status = status
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    answers = [await ask(client, request(key=s.key)) for _ in range(2)]
    assert {answer.status for answer in answers} == {int(status[:3])}
    assert len(up.requests) == (1 if is_kept else 2)


async def test_by_expires_and_by_chunks_too(stage: MakeStage) -> None:
    up = Numbered(b"Cache-Control: public", b"Expires: " + formatdate(time.time() + 60, usegmt=True).encode())
    up.is_chunked = True
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    first, second = [await ask(client, request(key=s.key)) for _ in range(2)]
    assert (b"answer 1" in first.body, second.body) == (True, b"answer 1")
    assert (second.headers["content-length"], len(up.requests)) == ("8", 1)


async def test_what_varies_is_kept_apart(stage: MakeStage) -> None:
    up = Numbered(PUBLIC, b"Vary: Accept-Language, Accept")
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    asked = ["Accept: a", "Accept: b", "Accept: a", "Accept: b", "Accept-Language: a", "X: y"]
    bodies = [(await ask(client, request("/api/x", s.key, line))).body[-1:] for line in asked]
    assert bodies == [b"1", b"2", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "lines", [("/api/x?b", "Host: gateway.test"), ("/api/x", "Host: other.test"), ("/api/y", "Host: gateway.test")]
)
async def test_another_host_path_or_query_is_another_answer(stage: MakeStage, lines: tuple[str, str]) -> None:
    up = Numbered(PUBLIC)
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).body == b"answer 1"
    target, host = lines
    other = f"GET {target} HTTP/1.1\r\n{host}\r\nAuthorization: Bearer {s.key}\r\n\r\n".encode()
    assert (await ask(client, other)).body == b"answer 2"


async def test_a_key_in_the_query_does_not_tell_answers_apart(stage: MakeStage, catalogue: Catalogue) -> None:
    up = Numbered(PUBLIC)
    s = await stage(up, route={"cache": {}, "key_query": "k"})
    other = await catalogue.key("sk")
    client = await s.client()
    bodies = [(await ask(client, request(f"/api/x?a&k={key}"))).body for key in (s.key, other)]
    assert bodies == [b"answer 1"] * 2
    assert (await ask(client, request("/api/x?a&k=wrong"))).status == 401


async def test_who_is_refused_is_not_told_what_is_kept(stage: MakeStage) -> None:
    s = await stage(Numbered(PUBLIC), route={"cache": {}}, tier={"per_minute": 2})
    client = await s.client()
    statuses = [(await ask(client, request("/api/x", key))).status for key in (s.key, None, s.key, s.key)]
    assert statuses == [200, 401, 200, 429]


async def test_a_stale_answer_is_asked_about(stage: MakeStage) -> None:
    up = Numbered(b"Cache-Control: public, max-age=0", b'ETag: "1"')
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    answers = [await ask(client, request(key=s.key)) for _ in range(3)]
    assert [answer.body for answer in answers] == [b"answer 1"] * 3
    assert [b'If-None-Match: "1"' in sent for sent in up.requests] == [False, True, True]
    assert s.inside.gateway.metrics.counts["cache_revalidations_total"] == 2
    up.fields = (b"Cache-Control: public, max-age=60", b'ETag: "2"')
    assert [(await ask(client, request(key=s.key))).body for _ in range(2)] == [b"answer 4"] * 2
    up.fields = (b"Cache-Control: no-store", b'ETag: "2"')
    fresh = await ask(client, request("/api/x", s.key, "Cache-Control: no-cache"))
    assert fresh.body == b"answer 4"  # it was so a moment ago, and is told once more
    assert (await ask(client, request(key=s.key))).body == b"answer 6"


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("Cache-Control: no-cache", True),
        ("Cache-Control: max-age=0", False),
        ("Cache-Control: max-age=5", False),
        ("Cache-Control: min-fresh=61", True),
        ("Cache-Control: no-store", True),
        ("Range: bytes=0-1", True),
        ("A: b", False),
    ],
)
async def test_a_client_may_want_it_fresher(stage: MakeStage, line: str, asks: bool) -> None:
    up = Numbered(PUBLIC)
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    await ask(client, request(key=s.key))
    await ask(client, request("/api/x", s.key, line))
    assert len(up.requests) == 1 + asks


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ('If-None-Match: "1"', 304),
        ('If-None-Match: "0", W/"1"', 304),
        ("If-None-Match: *", 304),
        ('If-None-Match: "2"', 200),
        ("If-Modified-Since: Tue, 15 Nov 2022 12:45:26 GMT", 304),
        ("If-Modified-Since: Tue, 15 Nov 2022 12:45:25 GMT", 200),
        ("If-Modified-Since: yesterday", 200),
    ],
)
async def test_a_client_may_have_it_already(stage: MakeStage, line: str, status: int) -> None:
    up = Numbered(PUBLIC, b'ETag: W/"1"', b"Last-Modified: Tue, 15 Nov 2022 12:45:26 GMT")
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    await ask(client, request(key=s.key))
    answer = await ask(client, request("/api/x", s.key, line))
    assert (answer.status, answer.headers["etag"], len(up.requests)) == (status, 'W/"1"', 1)
    assert (await ask(client, request(key=s.key))).body == b"answer 1"  # the connection is in order


async def test_head_is_answered_from_what_is_kept(stage: MakeStage) -> None:
    up = Numbered(PUBLIC)
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    assert (await ask(client, request(key=s.key, method="HEAD"))).status == 200
    await ask(client, request(key=s.key))
    head = await ask(client, request(key=s.key, method="HEAD"))
    assert (head.body, head.headers["content-length"], len(up.requests)) == (b"", "8", 2)
    assert (await ask(client, request(key=s.key))).body == b"answer 2"


async def test_head_costs_the_same_whether_it_is_kept_or_fetched(stage: MakeStage, books: Books) -> None:
    """An answer without a body owes no figures: neither by the upstream nor by the cache is anything estimated."""
    up = Numbered(PUBLIC, b"Content-Type: application/json")
    up.body = b'{"usage": {"total_tokens": 5}}'
    meters = {"requests": 1, "tokens": {"source": "usage:total", "estimate": 500}}
    s = await stage(up, route={"cache": {}, "meters": meters})
    client = await s.client()
    for method in ("HEAD", "GET", "HEAD", "GET"):
        answer = await ask(client, request(key=s.key, method=method))
        assert answer.headers["content-length"] == str(len(up.body))
    await s.inside.settled()
    events = await books.events()
    assert [event["meters"]["tokens"] for event in events] == [0, 5, 0, 5]
    assert [(event.get("notes") or {}).get("cache") for event in events] == [None, None, "hit", "hit"]


@pytest.mark.parametrize(("status", "forgets"), [(b"200 OK", True), (b"500 X", False)])
async def test_what_is_changed_is_forgotten(stage: MakeStage, status: bytes, forgets: bool) -> None:
    up = Numbered(PUBLIC)
    s = await stage(up, route={"cache": {}})
    client = await s.client()
    await ask(client, request(key=s.key))
    up.status = status
    await ask(client, request(key=s.key, method="POST", body=b"x"))
    up.status = b"200 OK"
    assert (await ask(client, request(key=s.key))).body == (b"answer 3" if forgets else b"answer 1")


async def test_header_rules_and_cors_hold_for_kept_answers(stage: MakeStage) -> None:
    up = Numbered(PUBLIC, b"Server: x", b"Access-Control-Allow-Origin: *")
    up.is_chunked = True
    route = {"cache": {}, "response_headers": {"remove": ["Server"]}, "cors": {"allowed_origins": ["*.example.com"]}}
    s = await stage(up, route=route)
    client = await s.client()
    for origin in ("https://a.example.com", "https://b.example.com", "https://evil.test"):
        answer = await ask(client, request("/api/x", s.key, f"Origin: {origin}"))
        assert answer.headers.get("access-control-allow-origin") == (None if "evil" in origin else origin)
        assert "server" not in answer.headers
    assert len(up.requests) == 1
    assert answer.body == b"answer 1"


async def test_bounds(stage: MakeStage) -> None:
    up = Numbered(PUBLIC)
    up.body = b"x" * 5_000
    s = await stage(up, route={"cache": {"max_bytes": 20_000, "max_entry_bytes": 6_000}})
    client = await s.client()
    for target in ("a", "b", "c", "a", "d"):  # three fit; b was used longest ago
        assert len((await ask(client, request(f"/api/{target}", s.key))).body) == 5_000
    cache = s.inside.gateway.snapshot.table.by_id[s.route_id].cache
    assert cache.used <= 20_000
    assert [key[2] for key in cache._entries] == [b"/api/c", b"/api/a", b"/api/d"]
    up.body = b"x" * 6_001
    for is_chunked in (False, True):
        up.is_chunked = is_chunked
        before = len(up.requests)
        for _ in range(2):
            await ask(client, request("/api/large", s.key))
        assert len(up.requests) == before + 2


async def test_all_caches_together_have_a_bound(stage: MakeStage) -> None:
    up = Numbered(PUBLIC)
    s = await stage(up, route={"cache": {}}, cache_max_bytes=3_000)
    client = await s.client()
    for n in range(5):
        await ask(client, request(f"/api/{n}", s.key))
    assert 0 < s.inside.gateway.caches.used <= 3_000
    assert (await ask(client, request("/api/4", s.key))).headers["cache-status"].startswith("tollgate; hit")


async def test_a_slow_client_gets_it_piece_by_piece_and_may_leave(stage: MakeStage, books: Books) -> None:
    up = Numbered(PUBLIC)
    up.body = b"x" * 16_000_000
    s = await stage(up, route={"cache": {"max_bytes": 40_000_000, "max_entry_bytes": 40_000_000}})
    client = await s.client()
    assert len((await ask(client, request(key=s.key))).body) == 16_000_000
    slow = await s.client()
    await slow.send(request(key=s.key))
    await until(lambda: any(c._write_paused for c in s.inside.door.connections))
    [connection] = [c for c in s.inside.door.connections if c._write_paused]
    assert connection._transport is not None
    assert connection._transport.get_write_buffer_size() < 1_000_000
    answer = await read_answer(slow)
    assert (len(answer.body), len(up.requests)) == (16_000_000, 1)

    gone = await s.client()
    await gone.send(request(key=s.key))
    await until(lambda: any(c._write_paused for c in s.inside.door.connections))
    drop(gone)
    await s.inside.settled()
    assert (await books.events())[-1]["outcome"] == "client_gone"


async def test_what_is_being_copied_has_a_bound_and_is_let_go_of(stage: MakeStage) -> None:
    async def endless(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\n" + PUBLIC + b"\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 2_000)
        await peer.read_some()

    s = await stage(endless, route={"cache": {}}, cache_max_bytes=20_000)
    caches = s.inside.gateway.caches
    clients = [await s.client() for _ in range(5)]
    for turn, client in enumerate(clients):
        await client.send(request(f"/api/{turn}", s.key))
        await client.read_until(b"x" * 2_000)
        assert caches.copied == min(2_000 * (turn + 1), 4_000)  # the third is past a quarter
    for client in clients:
        drop(client)
    await s.inside.settled()
    assert caches.copied == 0


async def test_half_an_answer_is_not_kept(stage: MakeStage) -> None:
    async def breaking(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\n" + PUBLIC + b"\r\nContent-Length: 10\r\n\r\nhalf")

    s = await stage(breaking, route={"cache": {}, "retries": 0})
    for _ in range(2):
        client = await s.client()
        await client.send(request(key=s.key))
        assert (await client.read_to_end()).endswith(b"half")
    assert len(s.upstream.peers) == 2


async def test_routes_without_a_cache_keep_nothing(stage: MakeStage) -> None:
    s = await stage(answering(ok(b"a", PUBLIC)))
    client = await s.client()
    for _ in range(2):
        assert "cache-status" not in (await ask(client, request(key=s.key))).headers
    assert s.inside.gateway.caches.used == 0


async def test_measured_answers_are_measured_when_they_are_told_again(stage: MakeStage, books: Books) -> None:
    up = Numbered(PUBLIC, b"Content-Type: application/json")
    up.body = b'{"usage": {"total_tokens": 7}}'
    meters: dict[str, Any] = {"tokens": {"source": "$.usage.total_tokens", "estimate": 1}}
    s = await stage(up, route={"cache": {}, "meters": meters})
    client = await s.client()
    for _ in range(2):
        await ask(client, request(key=s.key))
    await s.inside.settled()
    events = await books.events()
    assert [(event["meters"]["tokens"], event.get("notes")) for event in events] == [(7, None), (7, {"cache": "hit"})]
    assert len(up.requests) == 1
