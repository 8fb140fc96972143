"""The spool of one gateway process: an append-only, checksummed, bounded queue of records in a folder of its own.

    <root>/<process name>/lock          held (flock) as long as the process lives
    <root>/<process name>/00000001.seg  segments (gateway.spool.records), read from the oldest, deleted once confirmed

Appending is one `write` in the caller's turn: what was appended survives a kill -9 of the process, and by `fsync` also one
of the machine (`always`: before `append` returns; `interval`: within a second; `off`: when the system pleases). Reading is
by sealed segments, so the reader never looks at what is being written. A folder whose lock is free belongs to a process
that ended: `adopt` takes its segments over, a torn tail is cut off, counted, and kept beside as `.torn` for people to see.

Bound: `max_bytes` on disk; past it `is_full` says so, and the caller decides. `append` itself only fails when the disk
does: it raises SpoolError, and nothing of the batch is in the spool then.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from gateway.spool import records

Fsync = Literal["always", "interval", "off"]

_log = logging.getLogger("gateway.spool")
_BROKEN_S: Final = 1.0
"""How long a disk that failed is not trusted with new requests."""


class SpoolError(Exception):
    """The disk does not take a record, or the folder cannot be used. The message says which and why."""


class Entry(NamedTuple):
    """A record as read back: the spool and number that make it unique, and its payload."""

    spool: str
    number: int
    payload: bytes


class _File:
    """A segment on disk; `folder` is locked by `lock` (a file descriptor) as long as there are segments in it."""

    __slots__ = ("folder", "path", "size")

    def __init__(self, folder: _Folder, path: Path, size: int) -> None:
        self.folder = folder
        self.path = path
        self.size = size


class _Folder:
    """A locked folder, own or adopted, and how many segments in it are still to be read."""

    __slots__ = ("files", "lock", "path")

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock
        self.files = 0


class Spool:
    """See the module. Not for several threads; needs a running event loop for `fsync = interval`."""

    def __init__(
        self, root: Path, name: str, *, max_bytes: int, fsync: Fsync = "interval", segment_bytes: int = 1 << 20
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._id = secrets.token_hex(16)
        self._next = 1
        self._serial = 0
        self._sealed: deque[_File] = deque()
        self._writing: _File | None = None
        self._fd = -1
        self._is_dirty = False
        self._syncing: asyncio.Future[None] | None = None
        self._batch: list[Entry] = []  # of the oldest segment, from the first unconfirmed record on
        self._reading: _File | None = None
        self._broken_until = 0.0
        self.bytes = 0
        self.entries = 0
        """Records not confirmed yet; those of adopted segments count once they were read."""
        self.appended = 0
        self.confirmed = 0
        self.torn = 0
        """Segments whose end had to be cut off."""
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = root / name
            folder.mkdir(mode=0o700)
            lock = _lock(folder)
        except OSError as error:
            raise SpoolError(f"{root}: {error.strerror or error}") from None
        if lock is None:
            raise SpoolError(f"{root / name} belongs to a process that is running")
        self._own = _Folder(folder, lock)
        self.adopt()

    # -- writing

    @property
    def is_full(self) -> bool:
        """True when no further request should count on the spool."""
        return self.bytes >= self._max_bytes or time.monotonic() < self._broken_until

    @property
    def is_empty(self) -> bool:
        return not self._sealed and self._writing is None and not self._batch

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add records, all or none. Raises SpoolError."""
        data = records.records(self._next, payloads)
        try:
            if self._writing is None:
                self._begin()
            assert self._writing is not None
            size = self._writing.size
            try:
                _write(self._fd, data)
                if self._fsync == "always":
                    os.fdatasync(self._fd)
            except OSError:
                os.ftruncate(self._fd, size)  # frees; a disk that is full allows that
                os.lseek(self._fd, size, os.SEEK_SET)
                raise
        except OSError as error:
            if time.monotonic() >= self._broken_until:
                _log.error("the spool cannot be written: %s", error.strerror or error)
            self._broken_until = time.monotonic() + _BROKEN_S
            raise SpoolError(f"{self._own.path}: {error.strerror or error}") from None
        self._broken_until = 0.0
        self._is_dirty = True
        self._next += len(payloads)
        self._writing.size += len(data)
        self.bytes += len(data)
        self.entries += len(payloads)
        self.appended += len(payloads)
        if self._writing.size >= self._segment_bytes:
            self._seal()

    def sync(self) -> None:
        """Called once a second: have what was written reach the disk, if that is the policy. Does not block."""
        if self._fsync != "interval" or not self._is_dirty or (self._syncing and not self._syncing.done()):
            return
        if self._writing is not None:
            self._is_dirty = False
            loop = asyncio.get_running_loop()
            self._syncing = loop.run_in_executor(None, _sync_copy, os.dup(self._fd))
            self._syncing.add_done_callback(_synced)

    def _begin(self) -> None:
        self._serial += 1
        path = self._own.path / f"{self._serial:08d}.seg"
        head = records.header(self._id, self._next)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(self._fd, head)
            if self._fsync != "off":
                _sync_folder(self._own.path)
        except OSError:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise
        self._writing = _File(self._own, path, len(head))
        self._own.files += 1
        self.bytes += len(head)

    def _seal(self) -> None:
        """End the segment that is written, so that it can be read."""
        assert self._writing is not None
        if self._fsync == "interval" and self._is_dirty:
            self.sync()
        os.close(self._fd)
        self._sealed.append(self._writing)
        self._writing, self._fd, self._is_dirty = None, -1, False

    # -- reading

    def peek(self, limit: int) -> list[Entry]:
        """The oldest records that are not confirmed, at most `limit` and of one segment; the same until `confirm`."""
        while not self._batch:
            if not self._sealed:
                if self._writing is None:
                    return []
                self._seal()
            self._load(self._sealed.popleft())
        return self._batch[:limit]

    def confirm(self, count: int) -> None:
        """The first `count` records of `peek` are where they belong; a segment without others is deleted."""
        del self._batch[:count]
        self.entries -= count
        self.confirmed += count
        if not self._batch and self._reading is not None:
            self._discard(self._reading)
            self._reading = None

    def put_aside(self) -> None:
        """Confirm the oldest record without its having gone anywhere: it is kept in `unreadable` for people to see."""
        payload = self._batch[0].payload
        try:
            with (self._root / "unreadable").open("ab") as file:
                file.write(payload + b"\n")
        except OSError:
            _log.error("a spooled record is lost: %r", payload)
        self.confirm(1)

    def _load(self, file: _File) -> None:
        is_own = file.folder is self._own
        try:
            data = file.path.read_bytes()
        except OSError as error:
            self._broken_until = time.monotonic() + _BROKEN_S
            _log.error("a spool segment cannot be read: %s: %s", file.path.name, error.strerror or error)
            self.torn += 1
            self._discard(file, keep=True)
            return
        segment = records.read(data)
        good = segment.good_bytes if segment is not None else 0
        found = [] if segment is None else segment.payloads
        if good < len(data):
            self.torn += 1
            _log.error(
                "spool segment %s: the last %d bytes are no record and were cut off", file.path, len(data) - good
            )
            try:
                file.path.with_suffix(".torn").write_bytes(data[good:])
            except OSError:
                pass  # the log has said it
        if segment is None or not found:
            self._discard(file)
            return
        if not is_own:
            self.entries += len(found)
        self._reading = file
        self._batch = [Entry(segment.spool, number, p) for number, p in enumerate(found, segment.first)]

    def _discard(self, file: _File, *, keep: bool = False) -> None:
        try:
            if keep:
                file.path.rename(file.path.with_suffix(".unreadable"))
            else:
                file.path.unlink(missing_ok=True)
        except OSError as error:
            _log.error("a spool segment cannot be removed: %s: %s", file.path.name, error.strerror or error)
        self.bytes -= file.size
        file.folder.files -= 1
        if not file.folder.files and file.folder is not self._own:
            _release(file.folder)

    # -- what others left

    def adopt(self) -> int:
        """Take over the segments of processes that have ended; returns how many."""
        taken = 0
        try:
            folders = sorted(f for f in self._root.iterdir() if f != self._own.path and f.is_dir())
        except OSError:
            return 0
        for path in folders:
            try:
                lock = _lock(path)
                if lock is None:
                    continue
                folder = _Folder(path, lock)
                for file in sorted(path.glob("*.seg")):
                    size = file.stat().st_size
                    self._sealed.append(_File(folder, file, size))
                    folder.files += 1
                    self.bytes += size
                taken += folder.files
                if not folder.files:
                    _release(folder)
            except OSError:
                continue  # gone meanwhile, or not ours to read: the next look tells
        if taken:
            _log.warning("took over %d spool segments of processes that have ended", taken)
        return taken

    def close(self) -> None:
        """Let go of everything; what is not confirmed stays on disk for the next process."""
        if self._writing is not None:
            if self._fsync != "off":
                try:
                    os.fdatasync(self._fd)
                except OSError as error:
                    _log.error("the spool cannot be synced: %s", error.strerror or error)
            os.close(self._fd)
            self._writing, self._fd = None, -1
        folders = {file.folder for file in (*self._sealed, *([self._reading] if self._reading else []))}
        for folder in folders - {self._own}:
            os.close(folder.lock)
        _release(self._own)


def _write(fd: int, data: bytes) -> None:
    """Write all of it; a disk that takes less than all of it is full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def usable(root: Path) -> None:
    """Make the folder that spools are in, and see that it can be written. Raises SpoolError."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise SpoolError(f"{root}: {error.strerror or error}") from None


def _lock(folder: Path) -> int | None:
    """The folder's lock, or None if a living process has it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:  # not one that its owner has just removed
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _release(folder: _Folder) -> None:
    """Remove a folder that has served its purpose, or at least let go of it."""
    try:
        if not any(p.name != "lock" for p in folder.path.iterdir()):
            (folder.path / "lock").unlink(missing_ok=True)
            folder.path.rmdir()
    except OSError:
        pass  # something is left in it: the next process looks again
    os.close(folder.lock)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_copy(fd: int) -> None:
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _synced(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and future.exception() is not None:
        _log.error("the spool could not be synced: %s", future.exception())
