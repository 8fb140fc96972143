"""The spool on a real disk: order, bounds, kills, full disks, and who owns what is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.spool.disk import Spool, SpoolError, usable
from tests.support.gateway import until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def open_spool(root: Path, name: str = "gw-1", **options: Any) -> Spool:
    return Spool(root, name, **({"max_bytes": 1 << 20, "segment_bytes": 256, "fsync": "off"} | options))


def drained(spool: Spool, limit: int = 3) -> list[bytes]:
    """Everything in it, confirmed batch by batch."""
    found = []
    while batch := spool.peek(limit):
        found += [entry.payload for entry in batch]
        spool.confirm(len(batch))
    return found


def left_behind(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def test_what_goes_in_comes_out_in_order_and_once_and_leaves_nothing(root: Path) -> None:
    spool = open_spool(root)
    written = [f"record {n}".encode() for n in range(100)]
    for n in range(0, 100, 7):
        spool.append(written[n : n + 7])
    assert (spool.entries, spool.appended) == (100, 100)
    assert drained(spool) == written
    assert (spool.entries, spool.bytes, spool.is_empty) == (0, 0, True)
    spool.close()
    assert left_behind(root) == []


def test_a_batch_stays_the_same_until_it_is_confirmed(root: Path) -> None:
    spool = open_spool(root)
    spool.append([b"one", b"two"])
    first = spool.peek(1)
    assert spool.peek(1) == first
    spool.append([b"three"])
    numbers = []
    while batch := spool.peek(1):
        numbers.append((batch[0].spool == first[0].spool, batch[0].number, batch[0].payload))
        spool.confirm(1)
    assert numbers == [(True, 1, b"one"), (True, 2, b"two"), (True, 3, b"three")]
    spool.close()


def test_past_its_bound_it_is_full_and_has_room_again_when_it_is_drained(root: Path) -> None:
    spool = open_spool(root, max_bytes=300)
    spool.append([b"x" * 280])
    assert spool.is_full
    spool.append([b"of a request that was served already"])  # is taken all the same
    assert len(drained(spool)) == 2
    assert not spool.is_full
    spool.close()


def test_what_a_process_left_is_taken_over_by_the_next_once(root: Path) -> None:
    first = open_spool(root, "gw-1")
    first.append([b"one", b"two"])
    first.close()
    second, third = open_spool(root, "gw-2"), open_spool(root, "gw-3")
    assert (drained(second), drained(third)) == ([b"one", b"two"], [])
    second.close()
    third.close()
    assert left_behind(root) == []


def test_a_living_process_keeps_what_is_its_own(root: Path) -> None:
    first = open_spool(root, "gw-1")
    first.append([b"mine"])
    second = open_spool(root, "gw-2")
    assert second.adopt() == 0
    assert second.is_empty
    with pytest.raises(SpoolError):
        open_spool(root, "gw-1")
    assert drained(first) == [b"mine"]
    first.close()
    second.close()


def test_a_torn_tail_is_cut_off_and_kept_for_people(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = open_spool(root, segment_bytes=1 << 20)
    first.append([b"one", b"two"])
    first.close()
    [segment] = root.glob("gw-1/*.seg")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    second = open_spool(root, "gw-2")
    assert drained(second) == [b"one"]
    assert second.torn == 1
    assert "cut off" in caplog.text
    second.close()
    assert left_behind(root) == ["gw-1", "gw-1/00000001.torn", "gw-1/lock"]


WRITER = """
import itertools, sys
from pathlib import Path
from gateway.spool.disk import Spool
spool = Spool(Path(sys.argv[1]), "writer", max_bytes=1 << 30, fsync="off", segment_bytes=4096)
for n in itertools.count():
    spool.append([b"%d" % n])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_everything_that_append_returned_from_survives_a_kill(root: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    told = [writer.stdout.readline() for _ in range(500)]
    os.kill(writer.pid, signal.SIGKILL)
    told += [line for line in writer.stdout.readlines() if line.endswith(b"\n")]
    writer.wait()
    writer.stdout.close()
    spool = open_spool(root)
    numbers = [int(payload) for payload in drained(spool, 64)]
    assert numbers == list(range(len(numbers)))
    assert numbers[-1] >= int(told[-1])
    spool.close()
    assert left_behind(root) == []


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While its item is true, writes get through in half and then fail as on a full disk."""
    is_full = [False]
    write = os.write

    def half(fd: int, data: Any) -> int:
        if is_full[0] and len(data) > 1:
            return write(fd, bytes(data)[: len(data) // 2])
        if is_full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr("gateway.spool.disk.os.write", half)
    return is_full


def test_on_a_full_disk_nothing_of_a_batch_is_in_and_what_was_in_stays(root: Path, full_disk: list[bool]) -> None:
    spool = open_spool(root, segment_bytes=1 << 20)
    spool.append([b"before"])
    size = spool.bytes
    full_disk[0] = True
    with pytest.raises(SpoolError, match="No space"):
        spool.append([b"one", b"two"])
    assert (spool.is_full, spool.bytes, spool.entries) == (True, size, 1)
    full_disk[0] = False
    spool.append([b"after"])
    assert not spool.is_full
    assert drained(spool) == [b"before", b"after"]
    assert spool.torn == 0
    spool.close()


def test_a_full_disk_from_the_start_leaves_no_empty_segment(root: Path, full_disk: list[bool]) -> None:
    spool = open_spool(root)
    full_disk[0] = True
    with pytest.raises(SpoolError):
        spool.append([b"one"])
    assert left_behind(root) == ["gw-1", "gw-1/lock"]
    full_disk[0] = False
    spool.append([b"two"])
    assert drained(spool) == [b"two"]
    spool.close()


async def test_by_interval_it_is_synced_when_asked_and_not_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[float] = []
    monkeypatch.setattr("gateway.spool.disk.os.fdatasync", lambda fd: synced.append(time.monotonic()))
    spool = open_spool(root, fsync="interval", segment_bytes=1 << 20)
    spool.append([b"one"])
    assert synced == []
    spool.sync()
    await until(lambda: synced)
    spool.sync()  # nothing new
    assert len(synced) == 1
    drained(spool)
    spool.close()


def test_always_means_before_append_returns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("gateway.spool.disk.os.fdatasync", synced.append)
    spool = open_spool(root, fsync="always", segment_bytes=1 << 20)
    spool.append([b"one"])
    spool.append([b"two"])
    assert len(synced) == 2
    drained(spool)
    spool.close()


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"file.*: (Not a directory|File exists)"):
        usable(tmp_path / "file" / "spool")
    with pytest.raises(SpoolError):
        usable(tmp_path / "file")
