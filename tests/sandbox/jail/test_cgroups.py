"""Where cgroups are, on every kind of hierarchy, and what their files say. The real one of this machine is used by the
conformance suite; the others are directories that look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.backends.jail.cgroups import Group, Layout, Reading, Unusable, layout

V2 = "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 25 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
)
UNIFIED = "33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def test_v2() -> None:
    found = layout("0::/system.slice/tollgate.service\n", V2)
    assert found == Layout({}, Path("/sys/fs/cgroup/system.slice/tollgate.service"), is_v2=True)


def test_v2_in_a_container_that_sees_only_its_own_part() -> None:
    mounted = "25 20 0:22 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    assert layout("0::/docker/abc/inner\n", mounted).v2 == Path("/sys/fs/cgroup/inner")
    assert layout("0::/\n", V2).v2 == Path("/sys/fs/cgroup")


def test_v1_and_hybrid() -> None:
    own = "5:memory:/mine\n4:pids:/\n3:cpu,cpuacct:/a/b\n0::/\n"
    found = layout(own, V1 + UNIFIED)
    assert not found.is_v2
    assert found.v1["memory"] == Path("/sys/fs/cgroup/memory/mine")
    assert found.v1["cpu"] == found.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct/a/b")
    assert found.v2 == Path("/sys/fs/cgroup/unified")
    assert layout(own, V1).v2 is None


def test_none() -> None:
    with pytest.raises(Unusable, match="no cgroup file system"):
        layout("0::/\n", "1 0 0:1 / / rw - ext4 /dev/sda rw\n")


def test_what_v2_files_say(tmp_path: Path) -> None:
    group = Group("run", Layout({}, tmp_path, is_v2=True))
    group.make(pids=7, cpus=1.5)
    where = tmp_path / "run"
    assert (where / "pids.max").read_text() == "7"
    assert (where / "cpu.max").read_text() == "150000 100000"
    (where / "cpu.stat").write_text("usage_usec 1000\nuser_usec 1\n")
    (where / "cgroup.procs").write_text("4711\n")
    group.begin(64)
    assert (where / "memory.max").read_text() == "64"
    (where / "cpu.stat").write_text("usage_usec 5500\nuser_usec 1\n")
    (where / "memory.peak").write_text("4096\n")
    (where / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    (where / "pids.events").write_text("max 3\n")
    assert group.read() == Reading(cpu_us=4500, peak_bytes=4096, oom_kills=1, pids_refused=3)


def test_v2_before_linux_5_19_has_no_peak(tmp_path: Path) -> None:
    group = Group("run", Layout({}, tmp_path, is_v2=True))
    group.make(pids=7, cpus=1)
    where = tmp_path / "run"
    (where / "memory.peak").unlink(missing_ok=True)
    for name, text in (("cpu.stat", "usage_usec 1\n"), ("memory.current", "77\n"), ("memory.events", "oom_kill 0\n")):
        (where / name).write_text(text)
    (where / "pids.events").write_text("max 0\n")
    assert group.read().peak_bytes == 77


def test_a_guest_that_is_not_in_a_limited_group_gets_no_job(tmp_path: Path) -> None:
    trees = {name: tmp_path / name for name in ("memory", "pids", "cpu", "cpuacct")}
    for tree in trees.values():
        tree.mkdir()
    group = Group("run", Layout(trees, None, is_v2=False))
    group.make(pids=7, cpus=1)
    for name, tree in trees.items():
        (tree / "run" / "cgroup.procs").write_text("" if name == "memory" else "4711\n")
    (trees["cpuacct"] / "run" / "cpuacct.usage").write_text("1000\n")
    with pytest.raises(ProcessLookupError, match="memory group"):
        group.begin(64)
    (trees["memory"] / "run" / "container").mkdir()
    (trees["memory"] / "run" / "container" / "cgroup.procs").write_text("4711\n")
    group.begin(64)
