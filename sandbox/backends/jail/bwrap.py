"""The command line of a jail. Pure, except for looking at which directories this machine has.

What the jail sees: the system's programs and libraries read-only, a generated /etc, its own /proc and a minimal /dev, and
three tmpfs of bounded size: /workspace, /tmp, /dev/shm. Nothing of the host is writable, no other path of it exists.

Each line answers a measured trap. bwrap gets an empty environment and `--as-pid-1`: otherwise /proc/1/environ in the jail
is that of whoever started bwrap. It is started as the slot's uid, never as root: `--uid` maps to the caller, and root's
files would be ours to read. `--unshare-user` is spelled out because `--disable-userns` needs it. Capabilities are
dropped from the bounding set too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Final

INSIDE_UID: Final = 1000
GUEST_DIR: Final = "/run/guest"
EGRESS_SOCKET: Final = "/run/egress.sock"
MASKED: Final = (
    "cmdline",
    "config.gz",
    "kallsyms",
    "kcore",
    "keys",
    "modules",
    "timer_list",
    "sched_debug",
    "bootconfig",
)
_USR: Final = ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/share/zoneinfo")
_TOP: Final = ("/bin", "/sbin", "/lib", "/lib64")
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
# Not bwrap's --dev: its devpts costs a second user namespace, in which PID 1 of a networked jail could not bind low ports.
SMALL_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Jail:
    """What all jails of a broker share. `state` is a directory of ours with `etc/`, `guest/`, `empty`; `prefixes` are
    further read-only directories an interpreter needs."""

    bwrap: str
    python: str
    node: str | None
    state: str
    prefixes: tuple[str, ...] = ()
    workspace_bytes: int = 64 * 1024 * 1024


def command(jail: Jail, language: str, seccomp_fd: int, layer: str | None, egress: str | None) -> list[str]:
    """The argument list that starts a guest for `language`; the filter is read from `seccomp_fd`."""
    args = [
        jail.bwrap,
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID)),
        *("--hostname", "sandbox", "--new-session", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"),
        *("--seccomp", str(seccomp_fd)),
    ]
    binds, links = system(jail)
    for source, target in binds:
        args += ["--ro-bind", source, target]
    for target, link in links:
        args += ["--symlink", target, link]
    args += ["--proc", "/proc"]
    for name in masked():
        args += ["--ro-bind", f"{jail.state}/empty", f"/proc/{name}"]
    args += ["--size", str(SMALL_BYTES), "--tmpfs", "/dev"]
    for name in DEVICES:
        args += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in DEVICE_LINKS:
        args += ["--symlink", target, f"/dev/{name}"]
    args += ["--size", str(SMALL_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    size = str(jail.workspace_bytes)
    args += ["--size", size, "--tmpfs", "/workspace", "--size", size, "--tmpfs", "/tmp"]  # noqa: S108
    if layer is not None:
        args += ["--ro-bind", layer, "/pkgs"]
        if language == "node":
            args += ["--symlink", "/pkgs/node_modules", "/node_modules"]
    if egress is None:
        args += ["--disable-userns"]
    else:
        # PID 1 binds ports 53, 80 and 443 of the jail's own loopback. --disable-userns would put it into a second user
        # namespace, where the capability does not reach the first one's network; the filter forbids new ones by itself.
        args += ["--bind", egress, EGRESS_SOCKET, "--cap-add", "CAP_NET_BIND_SERVICE"]
    args += ["--remount-ro", "/", "--chdir", "/workspace", "--"]
    return args + guest(language, jail.python, jail.node, program="guest.pyc")


@cache
def masked() -> list[str]:
    """Files of /proc that tell about the machine, of those that this kernel has."""
    return [name for name in MASKED if os.path.exists(f"/proc/{name}")]


@cache
def system(jail: Jail) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What every jail sees of files: (source, place) of read-only directories, and (target, place) of links."""
    binds = [(path, path) for path in [*_USR, *jail.prefixes] if os.path.isdir(path)]
    links = []
    for path in _TOP:
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.isdir(path):
            binds.append((path, path))
    return [*binds, (f"{jail.state}/etc", "/etc"), (f"{jail.state}/guest", GUEST_DIR)], links


def guest_arguments(language: str, node: str | None, directory: str = GUEST_DIR) -> list[str]:
    """What a guest is told: its language, and for Node the command that starts it."""
    return [language] if language == "python" else [language, node or "node", f"{directory}/guest.cjs"]


def guest(
    language: str, python: str, node: str | None, directory: str = GUEST_DIR, program: str = "guest.py"
) -> list[str]:
    """The guest's own command line; PID 1 is Python for either language."""
    return [*interpreter(python, directory, program), *guest_arguments(language, node, directory)]


def interpreter(python: str, directory: str = GUEST_DIR, program: str = "guest.pyc") -> list[str]:
    """That, before its arguments."""
    return [python, "-I", "-S", "-X", "utf8", "-B", f"{directory}/{program}"]
