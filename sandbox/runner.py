"""The life of a run in the service: wait for a turn, run it, shape the reply, remember it.

Every run is a task of the runner's own, not of the request that asked for it: when the client goes away the run is
stopped, its figures are still taken and its result is still kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from sandbox import pieces
from sandbox.backends.base import Backend, Broken, Handle
from sandbox.egress.policy import Network
from sandbox.egress.proxy import Egress, Rules, Traffic
from sandbox.metrics import SandboxMetrics
from sandbox.nouns import MIB, Ended, Job, Reason, Stream
from sandbox.packages.install import Installed, NotInstalled, Packages
from sandbox.problems import BUSY, NO_BACKEND, PACKAGES_FAILED, RUN_LOST, TOO_MANY_RUNS, Refused
from sandbox.request import RunRequest, invalid
from sandbox.scheduler import Full, NoTurn, Scheduler
from sandbox.store.runs import Owner, Runs

_RETRY_S: Final = 1
_NO_BACKEND_RETRY_S: Final = 30
_TRIES: Final = 2
MAX_HELD_BYTES: Final = 256 * MIB
"""Code and input of all runs in hand, waiting ones included; beyond it, 503."""

log = logging.getLogger(__name__)

Sink = Callable[[Stream, bytes], None]


@dataclass(slots=True, eq=False)
class Live:
    """A run that has not ended. `done` is its reply, or the Refused that it came to."""

    id: str
    owner: Owner
    request: RunRequest
    created_at: datetime
    sink: Sink | None
    held_bytes: int = 0
    handle: Handle = field(default_factory=Handle)
    state: str = "queued"
    done: asyncio.Task[dict[str, Any]] | None = None
    traffic: Traffic | None = None
    installed: Installed | None = None


class Runner:
    """All runs of this process. `backend` is None where there is no safe one; `why_not` then says what to install."""

    def __init__(
        self,
        backend: Backend | None,
        why_not: str,
        scheduler: Scheduler,
        runs: Runs,
        metrics: SandboxMetrics,
        packages: Packages | None = None,
        networks: tuple[Network, ...] = (),
    ) -> None:
        self.backend = backend
        self.why_not = why_not
        self.live: dict[str, Live] = {}
        self._scheduler = scheduler
        self._runs = runs
        self._metrics = metrics
        self._packages = packages
        self._networks = networks
        self._held_bytes = 0

    def start(self, run: str, owner: Owner, request: RunRequest, sink: Sink | None = None) -> Live:
        """Begin a run. Raises Refused where it cannot be run at all."""
        if self.backend is None:
            raise Refused(
                NO_BACKEND, f"Code cannot be run safely here. {self.why_not}", retry_after_s=_NO_BACKEND_RETRY_S
            )
        if request.language not in self.backend.languages():
            raise invalid(("lang", f"{request.language} is not installed here"))
        if request.packages and (self._packages is None or not self._packages.has(request.language)):
            raise invalid(("packages", f"for {request.language} are not available here: no index is set"))
        size = len(request.stdin) + sum(len(file.content) for file in request.files)
        if self._held_bytes + size > MAX_HELD_BYTES:
            raise Refused(BUSY, retry_after_s=_RETRY_S)
        self._held_bytes += size
        live = Live(run, owner, request, datetime.now(UTC), sink, size)
        self.live[run] = live
        live.done = asyncio.create_task(self._live(live), name=f"run {run}")
        live.done.add_done_callback(lambda task: self._gone(live, task))
        return live

    async def finish(self, live: Live) -> dict[str, Any]:
        """A run's reply. Whoever waits and is cancelled stops the run. Raises Refused."""
        assert live.done is not None
        try:
            return await asyncio.shield(live.done)
        except asyncio.CancelledError:
            if not live.done.done():
                live.handle.stop()
            raise

    def find(self, run: str, owner: Owner) -> Live | None:
        """A run that has not ended, if it is the owner's."""
        live = self.live.get(run)
        if live is None or (live.owner.project, live.owner.mode) != (owner.project, owner.mode):
            return None
        return live if owner.may_see(live.owner.customer) else None

    def of(self, owner: Owner) -> list[Live]:
        """The owner's runs that have not ended, newest first."""
        return sorted((live for run in self.live if (live := self.find(run, owner))), key=lambda r: r.id, reverse=True)

    async def close(self) -> None:
        """Stop every run and wait for the ends."""
        tasks = [live.done for live in self.live.values() if live.done is not None]
        for live in tuple(self.live.values()):
            live.handle.stop()
            if live.state == "queued" and live.done is not None:
                live.done.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _gone(self, live: Live, task: asyncio.Task[dict[str, Any]]) -> None:
        self.live.pop(live.id, None)
        self._held_bytes -= live.held_bytes
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Refused):
            log.error("run %s failed", live.id, exc_info=error)

    async def _live(self, live: Live) -> dict[str, Any]:
        try:
            async with self._scheduler.turn(live.owner.project):
                live.state = "running"
                ended = await self._run(live)
        except NoTurn as error:
            self._metrics.refused.labels(error.why.name.lower()).inc()
            problem = TOO_MANY_RUNS if error.why is Full.PROJECT else BUSY
            raise Refused(problem, retry_after_s=_RETRY_S) from None
        document = await reply(live, ended)
        self._metrics.ended(live.request.language, ended)
        await self._runs.save(live.id, live.owner, live.created_at, document)
        return document

    async def _run(self, live: Live) -> Ended:
        request = live.request
        if not request.packages or self._packages is None:
            return await self._connected(live, None)
        try:
            async with self._packages.layer(request.language, request.packages) as layer:
                live.installed = layer
                return await self._connected(live, layer.path)
        except NotInstalled as error:
            raise Refused(PACKAGES_FAILED, f"The packages could not be installed: {error}") from None

    async def _connected(self, live: Live, layer: str | None) -> Ended:
        """With its way out, if it has one."""
        assert self.backend is not None
        request = live.request
        if request.is_networked:
            path = f"{self.backend.egress_directory}/{secrets.token_hex(16)}.sock"
            rules = Rules(request.allowed_hosts, self._networks)
            async with Egress(path, rules) as egress:
                ended = await self._try(live, layer, path)
            live.traffic = egress.traffic
            if egress.traffic.denied and ended.exit_code != 0 and ended.reason is Reason.EXIT:
                ended = replace(ended, reason=Reason.NET_DENIED)
            return ended
        return await self._try(live, layer, None)

    async def _try(self, live: Live, layer: str | None, egress: str | None) -> Ended:
        assert self.backend is not None
        request = live.request
        job = Job(
            id=live.id,
            language=request.language,
            files=request.files,
            entrypoint=request.entrypoint,
            args=request.args,
            env=request.env,
            stdin=request.stdin,
            limits=request.limits,
            layer=layer,
            egress=egress,
            is_streamed=live.sink is not None,
        )
        for remaining in reversed(range(_TRIES)):
            try:
                return await self.backend.run(job, live.handle, live.sink)
            except Broken as error:
                self._metrics.lost.inc()
                log.warning("run %s lost its guest: %s", live.id, error)
                if not remaining or live.sink is not None:  # what was streamed cannot be taken back
                    raise Refused(RUN_LOST, retry_after_s=_RETRY_S) from None
        raise AssertionError


async def marked(output: bytes, is_cut: bool, limit: int) -> str:
    """Output as text: what is not UTF-8 is replaced, and what was cut says so."""
    shown = await pieces.text(output)
    return f"{shown}\n[output truncated: the limit is {limit} bytes]" if is_cut else shown


async def reply(live: Live, ended: Ended) -> dict[str, Any]:
    """What the client gets, and gets again later."""
    limit = live.request.limits.output_bytes
    cut = Stream.STDERR if ended.is_truncated and len(ended.stderr) > len(ended.stdout) else Stream.STDOUT
    usage = ended.usage
    document: dict[str, Any] = {
        "id": live.id,
        "ok": ended.exit_code == 0 and ended.reason is Reason.EXIT,
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "lang": live.request.language,
        "stdout": await marked(ended.stdout, ended.is_truncated and cut is Stream.STDOUT, limit),
        "stderr": await marked(ended.stderr, ended.is_truncated and cut is Stream.STDERR, limit),
        "usage": {
            "cpuMs": math.ceil(usage.cpu_ms),
            "memMB": round(usage.memory_mb, 1),
            "durationMs": round(usage.duration_ms),
            "memMBs": math.ceil(usage.memory_mb * usage.duration_ms / 1000),
            "runs": 1,
        },
        "createdAt": live.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if ended.is_truncated:
        document["truncated"] = True
    if ended.signal is not None:
        document["signal"] = ended.signal
    if ended.artifacts:
        document["artifacts"] = [
            {"path": a.path, "size": len(a.content), "content": await pieces.base64_of(a.content)}
            for a in ended.artifacts
        ]
    if ended.artifacts_omitted:
        document["artifactsOmitted"] = ended.artifacts_omitted
    if live.installed is not None:
        is_hit = live.installed.is_hit
        document["packages"] = {"cache": "hit" if is_hit else "miss", "installMs": live.installed.install_ms}
    if live.traffic is not None:
        document["network"] = {
            "bytesIn": live.traffic.bytes_in,
            "bytesOut": live.traffic.bytes_out,
            "denied": [{"host": host, "reason": why} for host, why in live.traffic.denied.items()],
        }
    if live.request.user_context is not None:
        document["userContext"] = live.request.user_context
    return document
