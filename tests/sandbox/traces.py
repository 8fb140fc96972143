"""What runs could leave on a machine: processes, mounts, cgroups, directories, descriptors of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Traces:
    found: frozenset[str]

    @classmethod
    def take(cls) -> Traces:
        """Everything there is at this moment that could be a run's or the broker's."""
        found = set()
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            uid = int(text.split("Uid:")[1].split()[0])
            is_ours = f"PPid:\t{os.getpid()}\n" in text and b"jail.broker" in command
            if 230_000 <= uid < 240_000 or is_ours:
                found.add(f"process {status.parent.name} {command[:60]!r}")
        for mount in Path("/proc/self/mountinfo").read_text().splitlines():
            found.add(f"mount {mount}")
        for group in Path("/sys/fs/cgroup").glob("**/tollgate-sandbox-*"):
            found.update(f"cgroup {path}" for path in [group, *group.iterdir()] if path.is_dir())
        for parent in ("/run", "/tmp"):
            found.update(f"directory {path}" for path in Path(parent).glob("tollgate-jails-*"))
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
