"""What a backend is to the rest of the plane, and how a run's end is judged, which is the same for all of them.

A backend makes guests ahead of time, gives each one job, ends it when it must, and reads what it used from outside.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sandbox.frames import NONCE_BYTES, ErrorStream
from sandbox.nouns import EXIT_CODES, MIB, Ended, Job, Language, Reason, Stream, Usage

Sink = Callable[[Stream, bytes], None]
"""Takes output as it arrives, already capped. Must not wait."""


class Unavailable(Exception):
    """This backend cannot run code safely here. The message says why, and what to install or change."""


class Broken(Exception):
    """A run failed through no fault of its code: the backend lost the guest. It may be tried again."""


class Handle:
    """A running run, for whoever may want to stop it: `stop` may be called at any time, from before the start on."""

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._end: Callable[[], None] | None = None

    def stop(self, reason: Reason = Reason.STOPPED) -> None:
        """End the run; the first reason given stays."""
        if self.reason is None:
            self.reason = reason
            if self._end is not None:
                self._end()

    def attach(self, end: Callable[[], None]) -> None:
        """How to end it, once there is something to end; at once if it was stopped before."""
        self._end = end
        if self.reason is not None:
            end()


class Backend(Protocol):
    """Where runs happen."""

    name: str

    async def start(self) -> None:
        """Check that it is safe here and warm up. Raises Unavailable."""

    async def run(self, job: Job, handle: Handle, sink: Sink | None = None) -> Ended:
        """Run a job to its end. Cancelling ends the run and leaves nothing behind. Raises Broken."""

    def languages(self) -> frozenset[Language]:
        """What it can run."""

    @property
    def egress_directory(self) -> str:
        """Where the sockets of runs' proxies are put, so that guests can be given them."""

    def state(self) -> str:
        """`up`, or what is wrong, in a few words."""

    async def close(self) -> None:
        """End every run and remove everything."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the kernel says a run used, all its processes together."""

    cpu_us: int
    peak_bytes: int
    oom_kills: int
    pids_refused: int


class Collector:
    """What a run writes, within its limit. `handle` is stopped when it writes more than it may."""

    def __init__(self, job: Job, handle: Handle, sink: Sink | None) -> None:
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self.errors = ErrorStream(self.nonce, job.limits)
        self.is_truncated = False
        self._handle = handle
        self._sink = sink
        self._room = job.limits.output_bytes
        self._parts: dict[Stream, list[bytes]] = {Stream.STDOUT: [], Stream.STDERR: []}

    def stdout(self, data: bytes) -> None:
        """Standard output arrived."""
        self._take(Stream.STDOUT, data)

    def stderr(self, data: bytes) -> None:
        """Standard error arrived: the code's, and the guest's trailer."""
        self._take(Stream.STDERR, self.errors.feed(data))

    def finish(self) -> None:
        """Both streams ended."""
        self._take(Stream.STDERR, self.errors.rest())

    def text(self, stream: Stream) -> bytes:
        """What came on a stream so far."""
        return b"".join(self._parts[stream])

    def _take(self, stream: Stream, data: bytes) -> None:
        if not data or self.is_truncated:
            return
        if len(data) > self._room:
            data = data[: self._room]
            self.is_truncated = True
            self._handle.stop(Reason.OUTPUT)
        self._room -= len(data)
        if data:
            self._parts[stream].append(data)
            if self._sink is not None:
                self._sink(stream, data)


def conclude(collector: Collector, handle: Handle, figures: Figures, duration_s: float) -> Ended:
    """Judge how a run ended: by what we did to it, else by what the kernel counted, else by what the guest says."""
    trailer = collector.errors.trailer()
    code, signal = (trailer.exit_code, trailer.signal) if trailer is not None else (137, 9)
    reason = Reason.EXIT if signal is None else Reason.SIGNAL
    if handle.reason is not None and (trailer is None or handle.reason is Reason.OUTPUT):
        reason, signal = handle.reason, None
    elif code != 0 and figures.oom_kills and (trailer is None or signal == 9):
        reason = Reason.OOM
    elif code != 0 and figures.pids_refused:
        reason = Reason.PIDS
    elif code != 0 and trailer is not None and (trailer.is_disk_full or signal == 25):  # SIGXFSZ
        reason = Reason.DISK
    elif code != 0 and figures.oom_kills:
        reason = Reason.OOM
    exit_code = EXIT_CODES.get(reason, code)
    if reason is Reason.OOM and trailer is not None and signal is None:
        exit_code = code  # it went on without the child that was killed, and told us its own
    return Ended(
        exit_code=exit_code,
        reason=reason,
        stdout=collector.text(Stream.STDOUT),
        stderr=collector.text(Stream.STDERR),
        is_truncated=collector.is_truncated,
        usage=Usage(figures.cpu_us / 1000, figures.peak_bytes / MIB, duration_s * 1000),
        artifacts=trailer.artifacts if trailer is not None else (),
        artifacts_omitted=trailer.omitted if trailer is not None else 0,
        signal=signal,
    )
