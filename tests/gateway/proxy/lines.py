"""An upstream connection with its socket, its pool and its client replaced: bytes in, what became of them out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.clock import Clock
from gateway.exchange import Exchange, suspend
from gateway.http1.fields import parse_fields
from gateway.http1.request import parse_request_line
from gateway.proxy.health import Health
from gateway.proxy.upstream import Response, UpstreamBroken, UpstreamConnection
from ledger.problems import Problem


class Transport:
    """Notes what is written; says nothing by itself."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.ended = ""  # "closed" or "aborted"

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def get_extra_info(self, _: str) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...


class Pool:
    """Notes which connections come back to it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.health: Health | None = None
        self.released: list[UpstreamConnection] = []
        self.lost_ones: list[UpstreamConnection] = []

    def release(self, connection: UpstreamConnection) -> None:
        self.released.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        self.lost_ones.append(connection)


class Client:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.body = b""
        self.interims: list[bytes] = []
        self.is_reading = True
        self.heads_flushed = 0

    def write_body(self, data: bytes) -> None:
        self.body += data

    def write_interim(self, lead: bytes) -> None:
        self.interims.append(lead)

    def flush_head(self) -> None:
        self.heads_flushed += 1

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def exchange_done(self, _: Exchange) -> None: ...


class Line:
    """One upstream connection. `ask` sends a request on it, `receive` is what the upstream says."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.transport = Transport()
        self.connection = UpstreamConnection(self.pool)  # type: ignore[arg-type]
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def ask(self, method: bytes = b"GET", *lines: bytes, body: Iterable[bytes] | None = None, minor: int = 1) -> Asked:
        """Send a request; `body` is what has come of its body so far (the rest comes by `asked.ex`)."""
        return Asked(self.connection, method, lines, body, minor)

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.transport.ended:
                self.connection.data_received(piece)

    def hang_up(self, error: Exception | None = None, *, says_so: bool = True) -> None:
        if error is None and says_so:
            self.connection.eof_received()
        self.connection.connection_lost(error)

    @property
    def is_reusable(self) -> bool:
        """True if the connection went back to its pool, once, and can be used."""
        return self.pool.released == [self.connection] and self.connection.is_usable()


class Asked:
    """One exchange on an upstream connection, and what became of it."""

    def __init__(
        self,
        connection: UpstreamConnection,
        method: bytes,
        lines: Iterable[bytes],
        body: Iterable[bytes] | None,
        minor: int,
    ) -> None:
        self.client = Client()
        fields = parse_fields(b"".join(line + b"\r\n" for line in (*lines, b"")), 20)
        line = parse_request_line(method + b" / HTTP/1.%d" % minor, 100)
        self.ex = Exchange(self.client, line, fields, b"0" * 32, 1, 1)  # type: ignore[arg-type]
        self.response: Response | None = None
        self.outcome = "waiting"
        self.broken: UpstreamBroken | None = None
        if body is not None:
            self.ex.body_done = False
            for piece in body:
                self.ex.body_data(piece)
        self.ex.run(self._life(connection, method + b" / HTTP/1.1\r\n\r\n"))

    async def _life(self, connection: UpstreamConnection, head: bytes) -> None:
        try:
            connection.send(self.ex, head)
            self.response = await suspend()
            self.outcome = "answering"
            await suspend()
            self.outcome = "complete"
        except UpstreamBroken as broken:
            self.outcome, self.broken = "broken", broken

    @property
    def problem(self) -> Problem | None:
        return self.broken.problem if self.broken else None

    def summary(self) -> tuple[Any, ...]:
        """All that a client would see of it."""
        lead = self.response.lead if self.response else None
        return self.outcome, lead, self.client.body, self.ex.response_trailers, self.problem, self.client.interims
