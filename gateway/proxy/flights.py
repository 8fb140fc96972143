"""Answers that are on their way to a cache, and who waits for them: of many who miss the same at once, one fetches.

A *flight* is a fetch whose answer may be kept. Whoever misses the same meanwhile joins it and looks again when it has
landed. It is over when its answer is kept, when its head says that it will not be (then all who wait go to the upstream by
themselves, and for a while nobody waits for this again), or when it dies (the client left, the upstream broke off: then one
of those who wait sets off, and the others wait for that one).

Bounds: those who wait hold a request each, and do so no longer than they want; 4,096 keys of what is not for sharing, then
all are forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final

_NOT_SHARED_FOR_S: Final = 10.0
_MOST_NOT_SHARED: Final = 4_096


class Flight:
    """One fetch."""

    __slots__ = ("_flights", "_key", "_variant", "_waiting", "is_over")

    def __init__(self, flights: Flights, key: Hashable, variant: Hashable) -> None:
        self._flights = flights
        self._key = key
        self._variant = variant
        self._waiting: list[asyncio.Future[bool]] = []
        self.is_over = False

    async def landed(self, within_s: float) -> bool:
        """Wait until it is over. True: look again whether it is kept; False: it was not for sharing, or took too long."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(future)
        deadline = loop.call_later(within_s, _tell, future, False)
        try:
            return await future
        finally:
            deadline.cancel()

    def over(self) -> None:
        """It has landed, or died: whoever waits looks again."""
        self._end(look_again=True)

    def not_shared(self) -> None:
        """Its answer is not for others."""
        self._flights.remember_not_shared(self._key, self._variant)
        self._end(look_again=False)

    def _end(self, *, look_again: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._flights.remove(self._key, self._variant, self)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            _tell(future, look_again)


class Flights:
    """All flights of a cache, by what they fetch: the cache's key, and the request fields that its answers vary by."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, dict[Hashable, Flight]] = {}
        self._not_shared: dict[tuple[Hashable, Hashable], float] = {}

    def find(self, key: Hashable, variant: Hashable) -> Flight | None:
        """The flight that may bring this."""
        flights = self._flights.get(key)
        return None if flights is None else flights.get(variant)

    def is_shared(self, key: Hashable, variant: Hashable, now: float) -> bool:
        """False if its answers have turned out not to be for others, a moment ago."""
        return not self._not_shared or self._not_shared.get((key, variant), 0.0) <= now

    def begin(self, key: Hashable, variant: Hashable) -> Flight:
        """Set off. There is none yet."""
        flight = Flight(self, key, variant)
        self._flights.setdefault(key, {})[variant] = flight
        return flight

    def remove(self, key: Hashable, variant: Hashable, flight: Flight) -> None:
        flights = self._flights.get(key, {})
        if flights.get(variant) is flight:
            del flights[variant]
            if not flights:
                del self._flights[key]

    def give_up(self, key: Hashable) -> None:
        """What is on its way under this key is out of date already: whoever comes now fetches it anew."""
        for flight in tuple(self._flights.get(key, {}).values()):
            flight.over()

    def remember_not_shared(self, key: Hashable, variant: Hashable) -> None:
        if len(self._not_shared) >= _MOST_NOT_SHARED:
            self._not_shared.clear()
        self._not_shared[key, variant] = asyncio.get_running_loop().time() + _NOT_SHARED_FOR_S


def _tell(future: asyncio.Future[bool], look_again: bool) -> None:
    if not future.done():
        future.set_result(look_again)
