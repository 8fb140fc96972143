"""How long callbacks keep the event loop from everything else.

Measured around each callback of asyncio's own loop (uvloop's cannot be looked at), as time on the clock less time that the
thread waited for a core, as the kernel counts it: a call that blocks, or computes, is found on a busy machine as on an idle
one, and a machine that is busy with others is not taken for it. Needs /proc/thread-self/schedstat.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Longest:
    """The longest callback so far: milliseconds, and what it was."""

    ms: float = 0.0
    what: str = ""
    is_over: bool = False


@contextmanager
def longest_callback() -> Iterator[Longest]:
    """Watches every callback of loops in this thread while the block runs."""
    found = Longest()
    counted = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    run = asyncio.Handle._run

    def watched(handle: asyncio.Handle) -> None:
        before, began = os.pread(counted, 64, 0), time.perf_counter_ns()
        run(handle)
        took = time.perf_counter_ns() - began
        if took > found.ms * 1_000_000 and not found.is_over:  # which it is within the callback that ended the block
            took -= _waited(os.pread(counted, 64, 0)) - _waited(before)
            if took > found.ms * 1_000_000:
                found.ms, found.what = took / 1_000_000, repr(handle)

    asyncio.Handle._run = watched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        found.is_over = True
        asyncio.Handle._run = run  # type: ignore[method-assign]
        os.close(counted)


def _waited(schedstat: bytes) -> int:
    return int(schedstat.split()[1])
