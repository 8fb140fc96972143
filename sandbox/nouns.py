"""What every part of the code runner speaks of: a job, its limits, how it ended and what it used. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MIB: Final = 1024 * 1024


class Language(StrEnum):
    """What submitted code is written in."""

    PYTHON = "python"
    NODE = "node"


class Reason(StrEnum):
    """Why a run ended."""

    EXIT = "exit"  # by itself, whatever its exit code
    TIMEOUT = "timeout"
    OOM = "oom"
    OUTPUT = "output"  # it wrote more than maxOutputBytes
    PIDS = "pids"
    DISK = "disk"
    SIGNAL = "signal"
    NET_DENIED = "net_denied"
    STOPPED = "stopped"  # by its owner, or because the service ended


class Stream(StrEnum):
    """Where output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"


EXIT_CODES: Final = {Reason.TIMEOUT: 124, Reason.OOM: 137, Reason.OUTPUT: 153, Reason.STOPPED: 143}
"""Exit codes of runs that were ended from outside, as shells and timeout(1) would report them."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file placed in /workspace before the run. `path` is relative and has no `..`."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `output_bytes` is for both streams together; `pids` counts processes and threads."""

    timeout_ms: int = 3_000
    memory_mb: int = 256
    output_bytes: int = MIB
    pids: int = 64
    workspace_bytes: int = 64 * MIB
    artifact_bytes: int = 4 * MIB
    artifact_count: int = 64


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be made. `files` includes the entrypoint. `layer` is a directory of installed packages, `egress` the
    unix socket of this run's proxy; without one the run has no network."""

    id: str
    language: Language
    files: tuple[SourceFile, ...]
    entrypoint: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = b""
    limits: Limits = Limits()
    layer: str | None = None
    egress: str | None = None
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that the run left under /workspace/out. `path` is relative to there."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used, measured from outside: CPU of all its processes, peak memory of all together."""

    cpu_ms: float
    memory_mb: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    exit_code: int
    reason: Reason
    stdout: bytes
    stderr: bytes
    is_truncated: bool
    usage: Usage
    artifacts: tuple[Artifact, ...] = ()
    artifacts_omitted: int = 0
    signal: int | None = None
