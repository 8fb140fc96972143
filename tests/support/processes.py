"""Watching processes and conditions in tests, with deadlines instead of sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within_s: float = 10.0, what: str = "it") -> T:
    """Call `check` until it returns something true, and return that; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        if result := check():
            return result
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """True while the process exists and has not ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
