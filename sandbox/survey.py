"""What this machine has of what backends need: for /ready and `tollgate doctor`, which judge it. Looking changes nothing.

Whether code can be run safely is decided by a backend's self-test alone; a survey says why it may not be so, and what a
person would install. Every question has a deadline of a few seconds; what cannot be found out is None.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from config.settings import SandboxSettings
from sandbox.backends.docker.engine import EngineFacts, facts
from sandbox.backends.jail.cgroups import NEEDED, Layout, Unusable, layout

_PROGRAM_S: Final = 5.0
_NEEDED_V2: Final = ("memory", "pids", "cpu")
_SWITCHES: Final = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that backends start: where it is, and what it calls its version."""

    path: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`version` is v1, v2, v1+v2 (controllers in v1, killing in v2) or none; `controllers` are those that can be used here.

    `is_writable`: groups can be made below our own, which takes root or a delegated group.
    """

    version: str
    controllers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """See the module. `user_namespaces` is "allowed", or the switch that forbids them to ordinary users."""

    system: str
    kernel: str
    is_root: bool
    bubblewrap: Program | None
    python: Program | None
    node: Program | None
    npm: Program | None
    cgroups: Cgroups
    user_namespaces: str
    engine: EngineFacts | None

    def as_json(self) -> dict[str, Any]:
        """For /ready."""
        return asdict(self)


async def survey(settings: SandboxSettings) -> Survey:
    """Look at this machine."""
    return await asyncio.to_thread(_survey, settings)


def _survey(settings: SandboxSettings) -> Survey:
    return Survey(
        system=_system(_read("/etc/os-release")),
        kernel=platform.release(),
        is_root=os.geteuid() == 0,
        bubblewrap=_program(settings.bwrap, "bwrap"),
        python=_program(settings.python, "/usr/bin/python3", "/usr/local/bin/python3"),
        node=_program(settings.node, "/usr/bin/node", "/usr/local/bin/node"),
        npm=_program(None, "npm"),
        cgroups=_cgroups(),
        user_namespaces=forbidden_by({name: _read(f"/proc/sys/{name}").strip() for name in _SWITCHES}) or "allowed",
        engine=facts(settings.docker_url, settings.docker_image),
    )


def forbidden_by(switches: Mapping[str, str]) -> str | None:
    """The kernel's switch that keeps ordinary users from making user namespaces; "" is a switch that is not there."""
    if switches["kernel/unprivileged_userns_clone"] == "0":
        return "kernel.unprivileged_userns_clone=0"
    if switches["user/max_user_namespaces"] == "0":
        return "user.max_user_namespaces=0"
    if switches["kernel/apparmor_restrict_unprivileged_userns"] == "1":
        return "kernel.apparmor_restrict_unprivileged_userns=1"
    return None


def _cgroups() -> Cgroups:
    try:
        own = layout(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    except Unusable:
        return Cgroups("none", missing=_NEEDED_V2)
    is_writable = all(
        os.access(directory, os.W_OK) for directory in (*own.v1.values(), own.v2) if directory is not None
    )
    offered = _read(f"{own.v2}/cgroup.controllers").split() if own.v2 is not None else []
    return controllers_of(own, offered, is_writable)


def controllers_of(own: Layout, offered: list[str], is_writable: bool) -> Cgroups:
    """What of cgroups there is; `offered` are the controllers that our v2 group has."""
    if not own.is_v2:
        return Cgroups("v1+v2" if own.v2 is not None else "v1", NEEDED, (), is_writable)
    missing = tuple(name for name in _NEEDED_V2 if name not in offered)
    return Cgroups("v2", tuple(offered), missing, is_writable)


def _program(configured: Path | None, *names: str) -> Program | None:
    found = str(configured) if configured is not None else next(filter(None, map(shutil.which, names)), None)
    if found is None or not os.path.exists(found):
        return None
    try:
        said = subprocess.run(  # noqa: S603 - the configured interpreter, or the system's
            [found, "--version"],
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=_PROGRAM_S,
            check=True,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return Program(found, None)
    return Program(found, (said.split() or [""])[-1].lstrip("v") or None)


def _system(text: str) -> str:
    """ID and ID_LIKE of /etc/os-release, as words."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return " ".join(fields.get(name, "").strip().strip("\"'") for name in ("ID", "ID_LIKE")).strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
