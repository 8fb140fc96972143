"""The state directory of `tollgate dev`: who uses it, what it runs, and the demo's keys.

    lock        held (flock) by the one supervisor that uses the directory; says its process id and its guards'
    dev.json    what runs where, while it runs: removed when it stops, also when it is killed
    keys.json   the texts of the demo keys, so that every start prints the same
    encryption.key   seals the credentials in its database; made at the first start
    postgres/   the embedded server's data, log and password        redis/  the same

All of it is readable by its owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.encryption import new_key
from tollgate.commands import UserError
from tollgate.dev.server import write_private
from tollgate.target import KEY_FILE

_ORPHANS_DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """An absolute path, locked by this process as long as `lock` is open."""

    path: Path
    lock: int

    @classmethod
    def open(cls, path: Path) -> StateDirectory:
        """Make the directory where there is none and lock it. Raises UserError when another process has it."""
        path = path.resolve()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"cannot use {path} as the state directory: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = _pids(lock)[:1]
            os.close(lock)
            raise UserError(
                f"{path} is in use by another `tollgate dev` (process {owner[0] if owner else 'unknown'}):"
                " stop it, or give this one another --state-dir"
            ) from None
        return cls(path, lock)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self.lock)

    @property
    def info_file(self) -> Path:
        return self.path / "dev.json"

    def begin(self) -> None:
        """Become the owner: wait for the children of a killed one, which its death stops, and forget it."""
        self.remove_info()
        guards = _pids(self.lock)[1:]
        self.note_children([])
        deadline = time.monotonic() + _ORPHANS_DEADLINE_S
        while time.monotonic() < deadline and any(map(_is_guard, guards)):
            time.sleep(0.05)

    def note_children(self, guards: list[int]) -> None:
        """Leave word of our children for whoever comes after us, should we be killed."""
        text = "".join(f"{pid}\n" for pid in (os.getpid(), *guards)).encode()
        os.pwrite(self.lock, text, 0)
        os.ftruncate(self.lock, len(text))

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace dev.json."""
        write_private(self.info_file, json.dumps(info, indent=2) + "\n")

    def remove_info(self) -> None:
        self.info_file.unlink(missing_ok=True)

    def read_keys(self) -> dict[str, str]:
        """The demo keys' texts by name; empty on the first start."""
        return {name: text for name, text in self._read("keys.json").items() if isinstance(text, str)}

    def write_keys(self, keys: dict[str, str]) -> None:
        write_private(self.path / "keys.json", json.dumps(keys, indent=2) + "\n")

    def encryption_key(self) -> str:
        """The key that seals what is stored in this directory's database."""
        file = self.path / KEY_FILE
        if not file.exists():
            write_private(file, new_key() + "\n")
        return file.read_text(encoding="ascii").strip()

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text())
        except (OSError, ValueError):  # what we cannot read we write anew
            return {}
        return found if isinstance(found, dict) else {}


def _pids(lock: int) -> list[int]:
    """What the lock file says: the process id of its last owner, then of its guards."""
    return [int(word) for word in os.pread(lock, 4096, 0).split() if word.isdigit()]


def _is_guard(pid: int) -> bool:
    """True if the process is there and a guard; after a reboot the number is somebody else's."""
    try:
        return b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
