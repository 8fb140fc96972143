"""The code runner, judged: which backend runs would get here and why, what it stands on, and what to type to get more.

Facts come from a sandbox that is running, by its /ready, else from this machine: then the backends are started as the
sandbox would start them, put to their self-test, and ended again, which leaves nothing. A finding is `fail` only where a
sandbox is set up (`sandbox.postgres_url`) and could not run code; elsewhere nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from config.settings import SandboxSettings
from sandbox.app import candidates
from sandbox.backends.choose import choose
from sandbox.survey import survey
from tollgate.doctor.findings import Finding, fail, ok, warn

_PROBE_S: Final = 90.0
_ASK_S: Final = 5.0
_PACKAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "debian": {"bubblewrap": "bubblewrap", "docker": "docker.io", "node": "nodejs", "npm": "npm", "python": "python3"},
    "fedora": {
        "bubblewrap": "bubblewrap",
        "docker": "moby-engine",
        "node": "nodejs",
        "npm": "npm",
        "python": "python3",
    },
    "arch": {"bubblewrap": "bubblewrap", "docker": "docker", "node": "nodejs", "npm": "npm", "python": "python"},
    "alpine": {"bubblewrap": "bubblewrap", "docker": "docker", "node": "nodejs", "npm": "npm", "python": "python3"},
    "suse": {"bubblewrap": "bubblewrap", "docker": "docker", "node": "nodejs", "npm": "npm", "python": "python3"},
}
_COMMANDS: Final = {
    "debian": "apt install",
    "fedora": "dnf install",
    "arch": "pacman -S",
    "alpine": "apk add",
    "suse": "zypper install",
}
_FAMILIES: Final = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora", "opensuse": "suse", "sles": "suse"}
_APPARMOR: Final = (
    "write `abi <abi/4.0>, include <tunables/global> profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }` to"
    " /etc/apparmor.d/bwrap and run: apparmor_parser -r /etc/apparmor.d/bwrap"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known: `backend` None where code cannot be run, `reasons` why by backend, `machine` as a survey says it.

    `is_running`: a sandbox answered. `is_wanted`: one is set up here.
    """

    backend: str | None
    reasons: Mapping[str, str]
    machine: Mapping[str, Any]
    is_running: bool
    is_wanted: bool


def install(system: str, what: str) -> str:
    """The command that installs something on a system, given the words of its os-release."""
    for word in system.split():
        family = _FAMILIES.get(word, word).partition("-")[0]
        if family in _COMMANDS:
            return f"{_COMMANDS[family]} {_PACKAGES[family][what]}"
    return f"install {_PACKAGES['debian'][what]}"


def judge(seen: Seen, settings: SandboxSettings) -> list[Finding]:
    """Every finding about the runner. Pure."""
    machine = seen.machine
    needed = seen.backend != "docker"
    found = [_backend(seen), _bubblewrap(machine, needed), _user_namespaces(machine, needed), _cgroups(machine)]
    found += [_engine(machine, settings, seen.backend), _languages(machine, settings)]
    return found


def _backend(seen: Seen) -> Finding:
    name = "sandbox.backend"
    said = "; ".join(f"{backend}: {why}" for backend, why in seen.reasons.items())
    where = "the running sandbox" if seen.is_running else "this machine"
    if seen.backend is not None:
        return ok(name, f"{where} runs code in {seen.backend} ({said})")
    detail = f"{where} runs no code, as no backend is safe ({said})"
    advice = "see the findings below for what is missing; nothing is run unsafely in the meantime"
    return fail(name, detail, advice) if seen.is_wanted or seen.is_running else warn(name, detail, advice)


def _bubblewrap(machine: Mapping[str, Any], needed: bool) -> Finding:
    name = "sandbox.bubblewrap"
    found = machine["bubblewrap"]
    if found is not None:
        return ok(name, f"{found['path']}, version {found['version'] or 'unknown'}")
    detail = "not installed" + ("" if needed else ": the docker backend is used, which is slower")
    return warn(name, detail, install(machine["system"], "bubblewrap"))


def _user_namespaces(machine: Mapping[str, Any], needed: bool) -> Finding:
    name, state = "sandbox.user_namespaces", machine["user_namespaces"]
    if state == "allowed":
        return ok(name, "ordinary users may make them")
    detail = f"forbidden to ordinary users by {state}"
    if not needed:
        return ok(name, f"{detail}; the docker backend needs none")
    setting = state.partition("=")[0]
    advice = {
        "kernel.unprivileged_userns_clone": "sysctl -w kernel.unprivileged_userns_clone=1",
        "user.max_user_namespaces": "sysctl -w user.max_user_namespaces=15000",
        "kernel.apparmor_restrict_unprivileged_userns": _APPARMOR,
    }[setting]
    return warn(name, detail, advice)


def _cgroups(machine: Mapping[str, Any]) -> Finding:
    name, found = "sandbox.cgroups", machine["cgroups"]
    controllers = ", ".join(found["controllers"]) or "no controllers"
    detail = f"{found['version']}: {controllers}"
    if found["version"] == "none":
        return warn(name, "none are mounted", "mount them: mount -t cgroup2 none /sys/fs/cgroup")
    if found["missing"]:
        missing = ", ".join(found["missing"])
        return warn(
            name,
            f"{detail}; {missing} missing",
            "start the sandbox as root, or in a systemd unit with Delegate=yes: systemctl edit tollgate-sandbox",
        )
    if not found["is_writable"]:
        return warn(
            name,
            f"{detail}; groups cannot be made here",
            "start the sandbox as root, in a systemd unit with Delegate=yes, or in a container with --privileged or a"
            " writable cgroup mount",
        )
    return ok(name, detail)


def _engine(machine: Mapping[str, Any], settings: SandboxSettings, backend: str | None) -> Finding:
    name, found, runtime = "sandbox.docker", machine["engine"], settings.docker_runtime
    is_idle = backend == "jail" or settings.backend == "jail"
    if found is None:
        if is_idle:
            return ok(name, "no Engine answers, and none is needed for jails")
        return warn(name, "no Engine answers", f"{install(machine['system'], 'docker')} && systemctl start docker")
    has_gvisor = "runsc" in found["runtimes"]
    detail = (
        f"Engine {found['version']} at {found['address']}, runc {found['runc'] or 'unknown'},"
        f" cgroup driver {found['cgroup_driver']}, gVisor {'there' if has_gvisor else 'not installed'}"
    )
    problems, advice = [], []
    if not found["has_seccomp"]:
        problems.append("no seccomp")
        advice.append("use an Engine with seccomp support")
    if found["cgroup_driver"] != "cgroupfs":
        problems.append("a cgroup driver that gives runs no group of their own")
        advice.append('put {"exec-opts": ["native.cgroupdriver=cgroupfs"]} into /etc/docker/daemon.json and restart it')
    if not found["has_image"]:
        problems.append(f"no image {settings.docker_image}")
        advice.append(f"python -m sandbox.backends.docker.image {settings.docker_image}")
    if runtime is not None and runtime not in found["runtimes"]:
        problems.append(f"no runtime {runtime}")
        advice.append("install it (gVisor: https://gvisor.dev/docs/user_guide/install) and run: runsc install")
    if not problems or is_idle:
        return ok(name, "; ".join([detail, *problems]))
    return warn(name, "; ".join([detail, *problems]), "; ".join(advice))


def _languages(machine: Mapping[str, Any], settings: SandboxSettings) -> Finding:
    name = "sandbox.languages"
    there = [f"{what} {machine[what]['version'] or ''}".strip() for what in ("python", "node", "npm") if machine[what]]
    missing = [what for what in ("python", "node") if machine[what] is None]
    if settings.node_registry is not None and machine["npm"] is None:
        missing.append("npm")
    detail = ", ".join(there) or "none"
    if missing:
        advice = "; ".join(install(machine["system"], what) for what in missing)
        return warn(name, f"{detail}; no {', no '.join(missing)}", advice)
    return ok(name, detail)


async def look(settings: SandboxSettings) -> list[Finding]:
    """The findings about the runner."""
    is_wanted = settings.postgres_url is not None
    said = await _ask(settings)
    if said is not None:
        seen = Seen(said.get("backend"), said.get("backends", {}), said["machine"], True, is_wanted)
        return judge(seen, settings)
    machine = (await survey(settings)).as_json()
    quiet = settings.model_copy(update={"warm_python": 0, "warm_node": 0})
    try:
        async with asyncio.timeout(_PROBE_S):
            choice = await choose(candidates(quiet))
            if choice.backend is not None:
                await choice.backend.close()
    except TimeoutError:
        return judge(Seen(None, {"self-test": "did not end in time"}, machine, False, is_wanted), settings)
    name = choice.backend.name if choice.backend is not None else None
    return judge(Seen(name, choice.reasons, machine, False, is_wanted), settings)


async def _ask(settings: SandboxSettings) -> dict[str, Any] | None:
    """What a sandbox that is running with these settings says of itself; None if there is none."""
    connector = aiohttp.UnixConnector(str(settings.socket)) if settings.socket is not None else None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = "http://sandbox/ready" if connector is not None else f"http://{host}:{settings.port}/ready"
    try:
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url) as response,
        ):
            said: Any = await response.json()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("machine"), dict) else None
