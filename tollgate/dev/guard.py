"""Run one program such that it cannot outlive whoever asked for it.

    python -I -S guard.py --signal TERM --grace 30 --orphan-grace 5 [--remove DIR] [--retract FILE] -- PROGRAM ARGUMENT...

Standard input is a socket to the owner. The guard writes the program's process id and a newline to it. Then it waits
for whichever comes first:

- the program ends: the guard ends with the same status (128 + n for signal n);
- the owner sends a byte: the program gets the stop signal, and SIGKILL after `--grace` seconds;
- the socket closes, since the owner closed it or was killed: the same with `--orphan-grace` seconds, and `--retract`
  is deleted at once (a file by which the owner said that it runs).

At the end whatever is left in the program's process group is killed, and `--remove` deletes a directory. Should the
guard itself be killed, the kernel signals the program (Linux only: PR_SET_PDEATHSIG).
Only the standard library is used, and little of it: the guard is up in about 15 ms.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

OWNER = 0
"""Descriptor of the socket to the owner: standard input."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals a guard ignores: the owner decides, by the socket."""


def _die_with_parent(signum: int, parent: int) -> None:
    if sys.platform == "linux":
        import ctypes  # 10 ms that only the child pays

        ctypes.CDLL(None).prctl(1, signum, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died in between
        os._exit(1)


def _start(program: list[str], stop_signal: int) -> int:
    """Fork and execute `program` in a process group of its own; returns its process id."""
    guard = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)  # a stop that comes before the program runs must not be lost
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
        return pid
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        signal.set_wakeup_fd(-1)
        for signum in (*IGNORED, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
        _die_with_parent(stop_signal, guard)
        os.execvp(program[0], program)  # noqa: S606 - the whole purpose
    except OSError as error:
        os.write(2, f"cannot run {program[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _kill(pid: int, signum: int, *, group: bool = False) -> None:
    try:
        (os.killpg if group else os.kill)(pid, signum)
    except (ProcessLookupError, PermissionError):
        pass


def _retract(file: str | None) -> None:
    try:
        if file is not None:
            os.unlink(file)
    except OSError:
        pass


def _watch(pid: int, wakeup: int, stop_signal: int, grace: float, orphan_grace: float, retract: str | None) -> int:
    """Wait for the end of `pid`, stopping it when the owner says so or is gone; returns its wait status."""
    deadline: float | None = None
    owner = [OWNER]
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([wakeup, *owner], [], [], timeout)
        if wakeup in ready:
            os.read(wakeup, 512)
        if OWNER in ready:
            try:
                gone = os.read(OWNER, 1) == b""
            except OSError:
                gone = True
            if gone:
                owner = []
                _retract(retract)
            limit = time.monotonic() + (orphan_grace if gone else grace)
            if deadline is None:
                _kill(pid, stop_signal)
            deadline = limit if deadline is None else min(deadline, limit)
        if deadline is not None and time.monotonic() >= deadline:
            _kill(pid, signal.SIGKILL, group=True)
            _kill(pid, signal.SIGKILL)
            deadline = None


def main(arguments: list[str]) -> int:
    """Parse the command line above and run the program to its end; returns the exit status."""
    split = arguments.index("--")
    options = dict(zip(arguments[:split:2], arguments[1:split:2], strict=True))
    program = arguments[split + 1 :]
    stop_signal = signal.Signals[f"SIG{options.get('--signal', 'TERM')}"]
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for signum in IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    pid = _start(program, stop_signal)
    try:
        os.write(OWNER, b"%d\n" % pid)
    except OSError:
        pass  # gone already: the watch below sees it too
    grace, orphan_grace = float(options.get("--grace", 30)), float(options.get("--orphan-grace", 5))
    status = _watch(pid, wakeup, stop_signal, grace, orphan_grace, options.get("--retract"))
    _kill(pid, signal.SIGKILL, group=True)
    if directory := options.get("--remove"):
        import shutil  # rarely needed

        shutil.rmtree(directory, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
