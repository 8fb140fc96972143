"""Runs in jails: a pool of warm guests, each given one job and never used again.

A job that needs nothing mounted takes the guest that has waited longest; one with packages or network gets a jail of its
own, because nothing can be mounted into a running one. What was taken is made anew 25 ms later, so a pool costs memory (a
few MiB a guest) and saves latency, not work. Pools are bounded by the settings; a job that finds none warm waits for a cold
start.

Fails: no bubblewrap, no cgroups, or a self-test that shows a hole → Unavailable, and nothing is run. The broker dies →
runs in hand fail with Broken, and a new broker is started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sandbox.backends.base import Broken, Collector, Figures, Handle, Sink, Unavailable, conclude
from sandbox.backends.jail.broker import Setup
from sandbox.backends.jail.link import Link
from sandbox.backends.selftest import check
from sandbox.frames import frame
from sandbox.nouns import MIB, Ended, Job, Language, Reason

_BOOT_S: Final = 60.0
_LAST_WORDS_S: Final = 20.0
_READ_BYTES: Final = 65_536
_REFILL_AFTER_S: Final = 0.025
_RESTART_PAUSES_S: Final = (0.1, 0.5, 2.0, 10.0)
GUEST_FILES: Final = Path(__file__).parent.parent.parent / "guest"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JailOptions:
    """How jails are made. Paths None: found on this machine. `uid_base` is used when we are root, and then plain jails are
    not made by bubblewrap, unless `bubblewrap_only`; `zygote` takes their interpreters from a prepared one too."""

    bwrap: str | None = None
    python: str | None = None
    node: str | None = None
    warm_python: int = 4
    warm_node: int = 2
    slots: int = 64
    uid_base: int = 230_000
    pids: int = 64
    cpus: float = 1.0
    workspace_bytes: int = 64 * MIB
    bubblewrap_only: bool = False
    zygote: bool = False


@dataclass(slots=True, eq=False)
class _Guest:
    id: str
    stdin: int
    stdout: int
    stderr: int
    ended: asyncio.Future[dict[str, Any]]
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    open_streams: int = 0
    drained: asyncio.Event = field(default_factory=asyncio.Event)


class JailBackend:
    """See the module."""

    name = "jail"

    def __init__(self, options: JailOptions) -> None:
        self._options = options
        self._link: Link | None = None
        self._languages: frozenset[Language] = frozenset()
        self._warm: dict[Language, deque[_Guest]] = {language: deque() for language in Language}
        self._made = 0
        self._watch: asyncio.Task[None] | None = None
        self._setup: Setup | None = None
        self._refilling: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Raises Unavailable."""
        setup = await asyncio.to_thread(_setup, self._options)
        self._languages = frozenset(Language) if setup.node else frozenset({Language.PYTHON})
        try:
            await self._open(setup)
        except Unavailable as error:
            if not setup.clones or setup.zygote or setup.uid_base is None:
                raise
            log.warning("jails are not cloned here (%s); bubblewrap makes them", error)
            await self._open(replace(setup, clones=False))
        self._refill()
        self._watch = asyncio.create_task(self._restart_when_lost(), name="jail broker watch")

    async def _open(self, setup: Setup) -> None:
        """A broker whose jails, made in either way, have no hole. Raises Unavailable."""
        self._setup = setup
        self._link = await Link.open(setup)
        try:
            await check(self)
            if setup.clones and setup.uid_base is not None:
                await check(self, layer=f"{self._link.directory}/etc")  # such a jail is made by bubblewrap
        except Unavailable:
            await self._link.close()
            self._link = None
            raise

    def languages(self) -> frozenset[Language]:
        return self._languages

    def state(self) -> str:
        return "up" if self._link is not None and not self._link.lost.done() else "the broker is being started again"

    @property
    def egress_directory(self) -> str:
        """Where sockets of proxies may be put, so that jails can be given them."""
        return f"{self._require().directory}/egress"

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._refilling is not None:
            self._refilling.cancel()
        self._forget_warm()
        if self._link is not None:
            await self._link.close()

    async def run(self, job: Job, handle: Handle, sink: Sink | None = None) -> Ended:
        """Raises Broken."""
        guest = self._take(job)
        link = self._require()
        loop = asyncio.get_running_loop()
        try:
            await self._until_ready(guest)
            await link.begin(guest.id, job.limits.memory_mb * MIB)
            collector = Collector(job, handle, sink)
            started = time.monotonic()
            deadline = loop.call_later(job.limits.timeout_ms / 1000, handle.stop, Reason.TIMEOUT)
            try:
                self._read(guest, collector)
                handle.attach(lambda: link.kill(guest.id))
                descriptor, guest.stdin = guest.stdin, -1
                feed = _Feed(descriptor, frame(job, collector.nonce) + job.stdin)
                try:
                    message = await asyncio.shield(guest.ended)
                finally:
                    feed.close()
            finally:
                deadline.cancel()
            duration_s = time.monotonic() - started
            async with asyncio.timeout(_LAST_WORDS_S):
                await guest.drained.wait()
        except TimeoutError:
            raise Broken("the guest's output did not end with it") from None
        finally:
            self._release(guest)
        if "cpu_us" not in message:
            raise Broken(message.get("error", "no figures"))
        collector.finish()
        figures = Figures(message["cpu_us"], message["peak_bytes"], message["oom_kills"], message["pids_refused"])
        return conclude(collector, handle, figures, duration_s)

    # -- guests

    def _require(self) -> Link:
        if self._link is None:
            raise Broken("the jail backend is not started")
        return self._link

    def _take(self, job: Job) -> _Guest:
        if job.layer is not None or job.egress is not None:
            return self._spawn(job.language, job.layer, job.egress, job.limits.workspace_bytes)
        warm = self._warm[job.language]
        while warm:
            guest = warm.popleft()
            if not guest.ended.done():
                self._refill_soon()
                return guest
            self._release(guest)
        return self._spawn(job.language)

    def _refill_soon(self) -> None:
        """Not at once: making a jail takes the broker and a core from the very run that needs them for its few ms."""
        if self._refilling is None:
            self._refilling = asyncio.get_running_loop().call_later(_REFILL_AFTER_S, self._refill)

    def _refill(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None
        for language, target in (
            (Language.PYTHON, self._options.warm_python),
            (Language.NODE, self._options.warm_node),
        ):
            if language in self._languages and self._link is not None and not self._link.lost.done():
                while len(self._warm[language]) < target:
                    self._warm[language].append(self._spawn(language))

    def _spawn(
        self,
        language: Language,
        layer: str | None = None,
        egress: str | None = None,
        workspace_bytes: int | None = None,
    ) -> _Guest:
        self._made += 1
        name = f"{language}-{self._made}"
        pipes = [os.pipe() for _ in range(3)]
        theirs = (pipes[0][0], pipes[1][1], pipes[2][1])
        ours = (pipes[0][1], pipes[1][0], pipes[2][0])
        try:
            ended = self._require().spawn(name, language, theirs, layer, egress, workspace_bytes)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in ours:
            os.set_blocking(descriptor, False)
        guest = _Guest(name, *ours, ended=ended)
        asyncio.get_running_loop().add_reader(guest.stderr, self._first_byte, guest)
        return guest

    def _first_byte(self, guest: _Guest) -> None:
        asyncio.get_running_loop().remove_reader(guest.stderr)
        guest.ready.set()

    async def _until_ready(self, guest: _Guest) -> None:
        async with asyncio.timeout(_BOOT_S):
            await guest.ready.wait()
        first = os.read(guest.stderr, 1)
        if first != b"\x06":
            try:
                said = first + os.read(guest.stderr, 500)
            except BlockingIOError:
                said = first
            raise Broken(f"the jail did not start: {said.decode('utf-8', 'replace').strip() or 'it ended at once'}")

    def _read(self, guest: _Guest, collector: Collector) -> None:
        loop = asyncio.get_running_loop()
        guest.open_streams = 2

        def reader(descriptor: int, take: Any) -> Any:
            def readable() -> None:
                try:
                    data = os.read(descriptor, _READ_BYTES)
                except BlockingIOError:
                    return
                if data:
                    take(data)
                    return
                loop.remove_reader(descriptor)
                guest.open_streams -= 1
                if guest.open_streams == 0:
                    guest.drained.set()

            return readable

        loop.add_reader(guest.stdout, reader(guest.stdout, collector.stdout))
        loop.add_reader(guest.stderr, reader(guest.stderr, collector.stderr))

    def _release(self, guest: _Guest) -> None:
        """Kill what may be alive of a guest and close our ends."""
        loop = asyncio.get_running_loop()
        if not guest.ended.done() and self._link is not None:
            self._link.kill(guest.id)
        for descriptor in (guest.stdout, guest.stderr):
            loop.remove_reader(descriptor)
            os.close(descriptor)
        if guest.stdin >= 0:
            os.close(guest.stdin)
            guest.stdin = -1

    def _forget_warm(self) -> None:
        for warm in self._warm.values():
            while warm:
                self._release(warm.popleft())

    async def _restart_when_lost(self) -> None:
        failures = 0
        while True:
            await asyncio.shield(self._require().lost)
            log.error("the broker of the jails has ended; starting another")
            self._forget_warm()
            await self._require().close()
            while True:
                try:
                    assert self._setup is not None
                    self._link = await Link.open(self._setup)
                    self._refill()
                    break
                except Unavailable as error:
                    pause = _RESTART_PAUSES_S[min(failures, len(_RESTART_PAUSES_S) - 1)]
                    failures += 1
                    log.error("no new broker (%s); trying again in %s s", error, pause)
                    await asyncio.sleep(pause)
            failures = 0


class _Feed:
    """Writes a job and its standard input as the guest reads them, then closes the descriptor, which is its own."""

    def __init__(self, descriptor: int, data: bytes) -> None:
        self._descriptor = descriptor
        self._rest = memoryview(data)
        self._is_waiting = False
        self._write()

    def _write(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest[:1_048_576]) :]
        except BlockingIOError:
            if not self._is_waiting:
                self._is_waiting = True
                asyncio.get_running_loop().add_writer(self._descriptor, self._write)
            return
        except OSError:  # nobody reads any more
            pass
        self.close()

    def close(self) -> None:
        """Stop writing; what was not taken is nobody's."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def _setup(options: JailOptions) -> Setup:
    """Find programs and check versions. Blocking. Raises Unavailable."""
    program = options.bwrap or shutil.which("bwrap")
    if program is None:
        raise Unavailable(
            "bubblewrap is not installed: `apt install bubblewrap` (Debian, Ubuntu), `dnf install bubblewrap`"
        )
    python = options.python or next(
        (p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(p)), None
    )
    if python is None:
        raise Unavailable("no Python for submitted code: install python3, or set sandbox.python")
    node = options.node or next((p for p in ("/usr/bin/node", "/usr/local/bin/node") if os.path.exists(p)), None)
    is_root = os.geteuid() == 0
    return Setup(
        bwrap=program,
        python=python,
        node=node,
        prefixes=_prefixes(python, node),
        guest_files=str(GUEST_FILES),
        uid_base=options.uid_base if is_root else None,
        uids=options.slots + options.warm_python + options.warm_node,
        pids=options.pids,
        cpus=options.cpus,
        workspace_bytes=options.workspace_bytes,
        clones=not options.bubblewrap_only,
        zygote=options.zygote and is_root and not options.bubblewrap_only,
    )


def _prefixes(python: str, node: str | None) -> list[str]:
    """Directories outside the system's own that interpreters live in, such as /usr/local in container images."""
    try:
        found = subprocess.run(  # noqa: S603 - the configured interpreter
            [python, "-I", "-S", "-c", "import sys; print(sys.base_prefix)"],
            env={},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{python} does not run: {error}") from None
    prefixes = {found} if found != "/usr" else set()
    if node is not None and not node.startswith("/usr/bin/"):
        prefixes.add(str(Path(node).resolve().parent.parent))
    return sorted(prefixes)
