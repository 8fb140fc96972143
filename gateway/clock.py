"""A coarse clock for deadlines: one attribute read instead of a system call per event.

`now` is monotonic seconds, moved on by the gateway's ticker every TICK seconds; deadlines are late by up to three ticks,
never early. Whatever is measured or recorded asks the system's clocks instead.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Final

TICK: Final = 0.1


class Clock:
    """`now`: monotonic seconds; `date_line`: a ready Date field for the gateway's own answers."""

    __slots__ = ("_second", "date_line", "now")

    def __init__(self) -> None:
        self._second = -1
        self.tick()

    def tick(self) -> None:
        self.now = time.monotonic()
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date_line = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode()
