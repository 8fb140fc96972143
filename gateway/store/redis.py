"""The one connection to Redis: every command of a loop turn leaves in one write, replies come back in order.

A command is bytes that are already encoded (`encode`), because the hot path keeps most of them ready. Whoever sends one
gives a *waiter*, whose `on_reply(reply)` is called from the connection's callback: with the value, with a
`hiredis.ReplyError` if Redis refused, or with LOST if the connection broke before the answer (the command may have run).
`on_timeout()` is called once if no answer came within the deadline; the late answer, or LOST, still follows.

Failure: `available` is False from the first missed deadline or broken connection until Redis answers again; callers ask it
before sending and apply their policy, so a slow Redis costs one deadline, not one per request. After a missed deadline an
answer is not enough: a probe (PING) has to come back within the deadline, the first one at once, the next after 50 ms,
doubling to 1 s, so a Redis that is slow but alive costs nobody anything. A connection that stays silent for `dead_after` is
dropped. Reconnecting backs off from 50 ms to 1 s, until Redis answers again. Bound: pending
commands are at most one per request in flight plus one settlement batch per turn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import hiredis

_log = logging.getLogger("gateway.redis")


class _Lost:
    def __repr__(self) -> str:
        return "LOST"


LOST: Final = _Lost()
"""The reply to a command whose connection broke: it may or may not have been carried out."""

encode: Final[Callable[[tuple[Any, ...]], bytes]] = hiredis.pack_command
"""A command and its arguments as RESP bytes."""


class Waiter(Protocol):
    """Whoever waits for the reply to one command."""

    def on_reply(self, reply: Any) -> None: ...
    def on_timeout(self) -> None: ...


class _Handshake:
    """Waits for the replies to the connection's own commands (AUTH, SELECT, SCRIPT LOAD, PING)."""

    __slots__ = ("_left", "_pipe")

    def __init__(self, pipe: RedisPipe, left: int) -> None:
        self._pipe = pipe
        self._left = left

    def on_reply(self, reply: Any) -> None:
        if self._left < 0:  # refused already: what follows says the same
            return
        self._left -= 1
        if reply is LOST or isinstance(reply, hiredis.ReplyError):
            self._left = -1
            self._pipe.handshake_failed(reply)
        elif not self._left:
            self._pipe.handshake_done()

    def on_timeout(self) -> None:
        pass


class _Probe:
    """Waits for the reply to a probe."""

    __slots__ = ("_pipe", "_sent_at")

    def __init__(self, pipe: RedisPipe, sent_at: float) -> None:
        self._pipe = pipe
        self._sent_at = sent_at

    def on_reply(self, reply: Any) -> None:
        if reply is not LOST:
            self._pipe.probed(self._sent_at)

    def on_timeout(self) -> None:
        pass


class Address(NamedTuple):
    """Where a Redis is: `path` of a Unix socket, or else `host` and `port`; `auth` is the AUTH command, or empty."""

    host: str
    port: int
    path: str
    db: int
    auth: tuple[str, ...]


def address_of(url: str) -> Address:
    """Read a redis_url. Raises ValueError, which says what is expected and repeats nothing of the URL."""
    try:
        parts = urlsplit(url)
        is_unix = parts.scheme == "unix"
        if not is_unix and (parts.scheme != "redis" or not parts.hostname):
            raise ValueError
        port = parts.port or 6379
        db = 0 if is_unix else int(parts.path.strip("/") or 0)
    except ValueError:
        wanted = "redis://[user:password@]host[:port][/db] or unix:///path"
        raise ValueError(f"redis_url: expected {wanted}") from None
    auth: tuple[str, ...] = ()
    if parts.password:
        user = (unquote(parts.username),) if parts.username else ()
        auth = ("AUTH", *user, unquote(parts.password))
    return Address(parts.hostname or "", port, parts.path if is_unix else "", db, auth)


class RedisPipe(asyncio.Protocol):
    """The connection. On every connect `scripts` are loaded, so that EVALSHA finds them, and `greeting` is sent."""

    def __init__(
        self,
        url: str,
        scripts: Sequence[str],
        *,
        deadline: float,
        dead_after: float = 2.0,
        greeting: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self._address = address_of(url)
        self._scripts = tuple(scripts)
        self._greeting = tuple(greeting)
        self._deadline = deadline
        self._dead_after = dead_after
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=LOST)
        self._out: list[bytes] = []
        self._waiters: deque[Waiter] = deque()
        self._sent: deque[list[Any]] = deque()  # [sent at, commands still unanswered, timed out]
        self._closing = False
        self._connector: asyncio.Task[None] | None = None
        self._is_shaking_hands = False
        self._backoff = 0.0
        self._has_heard = False
        self._heard_at = 0.0
        self._has_tripped = False
        self._probing: asyncio.TimerHandle | None = None
        self._probe_delay = 0.0
        self.available = False
        self.on_lost: Callable[[], None] | None = None
        """Called when a connection has ended: the next one may be to another Redis."""
        self.errors = 0
        self._ticker = self._loop.call_later(0.02, self._tick)

    # -- life of the connection

    def start(self) -> None:
        """Begin connecting; goes on by itself until `close`."""
        self._connector = asyncio.create_task(self._connect(), name="redis-connect")

    async def _connect(self) -> None:
        while not self._closing:
            await asyncio.sleep(self._backoff)
            is_first, self._backoff = not self._backoff, min(1.0, max(0.05, self._backoff * 2))
            try:
                async with asyncio.timeout(self._dead_after):
                    if self._address.path:
                        await self._loop.create_unix_connection(lambda: self, self._address.path)
                    else:
                        await self._loop.create_connection(lambda: self, self._address.host, self._address.port)
                return
            except (OSError, TimeoutError) as error:
                self.errors += 1
                if is_first:
                    _log.warning("redis cannot be reached: %s", error)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        if not self._address.path and sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._reader = hiredis.Reader(notEnoughData=LOST)
        commands: list[tuple[str, ...]] = [self._address.auth] if self._address.auth else []
        if self._address.db:
            commands.append(("SELECT", str(self._address.db)))
        commands += [("SCRIPT", "LOAD", script) for script in self._scripts]
        commands += self._greeting
        self._is_shaking_hands = True
        handshake = _Handshake(self, len(commands) + 1)
        for command in (*commands, ("PING",)):
            self.send(encode(command), handshake)
        self._flush()

    def handshake_done(self) -> None:
        """Everything the connection needs is set up."""
        self._is_shaking_hands = False

    def handshake_failed(self, reply: Any) -> None:
        """Redis does not want this connection; it is tried again later."""
        if reply is not LOST:
            _log.error("redis refused the connection: %s", reply)
            self.errors += 1
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._has_tripped = False
        self._stop_probing()
        if self.on_lost is not None:
            self.on_lost()
        self._out.clear()
        self._sent.clear()
        waiters, self._waiters = self._waiters, deque()
        if self.available and not self._closing:
            _log.warning("redis connection lost: %s", exc or "closed by the server")
        self.available = False
        if not self._closing:
            self.errors += 1
            self.start()
        for waiter in waiters:
            waiter.on_reply(LOST)

    async def close(self) -> None:
        """Stop for good. Commands still pending get LOST."""
        self._closing = True
        self._ticker.cancel()
        self._stop_probing()
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)

    # -- commands and replies

    def send(self, command: bytes, waiter: Waiter) -> None:
        """Queue one encoded command; it leaves at the end of this loop turn. LOST at once if there is no connection."""
        if self._transport is None:
            self._loop.call_soon(waiter.on_reply, LOST)
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        self._waiters.append(waiter)

    def reload_scripts(self) -> None:
        """Send the scripts again (Redis forgot them: SCRIPT FLUSH, fail-over)."""
        reloading = _Handshake(self, len(self._scripts))
        for script in self._scripts:
            self.send(encode(("SCRIPT", "LOAD", script)), reloading)

    def _flush(self) -> None:
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._sent.append([self._loop.time(), len(out), False])
            out.clear()

    def data_received(self, data: bytes) -> None:
        reader, waiters = self._reader, self._waiters
        self._has_heard = True
        reader.feed(data)
        answered = 0
        while (reply := reader.gets()) is not LOST:
            answered += 1
            waiters.popleft().on_reply(reply)
        sent = self._sent
        while answered:
            batch = sent[0]
            if batch[1] > answered:
                batch[1] -= answered
                break
            answered -= batch[1]
            sent.popleft()
        if not self.available and not self._is_shaking_hands and (not sent or not sent[0][2]):
            if self._has_tripped:
                if self._probing is None:
                    self._probing = self._loop.call_later(self._probe_delay, self._probe)
            else:
                self._is_back()

    def _is_back(self) -> None:
        self.available = True
        self._backoff = 0.0
        _log.info("redis answers")

    def _probe(self) -> None:
        self.send(encode(("PING",)), _Probe(self, self._loop.time()))

    def probed(self, sent_at: float) -> None:
        """A probe was answered: in time, and Redis is back; late, and it is probed again later."""
        self._stop_probing()
        if self._loop.time() - sent_at < self._deadline:
            self._has_tripped, self._probe_delay = False, 0.0
            self._is_back()
        else:
            self._probe_delay = min(1.0, max(0.05, self._probe_delay * 2))
            self._probing = self._loop.call_later(self._probe_delay, self._probe)

    def _stop_probing(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    def _tick(self) -> None:
        """Every 20 ms: who waited too long is told; a connection silent for too long is dropped."""
        self._ticker = self._loop.call_later(0.02, self._tick)
        sent = self._sent
        now = self._loop.time()
        if self._has_heard:
            self._has_heard, self._heard_at = False, now
        if not sent or now - sent[0][0] < self._deadline:
            return
        silent_since = max(sent[0][0], self._heard_at)  # a long answer to much that was sent at once is not silence
        if now - silent_since > self._dead_after and self._transport is not None:
            _log.warning("redis is silent for %.1f s; reconnecting", now - silent_since)
            self._transport.abort()
            return
        if self.available:
            self.available = False
            self._has_tripped = True
            self.errors += 1
            _log.warning("redis does not answer within %d ms", self._deadline * 1000)
        late: list[Waiter] = []
        index = 0
        for batch in sent:
            if now - batch[0] < self._deadline:
                break
            if not batch[2]:
                batch[2] = True
                late.extend(list(self._waiters)[index : index + batch[1]])
            index += batch[1]
        for waiter in late:
            waiter.on_timeout()
