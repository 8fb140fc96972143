"""The attack battery, further: ways to what belongs to the machine, to the service or to other runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox.backends.base import Backend, Handle
from sandbox.nouns import Limits, Reason
from tests.sandbox.runs import job, node, python, says
from tests.sandbox.test_attacks import TRY, still_works
from tests.sandbox.traces import UIDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def layer() -> Iterator[Path]:
    """A layer of packages, as runs are given them."""
    folder = Path("/var/tmp") / f"tollgate-test-layer-{os.getpid()}"
    (folder / "sub").mkdir(parents=True)
    (folder / "node_modules").mkdir()
    (folder / "shared.py").write_text("WORD = 'as it was'\n")
    (folder / "sub" / "x").write_text("x")
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()


async def test_packages_cannot_be_changed(backend: Backend, layer: Path) -> None:
    """They are shared by all runs that ask for the same: a change would run in somebody else's run."""
    before = {path: (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in layer.rglob("*")}
    found = await says(
        backend,
        TRY
        + """
import shared
print(shared.WORD)
tries = (
    lambda: open("/pkgs/shared.py", "w"), lambda: open("/pkgs/new", "w"), lambda: os.unlink("/pkgs/shared.py"),
    lambda: os.rename("/pkgs/shared.py", "/pkgs/other"), lambda: os.rename("/pkgs/sub", "/tmp/sub"),
    lambda: os.chmod("/pkgs/shared.py", 0o777), lambda: os.utime("/pkgs/shared.py"), lambda: os.mkdir("/pkgs/d"),
    lambda: os.symlink("/etc", "/pkgs/l"), lambda: os.link("/pkgs/shared.py", "/workspace/hard"),
    lambda: os.truncate("/pkgs/shared.py", 0), lambda: os.setxattr("/pkgs/shared.py", "user.x", b"y"),
    lambda: os.open("/pkgs", os.O_TMPFILE | os.O_RDWR),
    lambda: os.open(f"/proc/self/fd/{os.open('/pkgs/shared.py', os.O_RDONLY)}", os.O_RDWR),
)
print([number for number, each in enumerate(tries) if attempt(each) == "ok"])
import mmap
file = os.open("/pkgs/shared.py", os.O_RDONLY)
try: mmap.mmap(file, 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)[0] = 0
except OSError: print("no mapping")
print(attempt(os.listdir, "/pkgs/.."))
""",
        layer=str(layer),
    )
    assert found.splitlines()[:3] == ["as it was", "[]", "no mapping"]
    after = {path: (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in layer.rglob("*")}
    assert after == before
    ended = await node(backend, "require('fs').writeFileSync('/node_modules/x.js', '')", layer=str(layer))
    assert b"EROFS" in ended.stderr
    await still_works(backend)


async def test_the_way_through_descriptors_and_pid_1(backend: Backend, marker: Path) -> None:
    """runc's CVE-2024-21626 and 2019-5736, and their kin: a leaked directory, the runtime's own program, its root."""
    found = await says(
        backend,
        TRY
        + f"""
marker = {str(marker)!r}
for pid in ("self", "1"):
    for name in ("cwd", "root"):
        for up in ("", "/..", "/../../../../../../.."):
            if os.path.exists(f"/proc/{{pid}}/{{name}}{{up}}{{marker}}"): print("found the host by", pid, name, up)
    for fd in os.listdir(f"/proc/{{pid}}/fd"):
        path = f"/proc/{{pid}}/fd/{{fd}}"
        for up in ("", "/..", "/../../../../../../.."):
            if os.path.exists(path + up + marker): print("found the host by descriptor", fd)
        try: kind = os.readlink(path)
        except OSError: continue
        if not kind.startswith(("pipe:", "socket:", "/dev/null", "anon_inode:", f"/proc/")): print("open:", pid, fd, kind)
for pid in ("self", "1"):
    for how in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        if attempt(os.open, f"/proc/{{pid}}/exe", how) == "ok": print("writable program", pid)
for name in ("mem", "environ", "auxv", "attr/current", "setgroups", "uid_map"):
    try: os.write(os.open(f"/proc/1/{{name}}", os.O_WRONLY), b"0"); print("wrote", name)
    except OSError: pass
print("end")
""",
    )
    assert found == "end"
    assert marker.read_text() == "untouched"
    await still_works(backend)


async def test_devices_cannot_be_made_or_opened(backend: Backend) -> None:
    found = await says(
        backend,
        TRY
        + """
import stat
kinds = (stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 229)
for place in ("/workspace", "/tmp", "/dev/shm", "/workspace/out"):
    for kind, major, minor in kinds:
        path = f"{place}/device"
        made = attempt(os.mknod, path, kind | 0o666, os.makedev(major, minor))
        if made == "ok" and attempt(os.open, path, os.O_RDWR) == "ok": print("device", place, major, minor)
        if os.path.lexists(path): os.unlink(path)
known = {"null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm", "tty", "pts", "ptmx"}
print(sorted(set(os.listdir("/dev")) - known - {"mqueue", "core", "console"}))
print(*[attempt(os.open, f"/dev/{name}", os.O_RDWR) for name in ("fuse", "kvm", "net/tun")])
""",
    )
    assert found.splitlines() == ["[]", "ENOENT ENOENT ENOENT"]


async def test_nothing_of_sys_can_be_changed(backend: Backend) -> None:
    """Above all not the run's own limits."""
    found = await says(
        backend,
        """
        import os
        written = []
        for top in ("/sys", "/proc/sys"):
            for folder, _, names in os.walk(top):
                for name in names:
                    path = os.path.join(folder, name)
                    try:
                        before = os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 4096)
                        os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), before)
                        written.append(path)
                    except OSError: pass
        for name in ("cgroup.procs", "memory.max", "pids.max", "memory/memory.limit_in_bytes", "release_agent"):
            for base in ("/sys/fs/cgroup", "/proc/self/cgroup"):
                try: open(os.path.join(base, name), "w").write("max"); written.append(name)
                except OSError: pass
        print(written)
        """,
    )
    assert found == "[]"


async def test_a_signal_to_everybody_reaches_only_the_run(backend: Backend) -> None:
    up, handle = asyncio.Event(), Handle()
    waiting = job("print(1, flush=True)\ntry: input()\nexcept EOFError: pass\nimport time; time.sleep(60)")
    other = asyncio.create_task(backend.run(waiting, handle, lambda stream, data: up.set()))
    await up.wait()
    for code in (
        "os.kill(-1, 9)",
        "os.kill(0, 9)",
        "os.killpg(os.getpgid(1) or 1, 9)",
        "[os.kill(p, 9) for p in range(2, 5000)]",
    ):
        ended = await python(backend, f"import os\ntry: {code}\nexcept OSError: pass\nos.kill(os.getpid(), 9)")
        assert ended.exit_code in (137, 0), code
    assert not other.done()
    handle.stop()
    assert (await other).reason is Reason.STOPPED
    await still_works(backend)


async def test_runs_side_by_side_are_different_users(backend: Backend) -> None:
    """Seen from the machine; where all are one user (containers), they differ in their namespaces."""
    if backend.name == "docker":
        pytest.skip("containers are kept apart by the Engine's namespaces; their user is the image's")
    up = [asyncio.Event() for _ in range(3)]
    handles = [Handle() for _ in up]
    runs = [
        asyncio.create_task(
            backend.run(job("print(1, flush=True)\nimport time; time.sleep(60)"), h, lambda s, d, e=e: e.set())
        )
        for e, h in zip(up, handles, strict=True)
    ]
    for event in up:
        await event.wait()
    users: dict[int, set[int]] = {}
    for process in psutil.process_iter():
        try:
            uid, inside = process.uids().real, os.readlink(f"/proc/{process.pid}/ns/pid")
        except (psutil.Error, OSError):
            continue
        if uid in UIDS:
            users.setdefault(uid, set()).add(inside)
    for handle in handles:
        handle.stop()
    ended = await asyncio.gather(*runs)
    assert [each.reason for each in ended] == [Reason.STOPPED] * 3
    assert len(users) >= 3
    assert all(len(found) <= 2 for found in users.values()), users  # bwrap itself is in the machine's


async def test_a_user_that_is_used_again_finds_nothing(backend: Backend) -> None:
    """More runs than there are users: each of them leaves what it can, and looks for what others of its user left."""
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        ours, left = {"/workspace/main.py", "/workspace/out"}, []
        for top in ("/tmp", "/dev/shm", "/var/tmp", "/workspace", "/run", "/dev/mqueue"):
            for folder, folders, names in os.walk(top):
                paths = {os.path.join(folder, name) for name in names + folders} - ours
                left += [path for path in paths if os.lstat(path).st_uid == os.getuid()]
        for kind in ("shm", "sem", "msg"): left += open(f"/proc/sysvipc/{kind}").read().splitlines()[1:]
        left += set(filter(str.isdigit, os.listdir("/proc"))) - {"1", str(os.getpid())}
        print(left)
        for place in ("/tmp/x", "/dev/shm/x", "/var/tmp/x", "/workspace/x"):
            try: open(place, "w").write("left")
            except OSError: pass
        libc.shmget(1, 4096, 0o1666)
        if os.fork() == 0:
            os.setsid(); import time; time.sleep(60)
    """
    for _ in range(4):
        assert await asyncio.gather(*(says(backend, code) for _ in range(2))) == ["[]", "[]"]


async def test_deep_and_odd_names_are_no_trouble_outside(backend: Backend) -> None:
    """Paths longer than PATH_MAX, names that are no text, and loops, under what is brought back."""
    code = """
        import os
        os.chdir("out")
        for n in range(2000): os.mkdir("d" * 100); os.chdir("d" * 100)
        open("deep", "w").write("x")
        os.chdir("/workspace/out")
        for name in (b"\\x01\\x02", b"a\\nb", "\\u202e".encode(), b"-rf", b"..x", b"%s%n", b"x" * 255):
            open(name, "w").write("y")
        os.symlink("..", "up"); os.symlink("/workspace/out", "again")
    """
    began = time.monotonic()
    ended = await python(backend, code, limits=Limits(timeout_ms=20_000))
    assert ended.exit_code == 0, ended.stderr[-500:]
    assert time.monotonic() - began < 20
    assert {a.content for a in ended.artifacts} <= {b"x", b"y"}
    assert {"-rf", "..x", "%s%n"} <= {a.path for a in ended.artifacts}
    assert not any(a.path.startswith("/") or ".." in a.path.split("/") for a in ended.artifacts)
    await still_works(backend)


async def test_the_guests_own_files_tell_nothing(backend: Backend) -> None:
    """What of ours lies in a jail: the guest's program, and nothing with a secret, an address or a path of the machine."""
    found = await says(
        backend,
        """
        import os
        text = b""
        for top in ("/run/guest", "/etc"):
            for folder, _, names in os.walk(top):
                for name in names:
                    try: text += open(os.path.join(folder, name), "rb").read(200_000)
                    except OSError: pass
        words = (b"postgres", b"redis:", b"TOLLGATE_", b"X-Tollgate", b"/home/", b"BEGIN PRIVATE")
        print([word for word in words if word in text])
        """,
    )
    assert found == "[]"


async def test_a_run_that_looks_like_the_guest_is_not_believed(backend: Backend) -> None:
    """Output that has the form of a result, on either stream, stays output."""
    fake = "0" * 32 + " exit 0"
    ended = await python(
        backend, f"import os\nos.write(2, b'\\x06'); os.write(2, {fake.encode()!r}); os.write(1, b'\\x06'); os._exit(9)"
    )
    assert (ended.exit_code, ended.stdout) == (9, b"\x06")
    assert ended.stderr == b"\x06" + fake.encode()
