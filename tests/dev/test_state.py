"""The state directory: one supervisor at a time, nothing for others to read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from config.encryption import decode_keys
from tollgate.commands import UserError
from tollgate.dev.state import StateDirectory


def test_a_second_supervisor_is_told_who_has_it(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path / "state")
    state.begin()
    with pytest.raises(UserError, match=rf"in use by another `tollgate dev` \(process {os.getpid()}\).*--state-dir"):
        StateDirectory.open(tmp_path / "state")
    state.close()
    StateDirectory.open(tmp_path / "state").close()


def test_a_killed_supervisor_does_not_keep_it(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path; from tollgate.dev.state import StateDirectory; import os, time
state = StateDirectory.open(Path({str(tmp_path)!r})); print(flush=True); time.sleep(600)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.kill()
    StateDirectory.open(tmp_path).close()


def test_a_place_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="as the state directory"):
        StateDirectory.open(tmp_path / "file")


def test_what_is_written_is_private(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path / "state")
    state.write_info({"keys": 1})
    state.write_keys({"secret": "sk"})
    state.close()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    for file in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_keys_are_read_back_and_a_broken_file_counts_as_none(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path)
    assert state.read_keys() == {}
    state.write_keys({"secret": "sk"})
    assert state.read_keys() == {"secret": "sk"}
    (tmp_path / "keys.json").write_text("[")
    assert state.read_keys() == {}
    state.close()


def test_a_new_owner_waits_for_what_a_killed_one_left(tmp_path: Path) -> None:
    first = StateDirectory.open(tmp_path)
    with subprocess.Popen(["sh", "-c", "read _; : guard.py"], stdin=subprocess.PIPE) as guard:
        assert guard.stdin is not None
        first.note_children([os.getppid(), guard.pid])  # the first number is somebody else's by now
        first.write_info({})
        first.close()

        second = StateDirectory.open(tmp_path)
        ending = threading.Timer(0.3, guard.stdin.close)
        ending.start()
        second.begin()
        assert guard.stdin.closed, "it did not wait"
        ending.join()
    assert not second.info_file.exists()
    second.close()


def test_the_encryption_key_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path)
    key = state.encryption_key()
    assert len(decode_keys(key)) == 1
    assert state.encryption_key() == key
    assert stat.S_IMODE((tmp_path / "encryption.key").stat().st_mode) == 0o600
    state.close()
