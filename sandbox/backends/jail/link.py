"""The service's side of the broker: messages out, and for each guest a future for the answer that ends it.

Messages are sent without waiting; the socket's buffer holds hundreds and each guest needs three, so a full one means that
the broker hangs, which is treated as its death. When the broker is gone every guest's future fails with Broken.
"""

from __future__ import annotations

import array
import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sandbox.backends.base import Broken, Unavailable
from sandbox.backends.jail.broker import MESSAGE_BYTES, Setup

_PROGRAM: Final = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from sandbox.backends.jail.broker import main
main()
"""
# Without site-packages: the broker needs none, and its forks copy less.
_START_S: Final = 60.0
_STOP_S: Final = 10.0


class Link:
    """A running broker."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, directory: str) -> None:
        self.directory = directory
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process = process
        self._control = control
        self._ends: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._begins: dict[str, asyncio.Future[dict[str, Any]]] = {}
        asyncio.get_running_loop().add_reader(control, self._listen)

    @classmethod
    async def open(cls, setup: Setup) -> Link:
        """Start a broker. Raises Unavailable when it cannot make jails here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            process = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={},
                start_new_session=True,
            )
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            ours.send(json.dumps(asdict(setup)).encode())
            async with asyncio.timeout(_START_S):
                answer = json.loads(await loop.sock_recv(ours, MESSAGE_BYTES) or b"{}")
        except (OSError, TimeoutError) as error:
            answer = {"op": "unusable", "why": f"the broker did not start ({error or 'no answer'})"}
        if answer.get("op") != "ready":
            ours.close()
            await asyncio.to_thread(process.wait, _STOP_S)
            raise Unavailable(answer.get("why", "the broker ended at once"))
        return cls(process, ours, answer["directory"])

    def spawn(
        self,
        guest: str,
        language: str,
        descriptors: Sequence[int],
        layer: str | None,
        egress: str | None,
        workspace_bytes: int | None,
    ) -> asyncio.Future[dict[str, Any]]:
        """Start a guest on these descriptors (stdin, stdout, stderr); the future is its `ended` message.

        `workspace_bytes` None: as all warm guests have it.
        """
        ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda future: future.cancelled() or future.exception())  # never reported as forgotten
        self._ends[guest] = ended
        message: dict[str, Any] = {
            "op": "spawn",
            "guest": guest,
            "language": language,
            "layer": layer,
            "egress": egress,
        }
        if workspace_bytes is not None:
            message["workspace_bytes"] = workspace_bytes
        self._send(message, descriptors)
        return ended

    async def begin(self, guest: str, memory_bytes: int) -> None:
        """Limit a guest and count from here on. Raises Broken."""
        begun: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._begins[guest] = begun
        self._send({"op": "begin", "guest": guest, "memory_bytes": memory_bytes})
        try:
            answer = await begun
        finally:
            self._begins.pop(guest, None)
        if answer.get("error"):
            raise Broken(f"the guest could not be limited: {answer['error']}")

    def kill(self, guest: str) -> None:
        """Kill everything of a guest; its future ends soon."""
        if guest in self._ends:
            self._send({"op": "kill", "guest": guest})

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if self.lost.done():
            self._fail_all()
            return
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._control.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError:
            self._lose()

    def _listen(self) -> None:
        try:
            for _ in range(64):
                received = self._control.recv(MESSAGE_BYTES)
                if not received:
                    self._lose()
                    return
                message = json.loads(received)
                waiting = self._ends if message["op"] == "ended" else self._begins
                future = waiting.pop(message["guest"], None)
                if future is not None and not future.done():
                    future.set_result(message)
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    def _lose(self) -> None:
        if not self.lost.done():
            asyncio.get_running_loop().remove_reader(self._control)
            self.lost.set_result(None)
        self._fail_all()

    def _fail_all(self) -> None:
        for waiting in (self._ends, self._begins):
            for future in waiting.values():
                if not future.done():
                    future.set_exception(Broken("the broker of the jails has ended"))
            waiting.clear()

    async def close(self) -> None:
        """End the broker, which kills every jail and removes everything."""
        self._lose()
        self._control.close()
        try:
            await asyncio.to_thread(self._process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
