"""A cgroup for every run: what it may use, what it used, and a way to kill all of it at once.

Works on cgroup v2, on v1, and on hybrids, where v1 holds the controllers and the v2 tree, without any, can still kill. Our
groups live below our own one, `…/tollgate-sandbox-<pid>-<start>/<run>`, so that whatever limits this machine or container
set for us go on holding. Figures of a run are exact to its last child: the kernel adds them up, nothing inside reports them.

On v2 a group with controllers for its children must hold no process itself, so this process is moved into a leaf
`tollgate-sandbox-service` first; where the group is not ours to change, `Unusable` says what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PREFIX: Final = "tollgate-sandbox-"
NEEDED: Final = ("memory", "pids", "cpu", "cpuacct")
_PERIOD_US: Final = 100_000
_UNLIMITED_V1: Final = "-1"


class Unusable(Exception):
    """Cgroups cannot be made here. The message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Our own group in each tree. `v1` maps a controller to its directory; `v2` is the unified one, where there is one.

    `is_v2` says that v2 holds the controllers."""

    v1: Mapping[str, Path]
    v2: Path | None
    is_v2: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A group's figures since it was made. `peak_bytes` since the last `reset_peak` where the kernel can."""

    cpu_us: int
    peak_bytes: int
    oom_kills: int
    pids_refused: int
    pids_peak: int = 0


def layout(own: str, mountinfo: str) -> Layout:
    """Where our groups are, from the texts of /proc/self/cgroup and /proc/self/mountinfo. Raises Unusable."""
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(",") if controllers else [""]:
            paths[name] = path
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(" "), "", "", ""][:3]
        root, where = before.split(" ")[3:5]
        if kind == "cgroup2" and v2 is None:
            v2 = _below(where, root, paths.get("", "/"))
        elif kind == "cgroup":
            for name in options.split(","):
                if name in NEEDED and name not in v1 and name in paths:
                    v1[name] = _below(where, root, paths[name])
    if all(name in v1 for name in NEEDED):
        return Layout(v1, v2, is_v2=False)
    if v2 is None:
        raise Unusable("no cgroup file system is mounted at /sys/fs/cgroup")
    return Layout({}, v2, is_v2=True)


def _below(where: str, root: str, path: str) -> Path:
    """A group's directory; a container may see only a part (`root`) of the tree."""
    if root not in ("/", "") and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return Path(where + "/" + path.lstrip("/")) if path.strip("/") else Path(where)


class Group:
    """One run's group. Files are opened anew each time, by names that are plain strings: pathlib would cost as much CPU as
    the kernel's part. Nothing here waits."""

    def __init__(self, name: str, parent: Layout) -> None:
        self.name = name
        self._is_v2 = parent.is_v2
        self._v1 = {controller: f"{directory}/{name}" for controller, directory in parent.v1.items()}
        self._v2 = f"{parent.v2}/{name}" if parent.v2 is not None else None
        self._directories = list(dict.fromkeys([*self._v1.values(), *([self._v2] if self._v2 else [])]))
        self._base_us = 0

    def make(self, pids: int, cpus: float) -> None:
        """Make the directories and set what is the same for all runs. Raises OSError."""
        for directory in self._directories:
            os.mkdir(directory)
        if self._is_v2:
            self._set("memory", "memory.swap.max", "0", optional=True)
            self._set("memory", "memory.oom.group", "0", optional=True)
            self._set("pids", "pids.max", str(pids))
            self._set("cpu", "cpu.max", f"{int(cpus * _PERIOD_US)} {_PERIOD_US}")
        else:
            self._set("pids", "pids.max", str(pids))
            self._set("cpu", "cpu.cfs_period_us", str(_PERIOD_US), optional=True)
            self._set("cpu", "cpu.cfs_quota_us", str(int(cpus * _PERIOD_US)))

    def entries(self) -> list[str]:
        """The files a process of one thread writes "0" to in order to join.

        On v1 `tasks` and not `cgroup.procs`: moving one's only thread takes no lock, moving a process waits for a grace
        period of the kernel, 15 ms on an idle machine.
        """
        return [
            f"{directory}/{'cgroup.procs' if directory == self._v2 else 'tasks'}" for directory in self._directories
        ]

    def begin(self, memory_bytes: int) -> None:
        """Limit the memory, and count from here on: what the warm guest used so far is not the run's.

        Raises OSError, also when the guest is not in the group that was limited: nothing may be run that is not held.
        """
        if self._is_v2:
            self._set("memory", "memory.max", str(memory_bytes))
            self._set("memory", "memory.peak", "reset", optional=True)
        else:
            self._set("memory", "memory.limit_in_bytes", str(memory_bytes))
            self._set("memory", "memory.memsw.limit_in_bytes", str(memory_bytes), optional=True)
            self._set("memory", "memory.max_usage_in_bytes", "0", optional=True)
        for controller, directory in self._holders().items():
            if not _processes(directory):
                raise ProcessLookupError(errno.ESRCH, f"the guest is not in its {controller} group")
        self._base_us = self._cpu_us()

    def _holders(self) -> Mapping[str, str]:
        """The directories that limit and count."""
        return {"control": self._v2} if self._is_v2 and self._v2 is not None else self._v1

    def read(self) -> Reading:
        """The figures so far, of every process that ever was in the group. Raises OSError."""
        cpu_us = self._cpu_us() - self._base_us
        if self._is_v2:
            events = _table(self._get("memory", "memory.events"))
            peak = self._get("memory", "memory.peak", optional=True) or self._get("memory", "memory.current")
            refused = _table(self._get("pids", "pids.events")).get("max", 0)
            return Reading(cpu_us, int(peak), events.get("oom_kill", 0), refused, self._pids_peak())
        kills = _table(self._get("memory", "memory.oom_control")).get("oom_kill", 0)
        refused = _table(self._get("pids", "pids.events", optional=True)).get("max", 0)
        return Reading(cpu_us, int(self._get("memory", "memory.max_usage_in_bytes")), kills, refused, self._pids_peak())

    def _pids_peak(self) -> int:
        return int(self._get("pids", "pids.peak", optional=True) or 0)

    def _cpu_us(self) -> int:
        if self._is_v2:
            return _table(self._get("cpu", "cpu.stat"))["usage_usec"]
        return int(self._get("cpuacct", "cpuacct.usage")) // 1000

    def kill(self) -> None:
        """SIGKILL to every process inside; they may take a moment to die."""
        if self._v2 is not None:
            try:
                _write(f"{self._v2}/cgroup.kill", "1")
            except OSError:  # before Linux 5.14
                pass
        for pid in self.pids():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass

    def pids(self) -> list[int]:
        """Processes inside, also those of groups below (containers are one level down)."""
        return _processes(self._directories[0])

    def remove(self) -> bool:
        """Remove the directories; False while something in there is still alive."""
        for directory in self._directories:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:
                return False
        return True

    def _path(self, controller: str, name: str) -> str:
        return f"{self._v2 if self._is_v2 else self._v1[controller]}/{name}"

    def _set(self, controller: str, name: str, value: str, *, optional: bool = False) -> None:
        try:
            _write(self._path(controller, name), value)
        except OSError:
            if not optional:
                raise

    def _get(self, controller: str, name: str, *, optional: bool = False) -> str:
        try:
            return _read(self._path(controller, name))
        except OSError:
            if not optional:
                raise
            return ""


def _processes(group: str) -> list[int]:
    """The processes in a group and in those below it; a container is one level down."""
    found: list[int] = []
    try:
        is_leaf = os.stat(group).st_nlink == 2  # a directory has a link from each one below it
    except OSError:
        return found
    for directory in [group] if is_leaf else [directory for directory, _, _ in os.walk(group)]:
        try:
            text = _read(f"{directory}/cgroup.procs")
        except OSError:
            continue
        found += [int(line) for line in text.split() if line != "0"]
    return found


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, 65_536):
            pieces.append(piece)
        return b"".join(pieces).decode()
    finally:
        os.close(descriptor)


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _table(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split(" ", 1) for line in text.splitlines() if " " in line)}


class Cgroups:
    """The parent of all runs' groups of one broker."""

    def __init__(self, parent: Layout, own: Layout) -> None:
        self.parent = parent
        self._own = own

    @classmethod
    def open(cls, own: Layout, instance: str) -> Cgroups:
        """Make our parent group, after removing what dead brokers left. Raises Unusable.

        On a hybrid the v2 tree is left alone: a jail dies with its PID 1, which is in every one of its v1 groups, and
        joining a v2 group costs each jail a grace period of the kernel.
        """
        sweep(own)
        if not own.is_v2:
            own = Layout(own.v1, None, is_v2=False)
        try:
            if own.is_v2:
                assert own.v2 is not None
                _delegate(own.v2)
            parent = Layout(
                {name: directory / (PREFIX + instance) for name, directory in own.v1.items()},
                own.v2 / (PREFIX + instance) if own.v2 is not None else None,
                own.is_v2,
            )
            for directory in _directories(parent):
                directory.mkdir(exist_ok=True)
                if own.is_v2:
                    _enable(directory)
        except OSError as error:
            raise Unusable(
                f"no cgroups of our own ({error.strerror}: {error.filename}): run the sandbox as root, or in a systemd"
                " unit with Delegate=yes, or in a container with a writable cgroup mount"
            ) from None
        return cls(parent, own)

    def group(self, name: str) -> Group:
        """A group by name; it is not made yet."""
        return Group(name, self.parent)

    def close(self) -> None:
        """Remove the parent group, and what of dead brokers was still dying when we began."""
        for directory in _directories(self.parent):
            try:
                directory.rmdir()
            except OSError:
                pass
        sweep(self._own)


def _directories(of: Layout) -> list[Path]:
    return list(dict.fromkeys([*of.v1.values(), *([of.v2] if of.v2 is not None else [])]))


def _enable(directory: Path) -> None:
    (directory / "cgroup.subtree_control").write_text("+memory +pids +cpu")


def _delegate(own: Path) -> None:
    """Let children of our v2 group have controllers, moving its processes into a leaf if there is no other way."""
    try:
        _enable(own)
        return
    except OSError as error:
        if error.errno != 16:  # EBUSY: it has processes
            raise
    leaf = own / (PREFIX + "service")
    leaf.mkdir(exist_ok=True)
    for pid in (own / "cgroup.procs").read_text().split():
        (leaf / "cgroup.procs").write_text(pid)
    _enable(own)


def sweep(own: Layout) -> int:
    """Kill and remove what brokers that are no longer there left behind; returns how many groups went."""
    removed = 0
    for directory in _directories(own):
        for parent in directory.glob(PREFIX + "[0-9]*"):
            if is_alive(parent.name.removeprefix(PREFIX)):
                continue
            try:
                for group in [child for child in parent.iterdir() if child.is_dir()]:
                    _empty(group)
                    removed += _rmdir(group)
            except OSError:  # somebody else sweeps it at this moment
                pass
            _rmdir(parent)
    return removed


def _empty(group: Path) -> None:
    for _ in range(200):
        pids = (group / "cgroup.procs").read_text().split()
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                pass
        os.sched_yield()


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def instance_of(pid: int) -> str:
    """A name for a process that no later process will have: its id and when it started. Raises OSError."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return f"{pid}-{stat.rpartition(')')[2].split()[19]}"


def is_alive(instance: str) -> bool:
    """True if the process with that name is still there."""
    pid = instance.partition("-")[0]
    try:
        return pid.isdigit() and instance_of(int(pid)) == instance
    except OSError:
        return False
