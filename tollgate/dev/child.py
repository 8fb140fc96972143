"""A child process that cannot outlive us: started through `guard`, whose socket this process holds.

A child is stopped by asking its guard, which sends the stop signal and, after the grace, SIGKILL to the whole process
group. If this process dies, by whatever means, the sockets close and every guard does the same with the shorter
`orphan_grace_s`. Children live in sessions of their own, so Ctrl-C reaches only us and the order of stopping is ours.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

_GUARD: Final = Path(__file__).with_name("guard.py")
_START_TIMEOUT_S: Final = 20.0


class ChildError(Exception):
    """A program could not be started; the message says which and why."""


@dataclass(slots=True)
class Child:
    """One running program. `pid` is the program's own process id, not its guard's."""

    name: str
    pid: int
    grace_s: float
    guard: subprocess.Popen[bytes]
    owner: socket.socket

    @property
    def returncode(self) -> int | None:
        """None while it runs, else its exit status; 128 + n when it was ended by signal n."""
        return self.guard.poll()

    def ask_to_stop(self) -> None:
        """Send the stop signal, through the guard; returns at once."""
        try:
            self.owner.send(b".")
        except OSError:
            pass  # the guard has ended, and so has the program

    def hurry(self) -> None:
        """As `ask_to_stop`, with the grace that an orphan gets."""
        try:
            self.owner.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    async def ended(self) -> int:
        """Wait for the end without asking for it; returns the exit status. One caller at a time."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()
        loop.add_reader(self.owner, closed.set)  # the guard says nothing more: readable means closed
        try:
            await closed.wait()
        finally:
            loop.remove_reader(self.owner)
        self.owner.close()
        return self.guard.wait()

    def wait(self) -> int:
        """Wait for the end after `ask_to_stop` (at most the grace and a little); returns the exit status."""
        try:
            return self.guard.wait(self.grace_s + 10)
        except subprocess.TimeoutExpired:  # an unkillable program: leave no guard waiting for us
            self.owner.close()
            return self.guard.wait(30)
        finally:
            self.owner.close()

    def stop(self) -> int:
        """Stop it and wait for the end; returns the exit status. May be called again."""
        self.ask_to_stop()
        return self.wait()


def spawn(
    program: Sequence[str | Path],
    *,
    name: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    stop_signal: str = "TERM",
    grace_s: float = 30.0,
    orphan_grace_s: float = 5.0,
    remove: Path | None = None,
    retract: Path | None = None,
) -> Child:
    """Start `program` under a guard.

    `output` receives standard output and error (default: ours). `stop_signal` is a name without SIG. `remove` is a
    directory to delete once the program has ended, also when that is because we died; `retract` is a file to delete when
    we let go of the child or die without having stopped it. Secrets belong in `env`: command
    lines are visible to every user of the machine. Raises ChildError when the guard does not come up.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-I", "-S", str(_GUARD), "--signal", stop_signal]
    command += ["--grace", str(grace_s), "--orphan-grace", str(orphan_grace_s)]
    for option, path in (("--remove", remove), ("--retract", retract)):
        command += [option, str(path)] if path is not None else []
    command += ["--", *map(str, program)]
    with theirs:
        guard = subprocess.Popen(  # noqa: S603 - our own guard, no shell
            command, stdin=theirs.fileno(), stdout=output, stderr=output, env=env, cwd=cwd, start_new_session=True
        )
    try:
        ours.settimeout(_START_TIMEOUT_S)
        pid = int(_line(ours))
        ours.settimeout(None)
    except (OSError, ValueError) as error:
        ours.close()
        guard.kill()
        raise ChildError(f"{name}: its guard ended with status {guard.wait()} before the start") from error
    return Child(name=name, pid=pid, grace_s=grace_s, guard=guard, owner=ours)


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        more = connection.recv(32)
        if not more:
            raise OSError("closed")
        received += more
    return received
