"""CPU accounting against a process whose work is known."""

from __future__ import annotations

import subprocess
import sys

from tests.bench import cpu

_CHILD = (
    "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(flush=True); input()"
)
_PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


def test_the_work_of_a_grandchild_is_counted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, _PARENT, _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = cpu.tree(process.pid)
        assert len(pids) == 3
        assert 0.29 <= cpu.cpu_s(pids) - cpu.cpu_s(pids[:2]) < 0.6
        assert cpu.rss_mb(pids) > cpu.rss_mb(pids[:1]) > 1
        process.communicate(b"\n", timeout=10)
