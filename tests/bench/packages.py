"""What the benchmark needs from Debian, installed through apt-get where it is missing; and the pace generator, compiled.

Installing a server package must not start the server: its default port may be in use, and nobody asked for it. Debian asks
/usr/sbin/policy-rc.d before it starts a service, so there is one that says no while apt-get runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_MODULES: Final = Path("/usr/lib/nginx/modules")

NEEDED: Final = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "redis-server": "redis-server",
    "wrk": "wrk",
    "gcc": "gcc",
    "openssl": "openssl",
    _MODULES / "ngx_http_lua_module.so": "libnginx-mod-http-lua",
    Path("/usr/share/lua/5.1/nginx/redis.lua"): "lua-nginx-redis",
    Path("/usr/include/stdio.h"): "libc6-dev",
}
"""A command or a file → the package it comes in."""


class Missing(Exception):
    """Something the benchmark needs is not there and cannot be installed; the message says what to do."""


def find(command: str) -> str:
    """The path of a command; servers live in /usr/sbin, which is not on everybody's PATH."""
    found = shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"{command} is not installed")
    return found


def modules() -> Path:
    """The folder of nginx's dynamic modules."""
    return _MODULES


def install() -> None:
    """Install what is missing. Raises Missing where that is not possible."""
    missing = sorted({package for what, package in NEEDED.items() if not _is_there(what)})
    if not missing:
        return
    wanted = " ".join(missing)
    apt = shutil.which("apt-get")
    if apt is None:
        raise Missing(f"the benchmark needs these Debian packages, or the same from elsewhere: {wanted}")
    as_root = [] if os.geteuid() == 0 else [shutil.which("sudo") or ""]
    if as_root == [""]:
        raise Missing(f"not root, and no sudo: apt-get install {wanted}")
    print(f"installing from Debian: {wanted}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    is_ours = not _POLICY.exists()
    if is_ours:
        subprocess.run(
            [*as_root, "tee", str(_POLICY)], input=b"#!/bin/sh\nexit 101\n", stdout=subprocess.DEVNULL, check=True
        )
        subprocess.run([*as_root, "chmod", "755", str(_POLICY)], check=True)
    try:
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
            done = subprocess.run(
                [*as_root, apt, *arguments], env=environment, capture_output=True, text=True, timeout=600
            )
            if done.returncode:
                reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
                raise Missing(f"apt-get {arguments[0]} failed: {reason}")
    finally:
        if is_ours:
            subprocess.run([*as_root, "rm", "-f", str(_POLICY)], check=False)


def compile_pace(directory: Path) -> Path:
    """The open-loop generator, compiled into `directory` unless a newer one is there."""
    source, program = _HERE / "pace.c", directory / "pace"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / f"pace.{os.getpid()}"
        command = [find("gcc"), "-O2", "-Wall", "-Wextra", "-o", str(partial), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Missing(f"pace.c does not compile: {done.stderr.strip().splitlines()[0]}")
        partial.replace(program)
    return program


def _is_there(what: str | Path) -> bool:
    if isinstance(what, Path):
        return what.exists()
    try:
        return bool(find(what))
    except Missing:
        return False
