"""The stack of the faults, with a sandbox in place of an origin: real processes, the demo's own routes in front.

The sandbox has a database and an environment of its own, as in production. It is started again after each kill, as a
supervisor would; what it left is looked for past its own code (tests.sandbox.traces, and `more_than_warm` here).
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import psutil

from config.load import to_environment
from sandbox.backends.jail.cgroups import instance_of, layout
from tests.faults.origin import Origin
from tests.faults.stack import Stack
from tests.sandbox.service import SECRET, settings
from tests.sandbox.traces import Traces, children_with
from tests.support.gateway import Catalogue
from tollgate.dev.demo import runner
from tollgate.dev.server import free_port

AT_ONCE: Final = 8
_WARM_PYTHON, _WARM_NODE = 3, 1
_READY_S: Final = 60.0
DATABASE: Final = "tollgate_sandbox"


class RunnerStack(Stack):
    """See the module. `more` are settings of the sandbox."""

    def __init__(self, **more: Any) -> None:
        super().__init__(Origin())
        self.sandbox_port, self._sandbox_metrics_port = free_port(), free_port()
        self._more = more

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self.sandbox_port}"

    async def start(self) -> None:
        await super().start()
        connection = await asyncpg.connect(self.postgres.url)
        await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()
        self.start_sandbox()
        await self.sandbox_ready()

    async def _seed(self, rows: Catalogue) -> None:
        await rows.project()
        quotas = dict.fromkeys(("requests", "runs", "cpu_ms", "mem_mb_s"))
        await rows.tier("free", default=True, quotas=quotas)
        self.key = await rows.key("sk")
        for route in runner(self.sandbox_url).routes:
            spec = route.model_dump(exclude={"name", "path", "upstream"}, exclude_unset=True)
            await rows.route(route.name, route.path, [self.sandbox_url], **spec)

    def gateway_settings(self) -> dict[str, str]:
        return {"TOLLGATE_GATEWAY_SANDBOX_URL": self.sandbox_url, "TOLLGATE_SANDBOX_SECRET": SECRET}

    def start_sandbox(self) -> None:
        """Start it, or start it again."""
        url = self.postgres.url.rpartition("/")[0] + "/" + DATABASE
        given = settings(
            url,
            port=self.sandbox_port,
            metrics_port=self._sandbox_metrics_port,
            max_running=AT_ONCE,
            max_running_per_project=AT_ONCE,
            warm_python=_WARM_PYTHON,
            warm_node=_WARM_NODE,
            **self._more,
        )
        self.start_process("sandbox", {"PATH": os.environ.get("PATH", os.defpath), **to_environment(given)})

    async def sandbox_ready(self) -> None:
        """Wait until it takes runs."""
        give_up = time.monotonic() + _READY_S
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self.sandbox_url}/ready") as response:
                        if response.status == 200:
                            break
                        said = await response.text()
                except aiohttp.ClientError as error:
                    said = str(error)
                assert time.monotonic() < give_up, f"the sandbox is not ready: {said}\n{self.log()}"
                await asyncio.sleep(0.05)
        Traces.take()  # knows its broker from now on

    def broker(self) -> psutil.Process | None:
        """The process that makes jails, if there is one at this moment."""
        found = children_with(self.pid("sandbox"), "jail.broker")
        return found[0] if found else None

    def zygote(self) -> psutil.Process | None:
        """The process that jails are cloned from; its clones look like it, and are younger."""
        broker = self.broker()
        found = children_with(broker.pid, "zygote.py") if broker is not None else []
        return min(found, key=psutil.Process.create_time, default=None)

    def descriptors(self) -> Counter[str]:
        """Open descriptors of service and broker by kind, without sockets: peers keep those as long as they like."""
        found: Counter[str] = Counter()
        broker = self.broker()
        for name, pid in (("service", self.pid("sandbox")), ("broker", broker.pid if broker is not None else 0)):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(descriptor)
                except OSError:
                    continue
                if not target.startswith("socket:"):
                    found[f"{name} {re.split('[:[]', target)[0]}"] += 1
        return found

    def more_than_warm(self) -> list[str]:
        """What there is beyond warm guests, seen from outside while no run is under way: groups, sockets of proxies."""
        broker = self.broker()
        if broker is None:
            return ["no broker"]
        own = layout(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        trees = {*own.v1.values(), *([own.v2] if own.v2 is not None else [])}
        try:
            parents = [
                path for tree in trees if (path := tree / f"tollgate-sandbox-{instance_of(broker.pid)}").is_dir()
            ]
        except OSError:
            return ["the broker ends"]
        found = [] if parents else ["no groups"]
        for parent in parents:
            groups = [child for child in parent.iterdir() if child.is_dir()]
            if len(groups) != _WARM_PYTHON + _WARM_NODE:
                found.append(f"{len(groups)} groups in {parent}")
        for directory in Path("/run").glob(f"tollgate-jails-{instance_of(broker.pid)}-*/egress"):
            found += map(str, directory.iterdir())
        return found
