"""What a backend has to show before it may run anything: a program inside that tries the doors, and an expected answer.

It looks at what is measured to go wrong silently: a seccomp filter that is not there, capabilities left in the bounding
set, a way to the network, sockets that namespaces do not cover, new user namespaces, the environment of PID 1, and the
host's files through a badly mapped uid.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final

from sandbox.backends.base import Broken, Handle, Unavailable
from sandbox.nouns import Job, Language, Limits, SourceFile

if TYPE_CHECKING:
    from sandbox.backends.base import Backend

_PROGRAM: Final = rb"""
import ctypes, json, os, socket
def attempt(action):
    try:
        action()
        return True
    except OSError:
        return False
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
environment = {item.partition("=")[0] for item in open("/proc/1/environ").read().split("\0") if item}
libc = ctypes.CDLL(None, use_errno=True)
found = {
    "no filter": status["Seccomp"].strip() != "2",
    "new privileges": status["NoNewPrivs"].strip() != "1",
    "capabilities": int(status["CapBnd"], 16) != 0 or int(status["CapEff"], 16) != 0,
    "root": os.getuid() == 0,
    "AF_VSOCK": attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "AF_ALG": attempt(lambda: socket.socket(38, socket.SOCK_SEQPACKET)),
    "AF_NETLINK": attempt(lambda: socket.socket(16, socket.SOCK_RAW)),
    "network": attempt(lambda: socket.create_connection(("1.1.1.1", 53), 0.2)),
    "user namespaces": libc.unshare(0x10000000) == 0,
    "mounting": libc.mount(b"x", b"/tmp", b"tmpfs", 0, None) == 0,
    "files of root": attempt(lambda: open("/etc/shadow")),
    "writing to the system": attempt(lambda: open("/usr/x", "w")) or attempt(lambda: open("/x", "w")),
    "environment of PID 1": not environment <= {"PWD", "PATH", "HOSTNAME", "HOME"},
    "other processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()) != sorted({1, os.getpid()}),
}
print(json.dumps([name for name, is_open in found.items() if is_open]))
"""


async def check(backend: Backend, layer: str | None = None) -> None:
    """Run the program, with a directory as its packages where guests are then made in another way. Raises Unavailable naming
    what is open."""
    job = Job(
        id=f"selftest-{secrets.token_hex(4)}",
        language=Language.PYTHON,
        files=(SourceFile("main.py", _PROGRAM),),
        entrypoint="main.py",
        limits=Limits(timeout_ms=60_000),
        layer=layer,
    )
    try:
        ended = await backend.run(job, Handle())
    except (Broken, OSError) as error:
        raise Unavailable(f"{error}{_hint(str(error))}") from None
    try:
        found = json.loads(ended.stdout)
    except ValueError:
        raise Unavailable(f"the self-test did not end well: {ended.stderr[-500:].decode('utf-8', 'replace')}") from None
    if found or ended.exit_code != 0:
        raise Unavailable(f"the self-test found open: {', '.join(found)}")


def _hint(said: str) -> str:
    if "uid map" in said or "RTM_NEWADDR" in said or "user namespace" in said:
        return (
            " (this system forbids user namespaces to ordinary users; on Ubuntu 24.04 allow bubblewrap with"
            " /etc/apparmor.d/bwrap: `profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }`)"
        )
    return ""
