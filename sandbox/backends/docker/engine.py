"""What is asked of the Engine. Everything here blocks and is called in threads; its errors are translated once, here.

A container has no network, a read-only root, no capabilities, our own seccomp profile, an unprivileged user, tmpfs of
bounded size and the run's cgroup as its parent. User code never names an image, a mount or an option.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from dataclasses import dataclass
from typing import Any, Final

import docker
import requests
from docker.errors import DockerException, ImageNotFound, NotFound

from sandbox.backends.base import Broken, Unavailable
from sandbox.backends.jail.bwrap import EGRESS_SOCKET, GUEST_DIR, guest
from sandbox.seccomp import docker_profile

LABEL: Final = "dev.tollgate.sandbox"
_TIMEOUT_S: Final = 30
_LOOK_S: Final = 5
_ERRORS: Final = (DockerException, requests.RequestException, OSError)
_SMALL: Final = "16m"


@dataclass(frozen=True, slots=True)
class Container:
    """A started container and the socket that is attached to it."""

    id: str
    stream: socket.socket


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An Engine that answers. `has_image` is whether it has the image that runs would be made of."""

    address: str
    version: str
    cgroup_driver: str
    runtimes: tuple[str, ...]
    runc: str | None
    has_seccomp: bool
    has_image: bool


def facts(url: str | None, image: str) -> EngineFacts | None:
    """What Engine there is, without using it; None where none answers. Blocks for some seconds at most."""
    address = _address(url)
    if not _listens(address):
        return None
    try:
        api: Any = docker.APIClient(base_url=address, timeout=_LOOK_S)
        try:
            info, version = api.info(), api.version()
            try:
                api.inspect_image(image)
                has_image = True
            except ImageNotFound:
                has_image = False
        finally:
            api.close()
    except _ERRORS:
        return None
    return EngineFacts(
        address,
        str(version.get("Version", "")),
        str(info.get("CgroupDriver", "")),
        tuple(sorted(info.get("Runtimes", {}))),
        _runc(version) or None,
        "name=seccomp" in " ".join(info.get("SecurityOptions", [])),
        has_image,
    )


class Engine:
    """One Engine, by its socket's URL (None: the environment's, else the usual place)."""

    def __init__(self, url: str | None, image: str, runtime: str | None, instance: str) -> None:
        self._image = image
        self._runtime = runtime
        self._instance = instance
        self._profile = json.dumps(docker_profile(platform.machine()))
        address = _address(url)
        if not _listens(address):
            raise Unavailable(f"no Docker Engine answers at {address}: install and start one")
        try:
            self._api: Any = docker.APIClient(base_url=address, timeout=_TIMEOUT_S)
        except _ERRORS as error:
            raise Unavailable(f"no Docker Engine answers ({_short(error)}): install and start one") from None

    def check(self) -> list[str]:
        """Look at version, cgroup driver, runtime and image; returns warnings. Raises Unavailable."""
        try:
            info, version = self._api.info(), self._api.version()
            self._api.inspect_image(self._image)
        except ImageNotFound:
            raise Unavailable(
                f"the image {self._image} is not there: build it from sandbox/backends/docker/Dockerfile, or import this"
                f" machine's interpreters with `python -m sandbox.backends.docker.image {self._image}`"
            ) from None
        except _ERRORS as error:
            raise Unavailable(f"the Docker Engine does not answer ({_short(error)})") from None
        if info.get("CgroupDriver") != "cgroupfs":
            raise Unavailable(
                f"the Engine's cgroup driver is {info.get('CgroupDriver')}: start dockerd with"
                " --exec-opt native.cgroupdriver=cgroupfs, so that each run has a cgroup of its own"
            )
        if self._runtime is not None and self._runtime not in info.get("Runtimes", {}):
            raise Unavailable(f"the Engine has no runtime {self._runtime}")
        if "name=seccomp" not in " ".join(info.get("SecurityOptions", [])):
            raise Unavailable("the Engine has no seccomp support")
        runc = _runc(version)
        numbers = tuple(map(int, re.findall(r"\d+", runc)[:3]))
        if numbers and numbers < (1, 2, 8):
            return [
                f"runc {runc} is older than 1.2.8: check that your distribution has fixed CVE-2024-21626 and 2025-31133"
            ]
        return []

    def reap(self, is_alive: Any) -> int:
        """Remove containers of sandboxes that are no longer there; returns how many. `is_alive` says so."""
        removed = 0
        try:
            for found in self._api.containers(all=True, filters={"label": LABEL}):
                if not is_alive(found["Labels"][LABEL]):
                    self.remove(found["Id"])
                    removed += 1
        except _ERRORS:
            pass
        return removed

    def start(
        self, language: str, parent: str, workspace_bytes: int, layer: str | None, egress: str | None
    ) -> Container:
        """A started container, attached. Raises Broken, leaving nothing."""
        binds = {}
        if layer is not None:
            binds[layer] = {"bind": "/pkgs", "mode": "ro"}
            if language == "node":
                binds[f"{layer}/node_modules"] = {"bind": "/node_modules", "mode": "ro"}
        if egress is not None:
            binds[egress] = {"bind": EGRESS_SOCKET, "mode": "rw"}
        size = f"size={workspace_bytes},mode=1777,nosuid,nodev,exec"
        name, stream = None, None
        try:
            host = self._api.create_host_config(
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true", f"seccomp={self._profile}"],
                tmpfs={"/workspace": size, "/tmp": size},  # noqa: S108 - in the container
                shm_size=_SMALL,
                cgroup_parent=parent,
                ipc_mode="private",
                binds=binds,
                dns=["127.0.0.1"],  # where the guest's relay answers, if there is one
                runtime=self._runtime,
                oom_score_adj=1000,
                log_config={"Type": "none", "Config": {}},
                sysctls={"net.ipv4.ip_unprivileged_port_start": "0"} if egress is not None else None,
                ulimits=[
                    docker.types.Ulimit(name="core", soft=0, hard=0),
                    docker.types.Ulimit(name="nofile", soft=1024, hard=1024),
                    docker.types.Ulimit(name="fsize", soft=workspace_bytes, hard=workspace_bytes),
                ],
            )
            made = self._api.create_container(
                self._image,
                command=guest(language, "/usr/bin/python3", "/usr/bin/node", GUEST_DIR),
                user="1000:1000",
                hostname="sandbox",
                working_dir="/workspace",
                environment={},
                labels={LABEL: self._instance},
                stdin_open=True,
                host_config=host,
            )
            name = made["Id"]
            attached = self._api.attach_socket(name, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            stream = socket.socket(fileno=os.dup(attached._sock.fileno()))
            attached._sock.close()
            attached.close()
            self._api.start(name)
        except _ERRORS as error:
            if stream is not None:
                stream.close()
            if name is not None:
                self.remove(name)
            raise Broken(f"no container could be started ({_short(error)})") from None
        stream.setblocking(False)
        return Container(name, stream)

    def remove(self, name: str) -> None:
        """Kill and remove a container, whatever its state. What cannot be removed now is reaped by the next start."""
        try:
            self._api.remove_container(name, force=True, v=True)
        except NotFound:
            pass
        except _ERRORS:
            pass

    def close(self) -> None:
        self._api.close()


def _address(url: str | None) -> str:
    return url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def _runc(version: dict[str, Any]) -> str:
    return next((c["Version"] for c in version.get("Components", []) if c["Name"] == "runc"), "")


def _listens(address: str) -> bool:
    """False for a unix socket that nobody listens on."""
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(address.removeprefix("unix://"))
        except OSError:
            return False
    return True


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
