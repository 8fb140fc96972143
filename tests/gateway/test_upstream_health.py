"""Targets that fail, through a whole gateway: ejected, tried again, checked; retries within their budget."""

from __future__ import annotations

from collections import Counter

from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.wire import answering, ask, ok, read_request, request
from tests.support.gateway import Books, Catalogue, until
from tests.support.raw import Peer, Upstream

HELLO = answering(ok(b"hello"))
BUSY = answering(ok(b"busy", status=b"503 Busy"))
DEAD = "http://127.0.0.1:1"


class Moody:
    """An upstream whose answer can be changed; it counts what it is asked for, by path."""

    def __init__(self) -> None:
        self.answer = ok(b"hello")
        self.asked: Counter[bytes] = Counter()

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                head = await read_request(peer)
                self.asked[head.split(b" ")[1]] += 1
                if not self.answer:
                    return
                await peer.send(self.answer)
                if b"Connection: close" in head:
                    return
        except (EOFError, TimeoutError, ConnectionError):
            pass


async def ejection_is_over(s: Stage) -> None:
    """Wait until the stage's target may be tried again."""
    gateway = s.inside.gateway
    [(target, _)] = gateway.snapshot.table.by_id[s.route_id].pools._members
    await until(lambda: gateway.clock.now >= target.health.shut_until)


async def test_an_open_circuit_refuses_then_tries_then_closes(stage: MakeStage, books: Books) -> None:
    up = Moody()
    s = await stage(
        up, route={"upstream_passive_health": {"failures": 3, "eject_ms": 300}}, tier={"quotas": {"requests": 99}}
    )
    client = await s.client()
    up.answer = ok(b"busy", status=b"503 Busy")
    assert [(await ask(client, request(key=s.key))).body for _ in range(3)] == [b"busy"] * 3
    refused = await ask(client, request(key=s.key))
    assert (refused.status, refused.json()["code"], refused.headers["retry-after"]) == (503, "circuit_open", "1")
    assert up.asked[b"/x"] == 3

    assert s.inside.gateway.pools.states() == {"api": [0, 1, 0]}
    await ejection_is_over(s)
    assert (await ask(client, request(key=s.key))).body == b"busy"  # the trial; the next wait is twice as long
    assert (await ask(client, request(key=s.key))).json()["code"] == "circuit_open"
    up.answer = ok(b"hello")
    await ejection_is_over(s)
    assert [(await ask(client, request(key=s.key))).body for _ in range(3)] == [b"hello"] * 3
    await s.inside.settled()
    assert await books.quotas() == {"requests": 7}  # what was refused is given back
    assert s.inside.gateway.pools.tally.ejections == 2


async def test_a_target_that_cannot_be_reached_is_passed_over(stage: MakeStage) -> None:
    up = Moody()
    async with Upstream(up) as good:
        s = await stage(
            HELLO, route={"origins": [DEAD, (good.host, good.port)], "upstream_passive_health": {"failures": 2}}
        )
        client = await s.client()
        answers = [await ask(client, request(key=s.key)) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        assert up.asked[b"/x"] == 20
        assert s.inside.gateway.pools.states() == {"api": [1, 1, 0]}
        assert s.inside.gateway.metrics.counts["retries_total"] == 2  # then it was not asked any more


async def test_without_retries_only_the_first_few_suffer(stage: MakeStage) -> None:
    async with Upstream(HELLO) as good:
        s = await stage(HELLO, route={"origins": [DEAD, (good.host, good.port)], "retries": 0})
        client = await s.client()
        statuses = Counter([(await ask(client, request(key=s.key))).status for _ in range(40)])
    assert statuses == {502: 5, 200: 35}


async def test_a_target_that_fails_every_other_time_is_passed_over(stage: MakeStage) -> None:
    turns = iter(range(1_000))

    async def every_other(peer: Peer) -> None:
        try:
            while True:
                await read_request(peer)
                is_good = next(turns) % 2 == 0
                await peer.send(ok(b"good") if is_good else ok(b"bad", status=b"500 Oops"))
        except (EOFError, TimeoutError, ConnectionError):
            pass

    async with Upstream(every_other) as flaky, Upstream(HELLO) as good:
        health = {"failure_percent": 40, "min_requests": 10, "statuses": ["5xx"]}
        origins = [(flaky.host, flaky.port), (good.host, good.port)]
        s = await stage(HELLO, route={"origins": origins, "upstream_passive_health": health})
        client = await s.client()
        statuses = Counter([(await ask(client, request(key=s.key))).status for _ in range(60)])
        assert statuses == {500: 5, 200: 55}
        assert s.inside.gateway.pools.states() == {"api": [1, 1, 0]}


async def test_silence_and_broken_answers_are_failures(stage: MakeStage) -> None:
    up = Moody()
    s = await stage(up, route={"upstream_passive_health": {"failures": 2}, "read_timeout_ms": 60, "retries": 0})
    client = await s.client()
    up.answer = b""  # hangs up
    assert (await ask(client, request(key=s.key, method="POST"))).status == 502
    up.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"  # and then nothing
    await client.send(request(key=s.key))
    await client.read_to_end()
    assert (await ask(await s.client(), request(key=s.key))).json()["code"] == "circuit_open"


async def test_a_client_that_leaves_is_nobodys_failure(stage: MakeStage) -> None:
    async def silent(peer: Peer) -> None:
        await read_request(peer)
        await peer.read_some()

    s = await stage(silent, route={"upstream_passive_health": {"failures": 1}})
    for turn in range(3):
        client = await s.client()
        await client.send(request(key=s.key))
        await until(lambda seen=turn + 1: len([sent for sent in s.upstream.received if sent]) == seen)
        await client.reset()
        await s.inside.settled()
    assert s.inside.gateway.pools.states() == {"api": [1, 0, 0]}


async def test_the_least_busy_target_is_asked(stage: MakeStage) -> None:
    async def silent(peer: Peer) -> None:
        await read_request(peer)
        await peer.read_some()

    async with Upstream(silent) as slow, Upstream(HELLO) as quick:
        targets = [(slow.host, slow.port), (quick.host, quick.port)]
        s = await stage(HELLO, route={"origins": targets, "upstream_balance": "least_outstanding"})
        for _ in range(2):  # equally idle, they take turns: one of the two gets stuck
            await (await s.client()).send(request(key=s.key))
        await until(lambda: slow.received)
        client = await s.client()
        assert [(await ask(client, request(key=s.key))).body for _ in range(10)] == [b"hello"] * 10
        assert len(slow.received) == 1


async def test_retries_have_a_budget(stage: MakeStage) -> None:
    s = await stage(
        HELLO,
        route={"origins": [DEAD], "retries": 5, "retry_budget": {"percent": 0, "min_per_second": 2}},
    )
    client = await s.client()
    for _ in range(4):
        assert (await ask(client, request(key=s.key))).status == 502
    counts = s.inside.gateway.metrics.counts
    assert counts["retries_total"] in (2, 4)  # a second may have passed meanwhile
    assert counts["retries_refused_total"] >= 2


# -- active checks


CHECKS = {"path": "/up?full=1", "interval_ms": 100, "timeout_ms": 80, "unhealthy": 2, "healthy": 2}


async def test_checks_take_a_target_down_and_up_again(stage: MakeStage, catalogue: Catalogue) -> None:
    up = Moody()
    s = await stage(up, route={"upstream_active_health": CHECKS})
    pools = s.inside.gateway.pools
    await until(lambda: up.asked[b"/up?full=1"] >= 2)  # before any request came
    client = await s.client()
    assert (await ask(client, request(key=s.key))).status == 200

    for answer in (ok(b"", status=b"500 No"), b"", b"nonsense\r\n\r\n", b"HTTP/1.1 "):
        up.answer = answer
        await until(lambda: pools.states() == {"api": [0, 0, 1]})
        refused = await ask(client, request(key=s.key))
        assert (refused.status, refused.json()["code"], refused.headers["retry-after"]) == (503, "circuit_open", "1")
        up.answer = ok(b"hello", status=b"204 No Content") if answer else ok(b"hello")
        await until(lambda: pools.states() == {"api": [1, 0, 0]})
        up.answer = ok(b"hello")
        assert (await ask(client, request(key=s.key))).status == 200
    assert pools.tally.checks_failed >= 8


async def test_a_check_has_a_base_path_and_may_want_another_status(stage: MakeStage, catalogue: Catalogue) -> None:
    up = Moody()
    s = await stage(HELLO, route={"path": "/unused"})
    async with Upstream(up) as target:
        up.answer = ok(b"", status=b"429 Busy")
        checks = {**CHECKS, "statuses": [429]}
        origin = f"http://127.0.0.1:{target.port}/base"
        await catalogue.route("based", "/b/*", [origin], upstream_active_health=checks)
        await until(lambda: up.asked[b"/base/up?full=1"] >= 3)
        assert s.inside.gateway.pools.states() == {"based": [1, 0, 0]}
        await catalogue.pg.execute("DELETE FROM routes WHERE name = 'based'")
        await s.inside.caught_up(catalogue.pg)
        await until(lambda: s.inside.gateway.pools.states() == {})


async def test_nobody_there_is_a_bad_check(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"origins": [DEAD], "upstream_active_health": CHECKS})
    await until(lambda: s.inside.gateway.pools.states() == {"api": [0, 0, 1]})
    answer = await ask(await s.client(), request(key=s.key))
    assert answer.json()["code"] == "circuit_open"


async def test_a_check_of_an_https_target_speaks_tls(stage: MakeStage) -> None:
    async with Upstream(HELLO) as plain:
        s = await stage(HELLO, route={"origins": [f"https://127.0.0.1:{plain.port}"], "upstream_active_health": CHECKS})
        await until(lambda: s.inside.gateway.pools.states() == {"api": [0, 0, 1]})
