"""What runs could leave on a machine: processes, mounts, cgroups, directories, descriptors of ours.

Others may be running a sandbox on the same machine. Ours uses user ids of its own (`UID_BASE`), and groups and directories
are named after their broker: only those of brokers that were once seen among our descendants count.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from sandbox.backends.jail.cgroups import layout

UID_BASE = 300_000 + os.getpid() % 5_000 * 100
UIDS = range(UID_BASE, UID_BASE + 100)
_brokers: set[int] = set()


def children_with(pid: int, word: str) -> list[psutil.Process]:
    """The children of a process with this word in their command line."""
    found = []
    try:
        for child in psutil.Process(pid).children():
            try:
                if any(word in argument for argument in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue  # ended meanwhile
    except psutil.Error:
        pass
    return found


@dataclass(frozen=True, slots=True)
class Traces:
    found: frozenset[str]

    @classmethod
    def take(cls) -> Traces:
        """Everything there is at this moment that could be a run's or a broker's of ours."""
        found = set()
        family = {child.pid for child in psutil.Process().children(recursive=True)}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            pid = int(status.parent.name)
            if b"jail.broker" in command and pid in family:
                _brokers.add(pid)
            if int(text.split("Uid:")[1].split()[0]) in UIDS or pid in _brokers:
                found.add(f"process {pid} {command[:60]!r}")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found.update(f"mount {mount}" for mount in mounts if "tollgate-jails" in mount)
        own = layout(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        groups = [
            path for parent in (*own.v1.values(), own.v2) if parent for path in parent.glob("tollgate-sandbox-[0-9]*")
        ]
        named = [*groups, *Path("/run").glob("tollgate-jails-*")]
        for path in [*named, *Path("/tmp").glob("tollgate-jails-*")]:
            if int(re.findall(r"-(\d+)", path.name)[0]) in _brokers:
                found.add(f"left {path}")
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("pipe:"):
                found.add(f"descriptor {descriptor.name} {target}")
        return cls(frozenset(found))

    def beyond(self, before: Traces) -> list[str]:
        """What is there now and was not before."""
        return sorted(self.found - before.found)
