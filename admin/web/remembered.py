"""Figures that cost much are asked for less often: each is remembered for twenty times as long as it took to find.

A small project's figures take a millisecond and are always fresh; those of one with hundreds of thousands of rows a month
take half a second and may be ten seconds old. So looking costs the database at most a twentieth of a connection for each
figure, however many people look. Asked for at the same moment, a figure is found once. Bound: 2,000 figures a process, the
longest unused go first; a failure is not remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

_FACTOR: Final = 20.0
_LONGEST_S: Final = 30.0
_MOST: Final = 2_000

T = TypeVar("T")


@dataclass(slots=True)
class _Figure:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: Any = None
    good_until: float = 0.0


class Remembered:
    """The figures of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._figures: OrderedDict[Hashable, _Figure] = OrderedDict()

    async def get(self, key: Hashable, find: Callable[[], Awaitable[T]]) -> T:
        """The figure of this key: what is remembered, else what `find` finds. Raises what that raises."""
        figure = self._figures.setdefault(key, _Figure())
        self._figures.move_to_end(key)
        if len(self._figures) > _MOST:
            self._figures.popitem(last=False)
        async with figure.lock:
            began = self._clock()
            if began < figure.good_until:
                found: T = figure.value
                return found
            found = await find()
            ended = self._clock()
            figure.value = found
            figure.good_until = ended + min(_LONGEST_S, _FACTOR * (ended - began))
            return found
