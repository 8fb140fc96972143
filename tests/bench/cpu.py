"""CPU time and memory of a process and all its descendants, from /proc (Linux)."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20


def tree(root: int) -> list[int]:
    """The process and everything it started that still runs."""
    children = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children[int(_fields(int(entry))[1])].append(int(entry))
            except OSError:  # it ended meanwhile
                continue
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def cpu_s(pids: list[int]) -> float:
    """Seconds of CPU used so far, user and system, all threads. Raises OSError when one of them is gone."""
    total = 0
    for pid in pids:
        fields = _fields(pid)
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def machine_s() -> float:
    """Seconds of CPU that all processes of the machine used so far, over all cores; interrupts apart."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) / _TICKS_PER_S


def rss_mb(pids: list[int]) -> float:
    """Resident memory in MiB; pages that processes share count for each."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * _PAGE_MB


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on: the second, the name, may contain anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
