"""The places that gateway workers serve in: a listening socket each, and always a process behind it.

A slot's socket belongs to the parent and outlives its workers, so a connection that the kernel has taken while one worker
ends waits for the next and is never reset. The sockets share the port (SO_REUSEPORT), which spreads connections evenly.

A worker that dies is followed by another after 0.1 s, doubling to 5 s while they die young; a slot that waits longer than
a second gives its socket back meanwhile, so that clients reach the others. `replace` is for restarts on purpose: the next
worker serves before the last one is asked to finish. Settings go to a worker over its standard input, never over the
command line; over its standard output it says when it is ready and, once a second, what it has counted.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import orjson

_log = logging.getLogger("gateway.slots")
_BACKOFF_S: Final = (0.1, 5.0)
_PATIENCE_S: Final = 1.0
_OLD_ENOUGH_S: Final = 10.0
_READY_WITHIN_S: Final = 30.0
BACKLOG: Final = 2_048


class WorkerProcess:
    """One worker from start to end. `latest` is what it last said it had counted; `exit_code` None while it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.latest: dict[str, Any] | None = None
        self.exit_code: int | None = None

    @classmethod
    async def start(cls, listener: socket.socket, settings: dict[str, Any]) -> WorkerProcess:
        """Start one on a listening socket. Raises OSError when there is no process or memory to be had."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.worker", pass_fds=(listener.fileno(),),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=16 * 2**20, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(orjson.dumps({"listener": listener.fileno(), "settings": settings}) + b"\n")
        return cls(process)

    async def follow(self) -> None:
        """Read what it says until it has ended."""
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                message = orjson.loads(line)
                if "ready" in message:
                    self.ready.set()
                else:
                    self.latest = message
        except (ConnectionError, ValueError) as error:
            _log.error("lost touch with a worker: %s", error, extra={"pid": self.pid})
            self._process.kill()
        self.exit_code = await self._process.wait()
        self.ended.set()

    def send(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:  # it has ended and is about to be noticed
            pass


class Slot:
    """One place: `current` is who serves there now. `begun` and `ended` are told of each process."""

    def __init__(
        self,
        index: int,
        listener: socket.socket,
        settings: Callable[[], dict[str, Any]],
        begun: Callable[[WorkerProcess], None],
        stopping: asyncio.Event,
    ) -> None:
        self._index = index
        self._listener: socket.socket | None = listener
        self._address = listener.getsockname()
        self._settings = settings
        self._begun = begun
        self._stopping = stopping
        self._replacing = asyncio.Lock()
        """Held while a worker is on its way: should the one before it die meanwhile, nobody else follows that one."""
        self.current: WorkerProcess | None = None

    @property
    def is_ready(self) -> bool:
        worker = self.current
        return worker is not None and worker.ready.is_set() and worker.exit_code is None

    async def keep(self) -> None:
        """One worker after the other, until everything stops."""
        loop = asyncio.get_running_loop()
        delay = _BACKOFF_S[0]
        while not self._stopping.is_set():
            began = loop.time()
            code: int | str | None
            try:
                async with self._replacing:
                    worker = self.current = await self._start()
                while True:
                    await worker.ended.wait()
                    async with self._replacing:
                        pass
                    if self.current is worker:
                        break
                    worker, began = self.current, loop.time()
                code = worker.exit_code
            except OSError as error:  # no process, no memory, or the port went elsewhere: perhaps later
                code = str(error)
            if self._stopping.is_set():
                break
            delay = _BACKOFF_S[0] if loop.time() - began > _OLD_ENOUGH_S else min(_BACKOFF_S[1], delay * 2)
            _log.error(
                "a worker died and is started again", extra={"worker": self._index, "exit_code": code, "delay_s": delay}
            )
            if delay > _PATIENCE_S:
                self.close()
            try:
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def replace(self, drain_s: float) -> bool:
        """Let a new worker serve, then ask the old one to finish; False when the new one never got ready.

        Returns when the old one has ended, killed if it must be `drain_s` seconds and a few after it was asked.
        """
        async with self._replacing:
            old = self.current
            if old is None or old.ended.is_set() or self._stopping.is_set():
                return True  # it is being started anew as it is
            try:
                new = await self._start()
            except OSError as error:
                _log.error("no new worker could be started: %s", error, extra={"worker": self._index})
                return False
            is_there = await _first(new.ready, new.ended, self._stopping, within_s=_READY_WITHIN_S)
            if not is_there or new.ended.is_set():
                _log.error("the new worker did not get ready; the old one goes on", extra={"worker": self._index})
                new.send(signal.SIGKILL)
                return False
            self.current = new
        old.send(signal.SIGUSR2)
        if not await _first(old.ended, within_s=drain_s + 5):
            old.send(signal.SIGKILL)
            await old.ended.wait()
        return True

    async def _start(self) -> WorkerProcess:
        if self._listener is None:
            self._listener = listen(self._address[0], self._address[1])
        worker = await WorkerProcess.start(self._listener, self._settings())
        self._begun(worker)
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        return worker

    def close(self) -> None:
        """Give the socket back; workers that hold it go on with their own copy."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


async def _first(*events: asyncio.Event, within_s: float) -> bool:
    """Wait until any of these is set; False when none was in time."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    done, left = await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in left:
        wait.cancel()
    return bool(done)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a port shared with others of ours; connections queue until somebody accepts them."""
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def listen_in(count: int, host: str, port: int) -> list[socket.socket]:
    """So many listening sockets on one port; 0 picks a free one. Raises OSError, also when anybody else listens there."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:  # without SO_REUSEPORT: notices others
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    first = listen(host, port)
    return [first, *(listen(host, first.getsockname()[1]) for _ in range(count - 1))]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
