"""The guard: nothing it starts outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import eventually, family, runs
from tollgate.dev.child import Child, spawn

pytestmark = pytest.mark.timeout(60)

SLEEP = ["sleep", "600"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"]


def spawn_stubborn(tmp_path: Path, grace_s: float, orphan_grace_s: float) -> Child:
    """A program that ignores SIGTERM, once it does."""
    with (tmp_path / "output").open("wb") as output:
        child = spawn(STUBBORN, name="stubborn", output=output, grace_s=grace_s, orphan_grace_s=orphan_grace_s)
    eventually(lambda: (tmp_path / "output").read_bytes())
    return child


@pytest.mark.parametrize(
    ("program", "status"),
    [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -KILL $$"], 137), (["/no/such/program"], 127)],
)
def test_the_status_of_the_program_is_passed_on(program: list[str], status: int) -> None:
    assert spawn(program, name="program", output=subprocess.DEVNULL).wait() == status


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        spawn(["/no/such/program"], name="program", output=output).wait()
    assert (tmp_path / "output").read_text() == "cannot run /no/such/program: No such file or directory\n"


def test_stopping_sends_the_stop_signal() -> None:
    assert spawn(SLEEP, name="sleep").stop() == 128 + signal.SIGTERM
    assert spawn(SLEEP, name="sleep", stop_signal="INT").stop() == 128 + signal.SIGINT


def test_a_stop_right_after_the_start_is_not_lost() -> None:
    for _ in range(20):
        assert spawn(SLEEP, name="sleep", grace_s=60).stop() == 128 + signal.SIGTERM


def test_stopping_twice_and_after_the_end_is_harmless() -> None:
    child = spawn(["true"], name="true")
    assert child.wait() == 0
    assert child.stop() == 0
    child.hurry()


def test_a_program_that_ignores_the_stop_signal_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = spawn_stubborn(tmp_path, grace_s=0.2, orphan_grace_s=60)
    started = time.monotonic()
    assert child.stop() == 128 + signal.SIGKILL
    assert 0.2 <= time.monotonic() - started < 10


def test_hurry_shortens_a_stop_that_has_begun(tmp_path: Path) -> None:
    child = spawn_stubborn(tmp_path, grace_s=60, orphan_grace_s=0.1)
    child.ask_to_stop()
    child.hurry()
    assert child.wait() == 128 + signal.SIGKILL


def test_what_the_program_leaves_in_its_group_is_killed_with_it(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        child = spawn(["sh", "-c", "sleep 600 & echo $!; wait"], name="parent", output=output)
    left = int(eventually(lambda: (tmp_path / "output").read_text().strip()))
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == 137
    eventually(lambda: not runs(left))


def test_children_of_a_killed_owner_are_stopped(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from tollgate.dev.child import spawn\n"
        f"a = spawn({SLEEP!r}, name='a'); b = spawn({STUBBORN!r}, name='b', output=-3, orphan_grace_s=0.3,"
        f" remove=Path({str(tmp_path / 'data')!r}), retract=Path({str(tmp_path / 'up')!r}))\n"
        "print(a.pid, b.pid, flush=True); time.sleep(600)"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").touch()
    (tmp_path / "up").touch()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        try:
            pids = [int(pid) for pid in owner.stdout.readline().split()]
            everybody = [*pids, *family(owner.pid)]
        finally:
            owner.kill()
    eventually(lambda: not any(map(runs, everybody)), what="the end of all children")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_program_does_not_even_outlive_its_guard() -> None:
    child = spawn(SLEEP, name="sleep")
    child.guard.kill()
    child.wait()
    eventually(lambda: not runs(child.pid))


def test_ctrl_c_in_the_terminal_does_not_reach_children() -> None:
    child = spawn(SLEEP, name="sleep")
    assert os.getsid(child.pid) != os.getsid(0)
    child.stop()


async def test_the_end_can_be_awaited() -> None:
    child = spawn(["sh", "-c", "exit 3"], name="short")
    assert await child.ended() == 3
