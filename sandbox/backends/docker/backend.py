"""Runs in single-use containers; see the package.

Starting a container takes a quarter of a second of one CPU, so a warm pool saves latency, not work: sustained, an Engine
makes some four runs a second and core. Fails: no Engine, no image, a wrong cgroup driver or a self-test that shows a hole →
Unavailable; an Engine that does not answer during a run → Broken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.backends.base import Broken, Collector, Figures, Handle, Sink, Unavailable, conclude
from sandbox.backends.docker.engine import Container, Engine
from sandbox.backends.jail.cgroups import Group, Layout, Unusable, instance_of, is_alive, layout
from sandbox.backends.selftest import check
from sandbox.frames import READY, frame
from sandbox.nouns import MIB, Ended, Job, Language, Limits, Reason

_PREFIX: Final = "tollgate-docker-"
_BOOT_S: Final = 60.0
_GONE_S: Final = 20.0
_READ_BYTES: Final = 65_536
_STDOUT: Final = 1
_NEARLY_BYTES: Final = 128 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """How containers are made. `url` None: DOCKER_HOST, else the usual socket. `runtime` such as runsc (gVisor)."""

    url: str | None = None
    image: str = "tollgate-sandbox"
    runtime: str | None = None
    warm_python: int = 2
    warm_node: int = 1
    pids: int = 64
    cpus: float = 1.0
    workspace_bytes: int = 64 * MIB


@dataclass(slots=True, eq=False)
class _Guest:
    container: Container
    group: Group
    begun: bytes
    """What was read of its output before it was given a job: the frame with READY."""


class DockerBackend:
    """See the module."""

    name = "docker"

    def __init__(self, options: DockerOptions) -> None:
        self._options = options
        self._instance = instance_of(os.getpid())
        self._engine: Engine | None = None
        self._parent: Layout | None = None
        self._trees: list[Path] = []
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="docker")
        self._warm: dict[Language, deque[asyncio.Task[_Guest]]] = {language: deque() for language in Language}
        self._ends: set[asyncio.Task[None]] = set()
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._made = 0
        self._is_closing = False

    async def start(self) -> None:
        """Raises Unavailable."""
        options = self._options
        if os.geteuid() != 0:
            raise Unavailable("the docker backend needs root, for cgroups of its own")
        self._engine = await self._blocking(Engine, options.url, options.image, options.runtime, self._instance)
        try:
            for warning in await self._blocking(self._engine.check):
                log.warning(warning)
            await self._blocking(self._engine.reap, is_alive)
            self._trees, self._parent = await self._blocking(_make_parents, self._instance)
            self._directory = tempfile.TemporaryDirectory(prefix="tollgate-egress-")
            os.chmod(self._directory.name, 0o711)  # noqa: S103 - containers' users pass it, by names they are given
            await check(self)
        except (Unusable, OSError) as error:
            await self.close()
            raise Unavailable(f"no cgroups for containers: {error}") from None
        except BaseException:
            await self.close()
            raise
        self._refill()

    def languages(self) -> frozenset[Language]:
        return frozenset(Language)

    @property
    def egress_directory(self) -> str:
        assert self._directory is not None
        return self._directory.name

    def state(self) -> str:
        return "up" if not self._is_closing else "closing"

    async def close(self) -> None:
        self._is_closing = True
        for warm in self._warm.values():
            while warm:
                with suppress(Broken):
                    self._end(await warm.popleft())
        while self._ends:
            await asyncio.gather(*self._ends, return_exceptions=True)
        if self._engine is not None:
            await self._blocking(self._engine.close)
        for tree in self._trees:
            with suppress(OSError):
                (tree / (_PREFIX + self._instance)).rmdir()
        if self._directory is not None:
            self._directory.cleanup()
        self._threads.shutdown(wait=True)

    async def run(self, job: Job, handle: Handle, sink: Sink | None = None) -> Ended:
        """Raises Broken."""
        guest = await self._take(job)
        loop = asyncio.get_running_loop()
        stream = guest.container.stream
        try:
            try:
                guest.group.begin(job.limits.memory_mb * MIB)
            except OSError as error:
                raise Broken(f"the container could not be limited: {error}") from None
            collector = Collector(job, handle, sink)
            demultiplexer = Demultiplexer(collector)
            started = time.monotonic()
            deadline = loop.call_later(job.limits.timeout_ms / 1000, handle.stop, Reason.TIMEOUT)
            handle.attach(lambda: _kill(guest.group))
            feeding = asyncio.create_task(_feed(stream, frame(job, collector.nonce) + job.stdin), name="feed")
            try:
                while data := await _receive(stream):
                    demultiplexer.feed(data)
            finally:
                deadline.cancel()
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            duration_s = time.monotonic() - started
            collector.finish()
            return conclude(collector, handle, await _figures(guest.group, job.limits), duration_s)
        finally:
            self._end(guest)

    # -- guests

    async def _take(self, job: Job) -> _Guest:
        if job.layer is not None or job.egress is not None:
            return await self._make(job.language, job.layer, job.egress, job.limits.workspace_bytes)
        warm = self._warm[job.language]
        while warm:
            task = warm.popleft()
            try:
                guest = await asyncio.shield(task)
            except asyncio.CancelledError:
                warm.append(task)
                raise
            except Broken as error:
                log.warning("a warm container was lost: %s", error)
                continue
            self._refill()
            return guest
        return await self._make(job.language)

    def _refill(self) -> None:
        targets = ((Language.PYTHON, self._options.warm_python), (Language.NODE, self._options.warm_node))
        for language, target in targets:
            while not self._is_closing and len(self._warm[language]) < target:
                task = asyncio.create_task(self._make(language), name=f"warm {language}")
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told when it is taken
                self._warm[language].append(task)

    async def _make(
        self,
        language: Language,
        layer: str | None = None,
        egress: str | None = None,
        workspace_bytes: int | None = None,
    ) -> _Guest:
        assert self._engine is not None
        assert self._parent is not None
        self._made += 1
        size = workspace_bytes or self._options.workspace_bytes
        name = f"{self._made}"
        group = Group(name, self._parent)
        parent = f"/{_PREFIX}{self._instance}/{name}"
        starting = asyncio.ensure_future(self._blocking(self._start, group, language, parent, layer, egress, size))
        try:
            container: Container = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda done: self._abandon(done, group))
            raise
        guest = _Guest(container, group, b"")
        try:
            async with asyncio.timeout(_BOOT_S):
                while not guest.begun.endswith(READY):
                    data = await _receive(container.stream)
                    guest.begun += data
                    if not data or len(guest.begun) > 4096:
                        said = guest.begun[8:].decode("utf-8", "replace").strip()
                        raise Broken(f"the container did not start: {said or 'it ended at once'}")
        except TimeoutError:
            self._end(guest)
            raise Broken("a container did not become ready") from None
        except BaseException:
            self._end(guest)
            raise
        return guest

    def _start(
        self, group: Group, language: str, parent: str, layer: str | None, egress: str | None, workspace_bytes: int
    ) -> Container:
        assert self._engine is not None
        try:
            group.make(self._options.pids, self._options.cpus)
            return self._engine.start(language, parent, workspace_bytes, layer, egress)
        except OSError as error:
            raise Broken(f"no cgroup for a container: {error}") from None
        except Broken:
            self._remove_groups(group)
            raise

    def _abandon(self, done: asyncio.Future[Container], group: Group) -> None:
        if not done.cancelled() and done.exception() is None:
            self._end(_Guest(done.result(), group, b""))

    def _end(self, guest: _Guest) -> None:
        """Remove a container and its groups, behind whoever used it."""
        guest.container.stream.close()
        task = asyncio.create_task(self._remove(guest), name="remove container")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _remove(self, guest: _Guest) -> None:
        assert self._engine is not None
        await self._blocking(self._engine.remove, guest.container.id)
        await self._blocking(self._remove_groups, guest.group)

    def _remove_groups(self, group: Group) -> None:
        name = group.name
        for tree in self._trees:  # the Engine makes the parent in trees that are none of ours, too
            directory = tree / (_PREFIX + self._instance) / name
            for path in (*directory.glob("*/"), directory):
                with suppress(OSError):
                    path.rmdir()

    async def _blocking(self, call: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)


class Demultiplexer:
    """The Engine's framing of a stream without a terminal: one byte of which stream, three of nothing, four of length."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._pending = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what came, cut anywhere."""
        self._pending += data
        pending, at = self._pending, 0
        while len(pending) - at >= 8:
            end = at + 8 + int.from_bytes(pending[at + 4 : at + 8], "big")
            if end > len(pending):
                break
            take = self._collector.stdout if pending[at] == _STDOUT else self._collector.stderr
            take(bytes(pending[at + 8 : end]))
            at = end
        del pending[:at]


async def _receive(stream: socket.socket) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(stream, _READ_BYTES)
    except ConnectionError:
        return b""


async def _feed(stream: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # nobody reads any more
        await asyncio.get_running_loop().sock_sendall(stream, data)
        stream.shutdown(socket.SHUT_WR)


def _kill(group: Group) -> None:
    group.kill()


async def _figures(group: Group, limits: Limits) -> Figures:
    """What a run used, once nothing of it is alive. Raises Broken.

    On cgroup v1 what was refused is counted in the container's own group, which is gone with it. What was used at most is
    counted in ours, and a run that was at its limit is one that was held there.
    """
    deadline = time.monotonic() + _GONE_S
    while group.pids():
        if time.monotonic() > deadline:
            group.kill()
            raise Broken("a container did not end")
        await asyncio.sleep(0.001)
    try:
        found = group.read()
    except (OSError, ValueError, KeyError) as error:
        raise Broken(f"no figures: {error}") from None
    was_full = found.peak_bytes >= limits.memory_mb * MIB - _NEARLY_BYTES
    was_crowded = found.pids_peak >= limits.pids
    return Figures(found.cpu_us, found.peak_bytes, max(found.oom_kills, was_full), max(found.pids_refused, was_crowded))


def _make_parents(instance: str) -> tuple[list[Path], Layout]:
    """The roots of all cgroup trees, and our group below them. Raises Unusable, OSError."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    own = re.sub(r"(?m)^(\d+:[^:]*):.*$", r"\1:/", Path("/proc/self/cgroup").read_text())
    roots = layout(own, mountinfo)
    if roots.is_v2:
        assert roots.v2 is not None
        trees = [roots.v2]
        (roots.v2 / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    else:
        trees = [
            Path(line.split(" ")[4]) for line in mountinfo.splitlines() if line.partition(" - ")[2].startswith("cgroup")
        ]
    parent = Layout({n: d / (_PREFIX + instance) for n, d in roots.v1.items()}, None, is_v2=False)
    if roots.is_v2:
        assert roots.v2 is not None
        parent = Layout({}, roots.v2 / (_PREFIX + instance), is_v2=True)
    for tree in trees:
        for old in tree.glob(_PREFIX + "[0-9]*"):
            if not is_alive(old.name.removeprefix(_PREFIX)):
                for path in (*old.glob("*/*/"), *old.glob("*/"), old):
                    with suppress(OSError):
                        path.rmdir()
    for directory in dict.fromkeys([*parent.v1.values(), *([parent.v2] if parent.v2 is not None else [])]):
        directory.mkdir(exist_ok=True)
        if parent.is_v2:
            (directory / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    return trees, parent
