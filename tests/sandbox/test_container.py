"""The sandbox in a container: exactly what docker-compose.yml gives it is enough for jails, and less is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sandbox.engine import IMAGE, engine
from tests.sandbox.traces import UID_BASE

REPOSITORY = Path(__file__).parents[2]
SERVICE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["sandbox"]
PROGRAM = f"""
import asyncio, json, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from sandbox.backends.base import Handle, Unavailable
from sandbox.backends.jail.backend import JailBackend, JailOptions
from sandbox.nouns import Job, Language, SourceFile
async def main():
    backend = JailBackend(JailOptions(warm_python=1, warm_node=0, uid_base={UID_BASE}))
    try:
        await backend.start()
    except Unavailable as error:
        return str(error)
    job = Job("run-1", Language.PYTHON, (SourceFile("main.py", b"print('it ran')"),), "main.py")
    ended = await backend.run(job, Handle())
    await backend.close()
    return ended.stdout.decode()
print(json.dumps(asyncio.run(main())))
"""


def options(without: str = "") -> list[str]:
    """The service's privileges as options of `docker run`, without one of them."""
    found = ["--read-only", f"--cgroupns={SERVICE['cgroup']}", "--user", "0:0"]
    found += [f"--tmpfs={where}" for where in SERVICE["tmpfs"]]
    found += [f"--cap-drop={name}" for name in SERVICE["cap_drop"]]
    found += [f"--cap-add={name}" for name in SERVICE["cap_add"] if name != without]
    found += [f"--security-opt={option}" for option in SERVICE["security_opt"] if option != without]
    return found + [
        f"--volume={volume}" for volume in SERVICE["volumes"] if volume.startswith("/") and volume != without
    ]


def in_a_container(*privileges: str) -> str:
    """What the program says, in a container that sees this machine's programs."""
    command = ["docker", "run", "--rm", "--network=none", f"--entrypoint={sys.executable}", *privileges]
    seen = {"/usr", "/bin", "/lib", "/lib64", "/etc", str(REPOSITORY), sys.prefix, sys.base_prefix}
    command += [f"--volume={path}:{path}:ro" for path in sorted(seen) if os.path.exists(path)]
    environ = {**os.environ, "DOCKER_HOST": engine()}
    done = subprocess.run(
        [*command, IMAGE, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout))


def test_what_compose_gives_is_enough() -> None:
    assert in_a_container(*options()) == "it ran\n"


@pytest.mark.parametrize("privilege", ["SETUID", "systempaths=unconfined", "/sys/fs/cgroup:/sys/fs/cgroup:rw"])
def test_less_is_not_and_nothing_is_run(privilege: str) -> None:
    said = in_a_container(*options(without=privilege))
    assert "it ran" not in said
    assert "did not start" in said or "cgroup" in said
