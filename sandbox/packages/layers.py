"""Layers on disk: directories of installed packages that never change, named by a hash of what was asked for.

Written beside their place and renamed into it, so that a layer is there whole or not at all. What an install jail gave is
written by us, file by file: its paths are checked, it has regular files only, and it is within its caps. The directory of
all layers can be passed but not listed by runs. The least recently used go when all are larger than `most_bytes`; one that
is in use stays.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from sandbox.nouns import Artifact

_SIZE: Final = ".tollgate-bytes"


def name_of(parts: Iterable[str]) -> str:
    """The name of a layer: a hash over everything that decides what is in it."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


class Layers:
    """The directory of all layers. Its methods block: call them in threads."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._used: Counter[str] = Counter()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
        for old in directory.glob("new-*"):
            shutil.rmtree(old, ignore_errors=True)

    def find(self, name: str) -> str | None:
        """The path of a layer, which counts as used now; None if it is not there."""
        path = self._directory / name
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return str(path)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """It stays as long as the block runs."""
        self._used[name] += 1
        try:
            yield
        finally:
            self._used[name] -= 1

    def add(self, name: str, files: Iterable[Artifact]) -> str:
        """Write a layer; returns its path. Raises ValueError for a path that leads elsewhere, OSError."""
        new = Path(tempfile.mkdtemp(prefix="new-", dir=self._directory))
        size = 0
        try:
            for file in files:
                target = new / _checked(file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as opened:
                    opened.write(file.content)
                size += len(file.content)
            (new / _SIZE).write_text(str(size))
            for directory, _, names in os.walk(new):
                os.chmod(directory, 0o755)  # noqa: S103 - runs read it as users of their own
                for each in names:
                    os.chmod(os.path.join(directory, each), 0o644)
            try:
                new.rename(self._directory / name)
            except OSError:  # another process was quicker
                shutil.rmtree(new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        self.evict(keep=name)
        return str(self._directory / name)

    def evict(self, keep: str = "") -> int:
        """Remove the least recently used beyond the cap; returns how many went."""
        found = []
        for path in self._directory.iterdir():
            try:
                found.append((path.stat().st_mtime, path.name, int((path / _SIZE).read_text())))
            except (OSError, ValueError):
                continue
        total, removed = sum(size for _, _, size in found), 0
        for _, name, size in sorted(found):
            if total <= self._most_bytes:
                break
            if name == keep or self._used[name]:
                continue
            gone = self._directory / f"new-gone-{name}"
            (self._directory / name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            total -= size
            removed += 1
        return removed


def _checked(path: str) -> PurePosixPath:
    """A path below the layer. Raises ValueError."""
    found = PurePosixPath(path)
    if found.is_absolute() or not found.parts or ".." in found.parts or "\0" in path or len(path) > 1_024:
        raise ValueError(f"a package holds the path {path[:100]!r}")
    return found
