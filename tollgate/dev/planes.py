"""Starting one plane as a child of `tollgate dev` and waiting until it says it is ready.

Settings reach it through its environment, complete, so that no file is read again: command lines are visible to all.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from config.load import FILE_VARIABLE, PREFIX, to_environment
from config.settings import Settings
from tollgate.dev.child import Child, ChildError, spawn
from tollgate.dev.supervisor import StartError

_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1"))
_READY_DEADLINE_S: Final = 60.0
_POLL_S: Final = 0.05
_STOP_MARGIN_S: Final = 10.0

TOLLGATE: Final = (sys.executable, "-P", "-m", "tollgate.cli")
"""Our own command line; -P keeps packages of the current folder from standing in for ours."""


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**inherited, **to_environment(settings), FILE_VARIABLE: os.devnull}


def base_url(host: str, port: int, scheme: str = "http") -> str:
    """Where a server that listens on `host` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def gateway_url(settings: Settings) -> str:
    """Where clients on this machine reach the gateway."""
    gateway = settings.gateway
    return base_url(gateway.host, gateway.port, "http" if gateway.tls_certificate is None else "https")


def with_admin_behind_gateway(settings: Settings) -> Settings:
    """The settings with admin's paths served at the gateway's origin too, unless they say otherwise.

    The pages are then there, mail is shown at /dev/mail unless it really leaves, and webhooks may go to this machine.
    """
    admin, gateway = settings.admin, settings.gateway
    if gateway.admin_url is None:
        gateway = gateway.model_copy(update={"admin_url": base_url(admin.host, admin.port)})
        proxies = (*admin.trusted_proxies, *_LOOPBACK, *gateway.trusted_proxies)
        admin = admin.model_copy(update={"trusted_proxies": proxies})
    admin = admin.model_copy(
        update={
            "public_url": admin.public_url or gateway_url(settings),
            "show_mail": settings.mail.transport == "console",
        }
    )
    worker = settings.worker.model_copy(update={"webhooks_to_private": True})
    return settings.model_copy(update={"gateway": gateway, "admin": admin, "worker": worker})


def sandbox_url(settings: Settings) -> str:
    """Where the gateway reaches the sandbox."""
    return base_url(settings.sandbox.host, settings.sandbox.port)


def with_sandbox_behind_gateway(settings: Settings) -> Settings:
    """The settings with a secret that gateway and sandbox share, new at each start unless they name one."""
    secret = settings.sandbox.secret or SecretStr(secrets.token_urlsafe(32))
    sandbox = settings.sandbox.model_copy(update={"secret": secret, "socket": None})
    gateway = settings.gateway.model_copy(update={"sandbox_url": settings.gateway.sandbox_url or sandbox_url(settings)})
    return settings.model_copy(update={"gateway": gateway, "sandbox": sandbox})


def for_sandbox(settings: Settings) -> Settings:
    """What the plane that runs other people's code is told: its own section, and nothing that opens the control plane."""
    return Settings(log_format=settings.log_format, log_level=settings.log_level, sandbox=settings.sandbox)


def with_spool_in(settings: Settings, state_dir: Path) -> Settings:
    """The settings with the gateway's spool among the other state, unless they name a place of their own."""
    if "spool_dir" in settings.gateway.model_fields_set:
        return settings
    gateway = settings.gateway.model_copy(update={"spool_dir": state_dir.absolute() / "spool"})
    return settings.model_copy(update={"gateway": gateway})


def ready_urls(settings: Settings) -> dict[str, str]:
    """What each plane answers with 200 once it can work."""
    admin, worker = settings.admin, settings.worker
    return {
        "worker": base_url(worker.host, worker.metrics_port) + "/ready",
        "admin": base_url(admin.host, admin.port) + "/ready",
        "gateway": gateway_url(settings) + "/ready",
        # Not /ready: where no code can be run safely the sandbox says so, and everything else works.
        "sandbox": base_url(settings.sandbox.host, settings.sandbox.port) + "/health",
    }


async def start_plane(name: str, settings: Settings, retract: Path) -> Child:
    """Start `tollgate NAME` and wait until it is ready; `retract` is a file that goes when we are killed.

    Raises StartError, leaving nothing running.
    """
    grace_s = settings.gateway.drain_timeout_ms / 1000 + _STOP_MARGIN_S if name == "gateway" else 20.0
    env = environment(for_sandbox(settings) if name == "sandbox" else settings)
    return await start_http([*TOLLGATE, name], name, ready_urls(settings)[name], env, grace_s, retract)


async def start_http(
    program: Sequence[str], name: str, ready_url: str, env: dict[str, str], grace_s: float, retract: Path | None = None
) -> Child:
    """Start an HTTP server and wait until `ready_url` answers 200. Raises StartError, leaving nothing running."""
    try:
        child = spawn(program, name=name, env=env, grace_s=grace_s, retract=retract)
    except ChildError as error:
        raise StartError(str(error)) from None
    try:
        async with asyncio.timeout(_READY_DEADLINE_S):
            while not await _is_ready(ready_url):
                if child.returncode is not None:
                    raise StartError(f"{name} ended with status {child.returncode} before it was ready")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        await _end(child)
        raise StartError(f"{name} was not ready within {_READY_DEADLINE_S:.0f} s ({ready_url})") from None
    except BaseException:
        await _end(child)
        raise
    return child


async def _end(child: Child) -> None:
    child.hurry()
    await child.ended()


async def _is_ready(url: str) -> bool:
    """One GET without a client library: only the status counts, and the answer ends with the connection."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":  # our own child, on a name its certificate need not have
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
            try:
                request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False


def children_of(pid: int) -> list[int]:
    """The child processes of `pid`, such as a gateway's workers; empty where there is no /proc.

    The kernel is asked for these alone: reading every process's state each second took a twelfth of a core.
    """
    found: set[int] = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            found.update(int(child) for child in listed.read_text().split())
    return sorted(child for child in found if _is_alive(child))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
