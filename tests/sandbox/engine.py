"""A Docker Engine for tests: DOCKER_HOST's or the usual one, else one of our own, started by hand for this pytest process.

Needs dockerd (Debian: docker.io) and root. Its image is made from this machine's interpreters; no registry is asked.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

from sandbox.backends.docker import image
from tollgate.dev.child import spawn

IMAGE = "tollgate-sandbox-test"


@cache
def engine() -> str:
    """The URL of an Engine that has the image; skips the test where there is none to be had."""
    if os.geteuid() != 0:
        pytest.skip("the docker backend needs root")
    for url in (os.environ.get("DOCKER_HOST"), "unix:///var/run/docker.sock"):
        if url and url.startswith("unix://") and _answers(url):
            image.load(IMAGE, url)
            return url
    return _start()


def _answers(url: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(url.removeprefix("unix://"))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in probe.recv(100)
        except OSError:
            return False


def _start() -> str:
    if shutil.which("dockerd") is None:
        pytest.skip("there is no Docker Engine: apt install docker.io")
    folder = Path(tempfile.mkdtemp(prefix="tollgate-dockerd-"))
    url = f"unix://{folder}/docker.sock"
    program = ["dockerd", "--host", url, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    program += ["--pidfile", f"{folder}/pid", "--bridge", "none", "--iptables=false", "--ip6tables=false"]
    with (folder / "log").open("wb") as log:  # under a guard: it ends, and its folder goes, also when we are killed
        child = spawn(program, name="dockerd", output=log, grace_s=30, orphan_grace_s=20, remove=folder)
    atexit.register(child.stop)
    deadline = time.monotonic() + 60
    while not _answers(url):
        if child.returncode is not None or time.monotonic() > deadline:
            why = (folder / "log").read_text(errors="replace")[-600:]
            pytest.skip(f"dockerd does not run here: {why}")
        time.sleep(0.1)
    image.load(IMAGE, url)
    return url
