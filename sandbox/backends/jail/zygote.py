"""The broker's side of the zygote (sandbox/guest/zygote.py): starts it, and has it clone guests."""

from __future__ import annotations

import array
import marshal
import socket
import subprocess
from collections.abc import Sequence
from typing import Any, Final

from sandbox.backends.jail import bwrap

_ANSWER_S: Final = 20.0
_FORM: Final = 2  # of marshal, which every Python since 2.5 reads: the one in jails may be another than ours
_IMPORTS: Final = (
    *("re", "json", "collections", "datetime", "random", "math", "itertools", "functools", "string", "typing", "time"),
    *("io", "enum"),
)
"""What many programs import: done once here, free for each of them. Not more: every page that it takes is mapped, and in
part copied, twice a run (dataclasses, pathlib, hashlib and decimal together cost each run 0.4 ms)."""


class Gone(Exception):
    """The zygote does not answer, or cannot clone."""


class Zygote:
    """A running one. Calls wait for its answer, a millisecond or two."""

    def __init__(self, jail: bwrap.Jail, *, is_fresh: bool) -> None:
        """Start it; `is_fresh`: its clones turn into new interpreters. Raises Gone."""
        self._jail = jail
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        self._control = ours
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own program, in the interpreter that runs code
                [jail.python, "-I", "-S", "-B", "-X", "utf8", f"{jail.state}/guest/zygote.py", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={},
                start_new_session=True,
            )
        try:
            binds, links = bwrap.system(jail)
            self._send(
                {
                    "state": jail.state,
                    "binds": binds,
                    "links": links,
                    "devices": bwrap.DEVICES,
                    "device_links": bwrap.DEVICE_LINKS,
                    "imports": _IMPORTS,
                    "command": bwrap.interpreter(jail.python) if is_fresh else None,
                }
            )
            self._answer()
        except Gone:
            self.close()
            raise

    def spawn(self, language: str, uid: int, descriptors: Sequence[int]) -> int:
        """The pid of a new guest, which is a child of this process. Raises Gone.

        `descriptors` are its standard ones and files that it writes "0" to, to join its cgroup before all else.
        """
        message = {
            "uid": uid,
            "guest": bwrap.guest_arguments(language, self._jail.node),
            "workspace_bytes": self._jail.workspace_bytes,
            "small_bytes": bwrap.SMALL_BYTES,
            "masked": bwrap.masked(),
        }
        self._send(message, descriptors)
        return self._answer()

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._control.sendmsg([marshal.dumps(message, _FORM)], rights)
        except OSError as error:
            raise Gone(str(error)) from None

    def _answer(self) -> int:
        try:
            received = self._control.recv(65_536)
        except OSError as error:
            raise Gone(str(error)) from None
        if not received:
            raise Gone("it has ended")
        if not received.isdigit():
            raise Gone(received.decode("utf-8", "replace"))
        return int(received)

    def close(self) -> None:
        """End it; its clones go on."""
        self._control.close()
        self.process.kill()
        self.process.wait()
