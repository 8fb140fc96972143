"""The process that starts jails: `python -m sandbox.backends.jail.broker FD`, with an empty environment.

It is small and single-threaded, so that a fork costs a fraction of a millisecond and happens outside the service's loop;
it alone needs root (slot uids, cgroups). FD is a SOCK_SEQPACKET socket to the service. Messages are JSON objects:

    from the service   first a Setup, then
                       {op: spawn, guest, language, layer?, egress?, workspace_bytes?} with three descriptors: stdin,
                       stdout, stderr
                       {op: begin, guest, memory_bytes}          {op: kill, guest}
    to the service     {op: ready, directory} or {op: unusable, why}
                       {op: begun, guest, error?}
                       {op: ended, guest, status, cpu_us, peak_bytes, oom_kills, pids_refused, error?}

`ended` is sent when no process of the run is alive and its cgroup is gone. When the socket closes, for whatever reason,
every jail is killed, everything is removed and the broker ends. Killed itself, its jails die with it (PDEATHSIG), and
the next broker sweeps cgroups and directories.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sandbox.backends.jail import bwrap
from sandbox.backends.jail.cgroups import Cgroups, Group, Unusable, instance_of, is_alive, layout
from sandbox.backends.jail.zygote import Gone, Zygote
from sandbox.seccomp import program

MESSAGE_BYTES: Final = 65_536
_DIRECTORY: Final = "tollgate-jails-"
_POLL_S: Final = 0.002
_FAREWELL_S: Final = 5.0
_SECCOMP_FD: Final = 3
_ZYGOTE_PAUSE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What the service tells once. `uid_base` None: we are not root, and all jails have our own uid outside.

    `clones`: as root, plain jails are cloned from a zygote; `zygote`: and go on as guests, without a new interpreter.
    """

    bwrap: str
    python: str
    node: str | None
    prefixes: list[str]
    guest_files: str
    uid_base: int | None
    uids: int
    pids: int
    cpus: float
    workspace_bytes: int
    clones: bool = True
    zygote: bool = False


@dataclass(slots=True)
class Slot:
    """A guest and what belongs to it."""

    guest: str
    group: Group
    uid: int | None
    pid: int
    pidfd: int
    status: int | None = None
    is_killed: bool = False


class Broker:
    """The loop, and every jail there is."""

    def __init__(self, control: socket.socket, setup: Setup, cgroups: Cgroups, directory: Path) -> None:
        self._control = control
        self._setup = setup
        self._cgroups = cgroups
        self._directory = directory
        self._jail = bwrap.Jail(
            setup.bwrap, setup.python, setup.node, str(directory), tuple(setup.prefixes), setup.workspace_bytes
        )
        self._slots: dict[str, Slot] = {}
        self._by_pid: dict[int, Slot] = {}
        self._uids = list(range(setup.uid_base, setup.uid_base + setup.uids)) if setup.uid_base is not None else []
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, None)
        self._next_guest = 0
        self._zygote: Zygote | None = None
        self._zygote_at: float | None = None  # when to start one again that has died
        if setup.clones and setup.uid_base is not None:
            try:
                self._zygote = Zygote(self._jail, is_fresh=not setup.zygote)
            except Gone as error:
                if setup.zygote:
                    raise
                sys.stderr.write(f"no zygote of jails ({error}); bubblewrap makes them all\n")

    def serve(self) -> None:
        """Until the service is gone."""
        try:
            while True:
                dying = any(slot.status is not None or slot.is_killed for slot in self._slots.values())
                for key, _ in self._selector.select(_POLL_S if dying else None):
                    if key.data is None:
                        self._listen()
                self._reap()
                for slot in [s for s in self._slots.values() if s.status is not None]:
                    self._bury(slot)
        except (ConnectionError, EOFError):
            pass
        finally:
            self._farewell()

    def _listen(self) -> None:
        received, descriptors = _receive(self._control)
        message = json.loads(received)
        if message["op"] == "spawn":
            try:
                self._spawn(message, descriptors)
            except OSError as error:
                self._send(op="ended", guest=message["guest"], status=-1, error=f"cannot start: {error}")
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            return
        slot = self._slots.get(message["guest"])
        if message["op"] == "begin":
            problem = None
            try:
                if slot is None:
                    raise ProcessLookupError(errno.ESRCH, "the guest has ended")
                slot.group.begin(message["memory_bytes"])
            except OSError as error:
                problem = str(error)
            self._send(op="begun", guest=message["guest"], error=problem)
        elif message["op"] == "kill" and slot is not None:
            slot.is_killed = True
            slot.group.kill()

    def _spawn(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if self._setup.uid_base is not None and not self._uids:
            raise OSError(errno.EAGAIN, "all slot uids are in use")
        self._next_guest += 1
        group = self._cgroups.group(str(self._next_guest))
        jail = replace(self._jail, workspace_bytes=message.get("workspace_bytes") or self._setup.workspace_bytes)
        command = bwrap.command(jail, message["language"], _SECCOMP_FD, message.get("layer"), message.get("egress"))
        uid = self._uids.pop() if self._setup.uid_base is not None else None
        is_plain = message.get("layer") is None and message.get("egress") is None
        try:
            group.make(self._setup.pids, self._setup.cpus)
            pid = self._cloned(message["language"], uid, descriptors, group) if is_plain else None
            if pid is None:
                pid = os.fork()
        except OSError:
            group.remove()
            if uid is not None:
                self._uids.append(uid)
            raise
        if pid == 0:
            self._become(command, group.entries(), uid, descriptors, jail.workspace_bytes)
        slot = Slot(message["guest"], group, uid, pid, os.pidfd_open(pid))
        self._slots[slot.guest] = self._by_pid[pid] = slot
        self._selector.register(slot.pidfd, selectors.EVENT_READ, slot)

    def _cloned(self, language: str, uid: int | None, descriptors: list[int], group: Group) -> int | None:
        """A guest from the zygote, which joins its cgroup before it does anything; None without one. Raises OSError."""
        if self._zygote is None and self._zygote_at is not None and time.monotonic() >= self._zygote_at:
            self._zygote_at = time.monotonic() + _ZYGOTE_PAUSE_S
            with contextlib.suppress(Gone):
                self._zygote = Zygote(self._jail, is_fresh=not self._setup.zygote)
                self._zygote_at = None
        if self._zygote is None or uid is None:
            return None
        entries: list[int] = []
        try:
            entries.extend(os.open(entry, os.O_WRONLY | os.O_CLOEXEC) for entry in group.entries())
            return self._zygote.spawn(language, uid, [*descriptors, *entries])
        except Gone as error:
            sys.stderr.write(
                f"the zygote of the jails is gone ({error}); bubblewrap makes them until there is another\n"
            )
            self._zygote.close()
            self._zygote = None
            self._zygote_at = time.monotonic() + _ZYGOTE_PAUSE_S
            # Not this guest, though: a clone that we know nothing of may be reading from its descriptors.
            raise OSError(errno.ECHILD, "the zygote died while it made this jail") from None
        finally:
            for descriptor in entries:
                os.close(descriptor)

    def _become(
        self, command: list[str], entries: list[str], uid: int | None, descriptors: list[int], size: int
    ) -> None:
        """In the child: enter the cgroup, become nobody in particular, turn into bwrap. Never returns."""
        try:
            for entry in entries:
                descriptor = os.open(entry, os.O_WRONLY)
                os.write(descriptor, b"0")
                os.close(descriptor)
            descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(descriptor, b"1000")
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            filter_file = os.open(self._directory / "seccomp.bpf", os.O_RDONLY)
            kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (*descriptors, filter_file)]
            for target, fd in zip((0, 1, 2, _SECCOMP_FD), kept, strict=True):
                os.dup2(fd, target)
            os.closerange(_SECCOMP_FD + 1, 4096)
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.chdir("/")
            os.execve(command[0], command, {})  # noqa: S606
        except BaseException as error:  # noqa: BLE001 - a child must not go on as a second broker
            os.write(2, f"cannot start a jail: {error}\n".encode())
        finally:
            os._exit(127)

    def _reap(self) -> None:
        """Take leave of every child that has ended: a bwrap, and with it, usually, everything inside; or an orphan."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self._by_pid.pop(pid, None)
            if slot is not None:
                self._selector.unregister(slot.pidfd)
                os.close(slot.pidfd)
                slot.status = os.waitstatus_to_exitcode(status)

    def _bury(self, slot: Slot) -> None:
        """Report a run of which nothing lives any more; of one that does, kill what is left and come back."""
        if slot.group.pids():
            slot.group.kill()
            return
        self._reap()  # orphans of a killed bwrap come to us, as the subreaper
        assert slot.status is not None
        figures: dict[str, Any] = {}
        try:
            found = slot.group.read()
            figures = {
                "cpu_us": found.cpu_us,
                "peak_bytes": found.peak_bytes,
                "oom_kills": found.oom_kills,
                "pids_refused": found.pids_refused,
            }
        except (OSError, ValueError, KeyError) as error:
            figures = {"error": f"no figures: {error}"}
        if not slot.group.remove():
            return
        del self._slots[slot.guest]
        if slot.uid is not None:
            self._uids.insert(0, slot.uid)  # the one used longest ago comes next
        self._send(op="ended", guest=slot.guest, status=slot.status, **figures)

    def _send(self, **message: Any) -> None:
        self._control.send(json.dumps(message).encode())

    def _farewell(self) -> None:
        self._control.close()
        if self._zygote is not None:
            self._zygote.close()
        for slot in self._slots.values():
            slot.group.kill()
        deadline = time.monotonic() + _FAREWELL_S
        while self._slots and time.monotonic() < deadline:
            self._reap()
            for guest, slot in list(self._slots.items()):
                if slot.status is not None and slot.group.remove():
                    del self._slots[guest]
                else:
                    slot.group.kill()
            time.sleep(_POLL_S)
        self._reap()
        self._cgroups.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    numbers = array.array("i")
    data, ancillary, _, _ = control.recvmsg(MESSAGE_BYTES, socket.CMSG_LEN(4 * numbers.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
    if not data:
        raise EOFError
    return data, list(numbers)


def _prepare(setup: Setup) -> Path:
    """The directory jails see parts of: the guest's files, an /etc, an empty file, the filter; `egress/` for sockets."""
    parent = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
    for old in parent.glob(_DIRECTORY + "*"):
        found = old.lstat()
        instance = "-".join(old.name.removeprefix(_DIRECTORY).split("-")[:2])
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not is_alive(instance):
            shutil.rmtree(old, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY}{instance_of(os.getpid())}-", dir=parent))
    directory.chmod(0o711)
    shutil.copytree(setup.guest_files, directory / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "guest").chmod(0o755)
    _compile(setup.python, directory / "guest")
    (directory / "egress").mkdir(mode=0o711)
    (directory / "empty").touch(mode=0o444)
    (directory / "seccomp.bpf").write_bytes(program(platform.machine()))
    etc = directory / "etc"
    (etc / "ssl" / "certs").mkdir(parents=True)
    for name, text in {
        "passwd": "root:x:0:0::/:/bin/sh\nsandbox:x:1000:1000::/workspace:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "group": "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "resolv.conf": "nameserver 127.0.0.1\noptions attempts:1 timeout:5\n",
    }.items():
        (etc / name).write_text(text)
    for bundle in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"):
        if os.path.isfile(bundle):
            shutil.copyfile(bundle, etc / "ssl" / "certs" / "ca-certificates.crt")
            (etc / "ssl" / "cert.pem").symlink_to("certs/ca-certificates.crt")
            break
    for path in [etc, *etc.rglob("*"), *(directory / "guest").iterdir()]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


def _compile(python: str, guest: Path) -> None:
    """guest.pyc beside guest.py, by the interpreter that will run it: a millisecond less for each jail."""
    code = "import py_compile, sys; py_compile.compile(sys.argv[1], cfile=sys.argv[1] + 'c', doraise=True)"
    subprocess.run(  # noqa: S603 - the configured interpreter
        [python, "-I", "-S", "-c", code, str(guest / "guest.py")], env={}, check=True, timeout=30
    )


def main() -> None:
    """Serve one service."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the service ends us by closing the socket
    os.umask(0o022)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what a killed jail leaves is ours to reap
    with socket.socket(fileno=int(sys.argv[1])) as control:
        try:
            received, _ = _receive(control)
        except (EOFError, ConnectionError):
            return
        setup = Setup(**json.loads(received))
        try:
            own = layout(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
            cgroups = Cgroups.open(own, instance_of(os.getpid()))
            directory = _prepare(setup)
        except (Unusable, OSError, KeyError, subprocess.SubprocessError) as error:
            why = f"no system call table for {error}" if isinstance(error, KeyError) else str(error)
            control.send(json.dumps({"op": "unusable", "why": why}).encode())
            return
        try:
            broker = Broker(control, setup, cgroups, directory)
        except Gone as error:
            cgroups.close()
            shutil.rmtree(directory, ignore_errors=True)
            control.send(json.dumps({"op": "unusable", "why": f"no zygote: {error}"}).encode())
            return
        control.send(json.dumps({"op": "ready", "directory": str(directory)}).encode())
        broker.serve()


if __name__ == "__main__":
    main()
