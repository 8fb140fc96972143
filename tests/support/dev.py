"""`tollgate dev` as a test's child: started on free ports, found through its dev.json, gone when the test run is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import eventually, family
from tollgate.dev.child import Child, spawn

COMMAND = [sys.executable, "-m", "tollgate.cli", "dev", "--gateway-port", "0", "--admin-port", "0"]
START_S = 60.0


def environment(**settings: str) -> dict[str, str]:
    """Ours without any TOLLGATE_ variable, with free metrics ports and `settings`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
    ports = {f"TOLLGATE_{plane}_METRICS_PORT": "0" for plane in ("GATEWAY", "ADMIN", "WORKER", "SANDBOX")}
    return {**ours, **ports, "TOLLGATE_SANDBOX_PORT": "0", **settings}


def dev_once(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run it where it is expected to end by itself."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


class Dev:
    """One running `tollgate dev`. Its standard output and error are in files beside the state directory."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.state = folder / "state"
        self._output = folder / "output"
        with self._output.open("ab") as output:
            self.child: Child = spawn(
                [*COMMAND, "--state-dir", self.state, *arguments],
                name="tollgate dev",
                env=environment(**settings),
                output=output,
                stop_signal="INT",
                grace_s=60,
                orphan_grace_s=20,
            )

    def wait_until_up(self) -> Dev:
        def is_up() -> bool:
            assert self.child.returncode is None, self.output()
            return (self.state / "dev.json").exists()

        eventually(is_up, within_s=START_S, what=f"the start of {self.state}")
        return self

    def output(self) -> str:
        return self._output.read_text()

    @property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "dev.json").read_text())
        return found

    def family(self) -> list[int]:
        """The supervisor and everything below it."""
        return family(self.child.pid)

    def command_lines(self) -> str:
        return "\n".join(" ".join(psutil.Process(pid).cmdline()) for pid in self.family())

    def get(self, path: str, key: str = "customer") -> tuple[int, bytes]:
        """GET `path` from the gateway with one of the demo keys; (0, b"") when it does not answer."""
        request = urllib.request.Request(self.info["gateway"] + path, headers={"X-API-Key": self.info["keys"][key]})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""
