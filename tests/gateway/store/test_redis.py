"""The one connection to Redis: order, deadlines, and coming back after every way of being away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest

from gateway.store.redis import LOST, RedisPipe, encode
from tests.gateway.faults import Relay
from tests.support.gateway import until
from tests.support.raw import Peer, Upstream

DEADLINE = 0.1


class Waiter:
    """Notes what it is told, and when."""

    def __init__(self, notes: list[Any] | None = None, name: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._notes, self._name = notes, name
        self.replies: list[Any] = []
        self.timeouts: list[float] = []

    def on_reply(self, reply: Any) -> None:
        self.replies.append(reply)
        if self._notes is not None:
            self._notes.append((self._name, reply))

    def on_timeout(self) -> None:
        self.timeouts.append(self._loop.time() - self._began)

    async def reply(self) -> Any:
        await until(lambda: self.replies)
        return self.replies[0]


@asynccontextmanager
async def opened(url: str, scripts: tuple[str, ...] = (), **options: Any) -> AsyncIterator[RedisPipe]:
    pipe = RedisPipe(url, scripts, **{"deadline": DEADLINE, "dead_after": 1.0, **options})
    pipe.start()
    try:
        yield pipe
    finally:
        await pipe.close()


@asynccontextmanager
async def connected(url: str, scripts: tuple[str, ...] = (), **options: Any) -> AsyncIterator[RedisPipe]:
    async with opened(url, scripts, **options) as pipe:
        await until(lambda: pipe.available)
        yield pipe


async def call(pipe: RedisPipe, *command: Any) -> Any:
    waiter = Waiter()
    pipe.send(encode(command), waiter)
    return await waiter.reply()


class FakeRedis:
    """Reads commands; answers each with `answers[command name]`, or OK; says nothing while `is_mute`."""

    def __init__(self, **answers: bytes) -> None:
        self.answers = {name.encode(): answer for name, answer in answers.items()}
        self.commands: list[list[bytes]] = []
        self.is_mute = False
        self.connections = 0

    async def __call__(self, peer: Peer) -> None:
        self.connections += 1
        reader = hiredis.Reader()
        while True:
            try:
                data = await peer.read_some()
            except TimeoutError:
                continue
            if not data:
                return
            reader.feed(data)
            while command := reader.gets():
                self.commands.append(command)
                if not self.is_mute:
                    try:
                        await peer.send(self.answers.get(command[0], b"+OK\r\n"))
                    except ConnectionError:
                        return


def redis_at(upstream: Upstream, credentials: str = "", path: str = "") -> str:
    return f"redis://{credentials}{upstream.host}:{upstream.port}{path}"


# -- order


async def test_replies_come_in_the_order_of_the_commands(redis_url: str) -> None:
    async with connected(redis_url) as pipe:
        notes: list[Any] = []
        waiters = [Waiter(notes, n) for n in range(2_000)]
        for n, waiter in enumerate(waiters):
            pipe.send(encode(("INCR", "n") if n % 2 else ("ECHO", str(n))), waiter)
        await until(lambda: len(notes) == 2_000)
        assert notes == [(n, n // 2 + 1 if n % 2 else b"%d" % n) for n in range(2_000)]


async def test_the_commands_of_one_turn_leave_in_one_write() -> None:
    pieces: list[bytes] = []

    async def server(peer: Peer) -> None:
        await peer.read_until(b"PING\r\n")
        await peer.send(b"+PONG\r\n")
        pieces.append(await peer.read_some())
        await peer.send(b":1\r\n" * 50)
        await peer.read_to_end()

    async with Upstream(server) as upstream, connected(redis_at(upstream)) as pipe:
        waiters = [Waiter() for _ in range(50)]
        for waiter in waiters:
            pipe.send(encode(("INCR", "n")), waiter)
        await until(lambda: waiters[-1].replies)
        assert pieces == [encode(("INCR", "n")) * 50]


async def test_a_waiter_may_send_from_its_reply(redis_url: str) -> None:
    async with connected(redis_url) as pipe:
        second = Waiter()

        class First(Waiter):
            def on_reply(self, reply: Any) -> None:
                pipe.send(encode(("ECHO", "second")), second)

        pipe.send(encode(("ECHO", "first")), First())
        assert await second.reply() == b"second"


async def test_an_error_is_a_reply_like_any_other(redis_url: str) -> None:
    async with connected(redis_url) as pipe:
        before, wrong, after = Waiter(), Waiter(), Waiter()
        for command, waiter in ((("SET", "k", "v"), before), (("LPOP", "k"), wrong), (("GET", "k"), after)):
            pipe.send(encode(command), waiter)
        assert await after.reply() == b"v"
        assert isinstance(wrong.replies[0], hiredis.ReplyError)
        assert "WRONGTYPE" in str(wrong.replies[0])
        assert pipe.available
        assert await call(pipe, "GET", "nothing") is None


# -- the handshake


async def test_it_names_itself_chooses_its_database_and_loads_its_scripts() -> None:
    fake = FakeRedis()
    async with Upstream(fake) as upstream, connected(redis_at(upstream, "me%40x:p%2Fw@", "/7"), ("return 1",)):
        assert fake.commands == [
            [b"AUTH", b"me@x", b"p/w"],
            [b"SELECT", b"7"],
            [b"SCRIPT", b"LOAD", b"return 1"],
            [b"PING"],
        ]


async def test_a_password_alone() -> None:
    fake = FakeRedis()
    async with Upstream(fake) as upstream, connected(redis_at(upstream, ":secret@")):
        assert fake.commands == [[b"AUTH", b"secret"], [b"PING"]]


async def test_it_works_in_the_database_of_its_url(redis_url: str) -> None:
    async with connected(redis_url.rpartition("/")[0] + "/5") as five, connected(redis_url) as zero:
        await call(five, "SET", "k", "five")
        assert await call(zero, "GET", "k") is None


async def test_scripts_are_there_on_every_new_connection(redis_url: str) -> None:
    script = "return 'here'"
    async with Relay(redis_url) as relay, connected(relay.url, (script,)) as pipe:
        sha = await call(pipe, "SCRIPT", "LOAD", script)
        assert await call(pipe, "SCRIPT", "FLUSH") == b"OK"
        await relay.cut()
        await until(lambda: relay.connections == 2 and pipe.available)
        assert await call(pipe, "EVALSHA", sha, "0") == b"here"


async def test_scripts_can_be_loaded_again(redis_url: str) -> None:
    script = "return 'here'"
    async with connected(redis_url, (script,)) as pipe:
        sha = await call(pipe, "SCRIPT", "LOAD", script)
        await call(pipe, "SCRIPT", "FLUSH")
        pipe.reload_scripts()
        assert await call(pipe, "EVALSHA", sha, "0") == b"here"
        assert pipe.available


async def test_a_wrong_password_is_said_once_a_try_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeRedis(AUTH=b"-WRONGPASS invalid username-password pair\r\n", SCRIPT=b"-NOAUTH\r\n", PING=b"-NOAUTH\r\n")
    with caplog.at_level(logging.INFO, "gateway"):
        async with Upstream(fake) as upstream, opened(redis_at(upstream, ":hunter2@"), ("return 1",)) as pipe:
            await until(lambda: fake.connections == 2)
            assert not pipe.available
            said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
            assert set(said) == {"redis refused the connection: WRONGPASS invalid username-password pair"}
            assert len(said) <= fake.connections
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis://",
        "rediss://host",
        "redis:///5",
        "",
        "redis://:hunter2@host/five",
        "redis://:hunter2@h:x/",
    ],
)
async def test_a_bad_url_is_a_clear_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"^redis_url: expected redis://") as raised:
        RedisPipe(url, (), deadline=DEADLINE)
    assert "hunter2" not in str(raised.value)


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    fake = FakeRedis(GET=b"$2\r\nhi\r\n")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await fake(peer := Peer(reader, writer))
        await peer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "redis.sock")
    async with connected(f"unix://{tmp_path}/redis.sock") as pipe:
        assert await call(pipe, "GET", "k") == b"hi"
    server.close()
    await server.wait_closed()


# -- slow


async def test_who_waits_too_long_is_told_once_and_still_gets_the_late_reply(redis_url: str) -> None:
    async with connected(redis_url) as pipe:
        waiter = Waiter()
        pipe.send(encode(("CLIENT", "PAUSE", "300")), Waiter())
        pipe.send(encode(("ECHO", "late")), waiter)
        await until(lambda: waiter.timeouts)
        assert not pipe.available  # the next request need not wait for nothing
        assert await waiter.reply() == b"late"
        assert len(waiter.timeouts) == 1
        assert DEADLINE <= waiter.timeouts[0] < DEADLINE + 0.1
        await until(lambda: pipe.available)


async def test_one_slow_spell_is_one_error(redis_url: str) -> None:
    async with connected(redis_url) as pipe:
        pipe.send(encode(("CLIENT", "PAUSE", "250")), Waiter())
        waiters = [Waiter() for _ in range(20)]
        for waiter in waiters:
            pipe.send(encode(("ECHO", "late")), waiter)
            await asyncio.sleep(0.001)
        await until(lambda: all(waiter.replies for waiter in waiters))
        assert all(len(waiter.timeouts) == 1 for waiter in waiters)
        assert pipe.errors == 1


async def test_a_silent_connection_is_dropped_and_made_anew() -> None:
    fake = FakeRedis()
    async with Upstream(fake) as upstream, connected(redis_at(upstream), dead_after=0.3) as pipe:
        fake.is_mute = True
        waiter = Waiter()
        pipe.send(encode(("ECHO", "never")), waiter)
        assert await waiter.reply() is LOST
        assert len(waiter.timeouts) == 1
        fake.is_mute = False
        await until(lambda: pipe.available)
        assert fake.connections >= 2


async def test_a_busy_connection_is_not_a_silent_one() -> None:
    """Many commands in one write may take longer than `dead_after` to be answered, one after the other."""

    async def slowly(peer: Peer) -> None:
        await peer.read_until(b"PING\r\n")
        await peer.send(b"+PONG\r\n")
        await peer.read_exactly(len(encode(("INCR", "n"))) * 12)
        for _ in range(12):
            await asyncio.sleep(0.05)
            await peer.send(b":1\r\n")
        await peer.read_to_end()

    async with Upstream(slowly) as upstream, connected(redis_at(upstream), dead_after=0.3) as pipe:
        waiters = [Waiter() for _ in range(12)]
        for waiter in waiters:
            pipe.send(encode(("INCR", "n")), waiter)
        assert [await waiter.reply() for waiter in waiters] == [1] * 12
        assert len(upstream.peers) == 1


# -- away


async def test_what_was_pending_when_the_connection_broke_is_lost(redis_url: str) -> None:
    async with Relay(redis_url) as relay, connected(relay.url, dead_after=0.3, deadline=0.2) as pipe:
        relay.swallows_replies = True
        waiters = [Waiter() for _ in range(3)]
        for waiter in waiters:
            pipe.send(encode(("INCR", "n")), waiter)
        await until(lambda: relay.replies_swallowed)
        relay.swallows_replies = False
        await relay.cut()
        assert [await waiter.reply() for waiter in waiters] == [LOST] * 3
        await until(lambda: pipe.available)
        assert await call(pipe, "GET", "n") == b"3"  # they were carried out all the same
        assert all(len(waiter.replies) == 1 for waiter in waiters)
        await asyncio.sleep(0.4)  # longer than a silent connection is kept: what was lost is not waited for
        assert (relay.connections, pipe.available) == (2, True)


async def test_without_a_connection_a_command_is_lost_but_never_inside_send() -> None:
    async with opened("redis://127.0.0.1:1") as pipe:
        waiter = Waiter()
        pipe.send(encode(("PING",)), waiter)
        assert waiter.replies == []
        assert await waiter.reply() is LOST
        assert not pipe.available


async def test_it_waits_for_a_redis_that_comes_later() -> None:
    served: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await FakeRedis()(peer := Peer(reader, writer))
        await peer.close()
        served.append(True)

    async with Upstream(FakeRedis()) as gone:
        url = redis_at(gone)
    async with opened(url) as pipe:
        await until(lambda: pipe.errors)
        server = await asyncio.start_server(serve, gone.host, gone.port)
        await until(lambda: pipe.available)
        server.close()
    await until(lambda: served)
    await server.wait_closed()


async def test_a_redis_that_accepts_and_hangs_up_is_not_tried_in_a_tight_loop() -> None:
    async def full(peer: Peer) -> None:
        await peer.send(b"-ERR max number of clients reached\r\n")

    async with Upstream(full) as upstream, opened(redis_at(upstream)):
        await asyncio.sleep(0.5)  # what is tested is that little happens in a time
        assert 1 <= len(upstream.peers) <= 8


async def test_closed_is_closed(redis_url: str) -> None:
    async with Relay(redis_url) as relay:
        async with connected(relay.url) as pipe:
            relay.swallows_replies = True
            waiter = Waiter()
            pipe.send(encode(("PING",)), waiter)
            await until(lambda: relay.replies_swallowed)
        assert waiter.replies == [LOST]
        assert not pipe.available
        assert relay.connections == 1


async def test_a_redis_that_is_slow_but_alive_is_probed_and_not_waited_for(redis_url: str) -> None:
    async with Relay(redis_url) as relay, connected(relay.url) as pipe:
        relay.delay_s = DEADLINE * 1.5
        waiter = Waiter()
        pipe.send(encode(("ECHO", "late")), waiter)
        await until(lambda: waiter.timeouts)
        assert await waiter.reply() == b"late"
        give_up = time.monotonic() + 0.5
        while time.monotonic() < give_up:
            assert not pipe.available  # answers come, but none in time
            await asyncio.sleep(0.01)
        relay.delay_s = 0.0
        await until(lambda: pipe.available)
