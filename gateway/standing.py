"""Whether those who have a request under way may still go on: a key that is revoked or expires ends what it began.

Long answers and WebSockets outlive what was checked when they began. `look` is called on the gateway's clock: when something
in the snapshot has changed, whoever's key, customer or tier it may concern is looked at again, and once a second who has
come to the end of a key's time. Who may not go on is ended: a WebSocket by a close frame (1008) between two frames, an
answer by breaking it off, so that it cannot be taken for a whole one. What had passed is settled as usual. A request that
is not answered yet is ended when its answer begins. Requests in parts (gateway.parts) learn here under what limits they go
on.

A WebSocket on a route that is no more is closed with 1001; ordinary answers are finished. A token (JWT) is believed for
as long as the connection lasts.

Failure: while Postgres cannot be asked, who cannot be looked at goes on, and is looked at again. Cost: a walk over what is
under way for each change, and one a second; at most `_AT_ONCE` look-ups at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

from gateway.callers import is_as_it_was, look_again
from gateway.exchange import LimitReached
from gateway.metering.frames import close_frame
from gateway.store.snapshot import Unavailable

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.door import Connection
    from gateway.exchange import Exchange
    from gateway.memory import Caller

_log = logging.getLogger("gateway.standing")

_AT_ONCE: Final = 16
_AGAIN_S: Final = 0.25
_EXPIRY_S: Final = 1.0
_FRAME_S: Final = 1.0
"""How long a frame that is under way is waited for before a WebSocket is cut off inside it."""
NOT_VALID: Final = "the key is not valid any more"
_POLICY, _GOING_AWAY = 1008, 1001


class Standing:
    """One process's watch over what is under way."""

    def __init__(self, gateway: Gateway, connections: Collection[Connection]) -> None:
        self._gateway = gateway
        self._connections = connections
        self._seen = gateway.snapshot.generation
        self._again_at = 0.0
        self._expiry_at = 0.0
        self._round: asyncio.Task[None] | None = None
        self._ending: dict[Exchange, tuple[int, str, float]] = {}
        """Who is to be ended: close code, reason, and until when a frame is waited for (0: not answered yet)."""

    def look(self) -> None:
        """Look whether anything has changed; called ten times a second or so. What needs Postgres goes on by itself."""
        now = self._gateway.clock.now
        generation = self._gateway.snapshot.generation
        if self._round is None and (generation != self._seen or 0 < self._again_at <= now):
            self._seen, self._again_at = generation, 0.0
            doubtful = [(ex, caller) for ex, caller in self._under_way() if not is_as_it_was(self._gateway, caller)]
            if doubtful:
                self._round = asyncio.create_task(self._look_at(doubtful), name="look again at who is under way")
        if now >= self._expiry_at:
            self._expiry_at = now + _EXPIRY_S
            self._look_at_the_time()
        for ex in tuple(self._ending):
            self._end(ex)

    async def close(self) -> None:
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)

    def _under_way(self) -> Iterator[tuple[Exchange, Caller]]:
        """Proxied requests that are under way, and whose they are."""
        for connection in self._connections:
            ex, caller = connection.exchange, connection.caller
            if ex is None or ex.plan is None or caller is None or ex in self._ending:
                continue
            if caller.line is ex.line and caller.fields is ex.fields:
                yield ex, ex.parts.caller if ex.parts is not None else caller

    def _look_at_the_time(self) -> None:
        now, routes = time.time(), self._gateway.snapshot.table.by_id
        for ex, caller in self._under_way():
            principal = caller.plan.principal
            if principal is not None and principal.expires_at is not None and principal.expires_at <= now:
                self._ending[ex] = (_POLICY, NOT_VALID, 0.0)
            elif ex.tunnel is not None and caller.route.id not in routes:
                self._ending[ex] = (_GOING_AWAY, "the route is gone", 0.0)

    async def _look_at(self, doubtful: list[tuple[Exchange, Caller]]) -> None:
        try:
            for at in range(0, len(doubtful), _AT_ONCE):
                await asyncio.gather(*(self._look_at_one(*each) for each in doubtful[at : at + _AT_ONCE]))
        finally:
            self._round = None

    async def _look_at_one(self, ex: Exchange, caller: Caller) -> None:
        try:
            found = await look_again(self._gateway, ex, caller)
        except Unavailable:
            self._again_at = self._gateway.clock.now + _AGAIN_S
            return
        except Exception:  # noqa: BLE001 - the others have to be looked at
            _log.exception("cannot look again at a caller", extra={"request_id": ex.id.decode()})
            return
        if ex.is_over:
            return
        if found is None:
            self._ending[ex] = (_POLICY, NOT_VALID, 0.0)
        elif ex.parts is not None:
            ex.parts.caller = found

    def _end(self, ex: Exchange) -> None:
        code, reason, until = self._ending[ex]
        if not ex.is_over:
            if not ex.response_started:
                return
            if ex.parts is not None:
                ex.parts.break_off(reason, code)
            elif not self._has_said_so(ex, code, reason):
                if not until:
                    self._ending[ex] = (code, reason, self._gateway.clock.now + _FRAME_S)
                    return
                if self._gateway.clock.now < until:
                    return
                ex.throw(LimitReached())
            else:
                ex.throw(LimitReached())
            self._gateway.metrics.counts["cut_off_total"] += 1
        del self._ending[ex]

    def _has_said_so(self, ex: Exchange, code: int, reason: str) -> bool:
        """Tell both sides of a WebSocket why it ends, if the client's is between two frames. True for ordinary answers."""
        tunnel = ex.tunnel
        if tunnel is None or ex.status != 101:
            return True
        if not tunnel.outgoing.is_between_frames:
            return False
        ex.client.write_body(close_frame(code, reason.encode()))
        if ex.upstream is not None and tunnel.incoming.is_between_frames:
            ex.upstream.write_body(close_frame(code, reason.encode(), mask=os.urandom(4)))
        return True
