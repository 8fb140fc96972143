"""Installing packages: a run of our own program in a jail that reaches only the index, and whose files become a layer.

Requests for the same layer wait for one installation. Bounds: 120 s, 1 GiB of memory, 256 MiB and 20,000 files.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sandbox.backends.base import Backend, Handle
from sandbox.egress.policy import Network
from sandbox.egress.proxy import Egress, Rules
from sandbox.nouns import MIB, Job, Language, Limits, Reason, SourceFile
from sandbox.packages.layers import Layers, name_of

_LIMITS: Final = Limits(
    timeout_ms=120_000,
    memory_mb=1_024,
    output_bytes=MIB,
    workspace_bytes=320 * MIB,  # unpacked once in /tmp, copied once
    artifact_bytes=256 * MIB,
    artifact_count=20_000,
)
_FORMAT: Final = "1"
"""Part of every layer's name: change it when what is in a layer changes."""

log = logging.getLogger(__name__)

_PROGRAM: Final = """
import os, subprocess, sys
language, index, *wanted = sys.argv[1:]
proxy = "http://127.0.0.1:3128"
env = {"HOME": "/tmp", "PATH": "/usr/bin:/bin", "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "ALL_PROXY": proxy,
       "http_proxy": proxy, "https_proxy": proxy, "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
       "TOKIO_WORKER_THREADS": "2", "RAYON_NUM_THREADS": "2", "UV_CONCURRENT_DOWNLOADS": "4", "UV_CONCURRENT_BUILDS": "1",
       "PYC_INVALIDATION_MODE": "UNCHECKED_HASH"}
if language == "python":
    command = ["/pkgs/uv", "pip", "install", "--quiet", "--target", "/workspace/out", "--only-binary", ":all:",
               "--no-config", "--no-cache", "--no-python-downloads", "--link-mode", "copy", "--compile-bytecode",
               "--python", sys.executable, "--default-index", index, "--", *wanted]
else:
    os.makedirs("/workspace/out", exist_ok=True)
    command = ["npm", "install", "--prefix", "/workspace/out", "--ignore-scripts", "--no-audit", "--no-fund",
               "--no-update-notifier", "--install-links=false", "--bin-links=false", "--loglevel=error",
               "--registry", index, "--cache", "/tmp/npm", "--", *wanted]
status = subprocess.run(command, env=env, stdin=subprocess.DEVNULL).returncode
for name in (".lock", ".gitignore"):
    try: os.unlink("/workspace/out/" + name)
    except OSError: pass
sys.exit(status)
"""


class NotInstalled(Exception):
    """The packages could not be installed. The message is for whoever asked for them."""


@dataclass(frozen=True, slots=True)
class Index:
    """Where packages of a language come from: its URL, and the hosts that it sends clients to (its own among them)."""

    url: str
    hosts: tuple[str, ...] = ()

    @property
    def all_hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(((urlsplit(self.url).hostname or ""), *self.hosts)))


@dataclass(frozen=True, slots=True)
class Installed:
    """A layer, and what it took: `is_hit` if it was there."""

    name: str
    path: str
    is_hit: bool
    install_ms: int


class Packages:
    """All layers of this process. `indexes` are of the languages whose packages can be had here."""

    def __init__(
        self, backend: Backend, layers: Layers, indexes: dict[Language, Index], networks: tuple[Network, ...] = ()
    ) -> None:
        self._backend = backend
        self._layers = layers
        self._indexes = indexes
        self._networks = networks
        self._installing: dict[str, asyncio.Task[str]] = {}
        self._tools: str | None = None

    def has(self, language: Language) -> bool:
        """True if packages of a language can be installed here."""
        return language in self._indexes

    @asynccontextmanager
    async def layer(self, language: Language, requirements: tuple[str, ...]) -> AsyncIterator[Installed]:
        """A layer of what is required, in its canonical spelling; it stays while the block runs. Raises NotInstalled."""
        index = self._indexes[language]
        name = name_of((_FORMAT, language, self._backend.name, index.url, *requirements))
        with self._layers.using(name):
            began = time.monotonic()
            path = await asyncio.to_thread(self._layers.find, name)
            if path is not None:
                yield Installed(name, path, is_hit=True, install_ms=0)
                return
            task = self._installing.get(name)
            if task is None:
                task = asyncio.create_task(self._install(name, language, index, requirements), name=f"install {name}")
                self._installing[name] = task
                task.add_done_callback(lambda done: self._done(name, done))
            path = await asyncio.shield(task)
            yield Installed(name, path, is_hit=False, install_ms=round((time.monotonic() - began) * 1000))

    def _done(self, name: str, task: asyncio.Task[str]) -> None:
        self._installing.pop(name, None)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, NotInstalled):
            log.error("installing %s failed", name, exc_info=error)

    async def _install(self, name: str, language: Language, index: Index, requirements: tuple[str, ...]) -> str:
        if self._tools is None:
            self._tools = await asyncio.to_thread(self._make_tools)
        path = f"{self._backend.egress_directory}/{secrets.token_hex(16)}.sock"
        async with Egress(path, Rules(index.all_hosts, self._networks)) as egress:
            job = Job(
                id=f"install-{name[:12]}",
                language=Language.PYTHON,  # whatever is installed, our program is Python
                files=(SourceFile("main.py", _PROGRAM.encode()),),
                entrypoint="main.py",
                args=(language, index.url, *requirements),
                limits=_LIMITS,
                layer=self._tools,
                egress=egress.path,
            )
            ended = await self._backend.run(job, Handle())
        if ended.exit_code != 0 or ended.reason is not Reason.EXIT:
            said = ended.stderr.decode("utf-8", "replace").strip() or ended.reason
            raise NotInstalled("\n".join(said.splitlines()[-8:])[-1_000:])
        if ended.artifacts_omitted:
            raise NotInstalled("larger than a layer may be (256 MiB, 20,000 files)")
        try:
            return await asyncio.to_thread(self._layers.add, name, ended.artifacts)
        except ValueError as error:
            raise NotInstalled(str(error)) from None

    def _make_tools(self) -> str:
        """A layer with the installer's own binary."""
        import uv

        binary = Path(uv.find_uv_bin())
        name = name_of(("tools", _FORMAT, str(binary.stat().st_size), str(binary.stat().st_mtime_ns)))
        found = self._layers.find(name)
        if found is None:
            found = self._layers.add(name, ())
            shutil.copyfile(binary, f"{found}/uv.new")
            os.chmod(f"{found}/uv.new", 0o755)  # noqa: S103 - executed by jails' users
            os.rename(f"{found}/uv.new", f"{found}/uv")
        return found
