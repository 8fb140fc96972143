"""The attack battery, further: using up what the kernel keeps outside a program's own memory, and what others need too."""

from __future__ import annotations

import os

import psutil
import pytest

from sandbox.backends.base import Backend
from sandbox.nouns import Limits, Reason
from tests.sandbox.runs import python, says
from tests.sandbox.test_attacks import TRY, still_works

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_many_spinning_processes_get_one_cpu(backend: Backend) -> None:
    """A run has `cpus` of the machine, however many processes it is."""
    code = """
        import os, time
        for _ in range(7):
            if os.fork() == 0:
                while True: pass
        time.sleep(1)
    """
    ended = await python(backend, code)
    assert ended.exit_code == 0
    assert ended.usage.cpu_ms <= ended.usage.duration_ms * 1.1 + 100  # 100 ms: the period in which a quota is counted
    await still_works(backend)


async def test_the_page_cache_is_given_back_not_taken(backend: Backend) -> None:
    """Files of the system read again and again are cached at the run's own cost, within its limit, and kill nobody."""
    code = """
        import os
        total = 0
        for folder, _, names in os.walk("/usr/lib"):
            for name in names:
                try: descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                except OSError: continue
                while data := os.read(descriptor, 1 << 20): total += len(data)
                os.close(descriptor)
                if total > 150 << 20: print("read"); raise SystemExit
        print("read")
    """
    ended = await python(backend, code, limits=Limits(60_000, memory_mb=48))
    assert (ended.exit_code, ended.stdout) == (0, b"read\n"), ended.stderr[-500:]
    assert ended.usage.memory_mb <= 49
    await still_works(backend)


HIDDEN = {
    "pipes": """
        import fcntl, os
        held = []
        while True:
            held.append(os.pipe()); fcntl.fcntl(held[-1][1], 1031, 1 << 20)
            os.write(held[-1][1], bytes(1 << 20))
    """,
    "sockets": """
        import socket
        held = []
        while True:
            pair = socket.socketpair(); held.append(pair)
            pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24); pair[0].setblocking(False)
            try:
                while True: pair[0].send(bytes(65536))
            except BlockingIOError: pass
    """,
    "System V memory": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        while True:
            made = libc.shmget(0, 8 << 20, 0o1600)
            where = libc.shmat(made, None, 0)
            if made < 0 or where in (None, 2**64 - 1): raise OSError(ctypes.get_errno(), "no more")
            ctypes.memset(where, 1, 8 << 20)
    """,
    "page tables": """
        import mmap
        held = []
        while True:
            m = mmap.mmap(-1, 1 << 34, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000); held.append(m)
            for at in range(0, 1 << 34, 1 << 21): m[at] = 1
    """,
    "epolls and timers": """
        import ctypes, select
        held = []
        while True: held.append(select.epoll())
    """,
}


@pytest.mark.parametrize("what", HIDDEN)
async def test_memory_of_the_kernel_is_the_runs_own(backend: Backend, what: str) -> None:
    """What the kernel holds for a run ends with it, and is either counted against its limit or refused."""
    before = psutil.virtual_memory().available
    ended = await python(backend, HIDDEN[what], limits=Limits(timeout_ms=4_000, memory_mb=48))
    assert ended.exit_code != 0, ended
    assert ended.usage.memory_mb <= 49
    await still_works(backend)
    assert psutil.virtual_memory().available > before - (700 << 20)


async def test_descriptors_run_out_inside_only(backend: Backend) -> None:
    ours = len(os.listdir("/proc/self/fd"))
    found = await says(
        backend,
        """
        import os, resource
        held = []
        try:
            while True: held.append(os.dup(0))
        except OSError as error: print(error.errno == 24, len(held) <= 1024)
        os.closerange(3, 4096)
        for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
            hard = resource.getrlimit(what)[1]
            try: resource.setrlimit(what, (hard + 1, hard + 1)); print("raised")
            except (ValueError, OSError): print("stays")
        """,
    )
    assert found.splitlines() == ["True True", "stays", "stays", "stays"]
    await still_works(backend)
    assert len(os.listdir("/proc/self/fd")) <= ours + 16  # warm guests come and go


async def test_what_one_user_may_have_is_there_again_for_the_next_run(backend: Backend) -> None:
    """inotify instances are counted for a user of the machine; a later run may be the same user."""
    code = (
        TRY
        + """
made = 0
while libc.inotify_init() >= 0: made += 1
print(made > 0)
"""
    )
    for _ in range(3):
        assert await says(backend, code) == "True"


async def test_locks_and_sleepers_end_with_the_run(backend: Backend) -> None:
    code = """
        import fcntl, os, signal, threading, time
        for _ in range(10):
            if os.fork() == 0:
                signal.alarm(3600)
                file = open(f"/tmp/{os.getpid()}", "w"); fcntl.flock(file, fcntl.LOCK_EX)
                threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()
                os.setpriority(os.PRIO_PROCESS, 0, 19)
                time.sleep(3600)
        time.sleep(60)
    """
    ended = await python(backend, code, limits=Limits(timeout_ms=400))
    assert ended.reason is Reason.TIMEOUT
    await still_works(backend)
