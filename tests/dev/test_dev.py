"""`tollgate dev` as its user meets it: starts, second starts, deaths, restarts, ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.dev import Dev, dev_once
from tests.support.processes import eventually, runs
from tests.support.servers import quick_directory

pytestmark = [pytest.mark.xdist_group("dev"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shared() -> Iterator[Dev]:
    """One stack for the tests that leave it as they found it."""
    folder = quick_directory("dev")
    dev = Dev(folder, "--workers", "2").wait_until_up()
    yield dev
    dev.child.stop()
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = quick_directory("dev")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Dev]]:
    """Starts a stack in `folder`; whatever still runs at the end is stopped."""
    started: list[Dev] = []

    def start(*arguments: str, **settings: str) -> Dev:
        started.append(Dev(folder, *arguments, **settings))
        return started[-1]

    yield start
    for dev in started:
        dev.child.stop()


def gone(pids: list[int]) -> bool:
    return not any(map(runs, pids))


def test_it_runs_what_it_says(shared: Dev) -> None:
    status, body = shared.get("/demo/hello")
    assert (status, len(body)) == (200, 1024)
    pids = shared.info["pids"]
    assert len(pids["gateway"]) == 3  # the parent and its two workers
    everybody = [*pids["gateway"], *pids["admin"], *pids["worker"], pids["postgres"], pids["redis"]]
    assert set(everybody) <= set(shared.family())


def test_no_secret_is_on_a_command_line(shared: Dev) -> None:
    info, lines = shared.info, shared.command_lines()
    assert info["pids"]["postgres"]
    for secret in (*info["keys"].values(), info["postgres"].split("@")[0], info["redis"].split("@")[0]):
        assert secret.rpartition(":")[2] not in lines


def test_a_second_start_is_told_who_runs(shared: Dev) -> None:
    done = dev_once("--state-dir", str(shared.state))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"in use by another `tollgate dev` (process {shared.child.pid})" in line
    assert shared.get("/demo/hello")[0] == 200


def test_a_busy_port_is_named_and_nothing_is_left(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = dev_once("--state-dir", str(folder / "state"), "--gateway-port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"port {port} (gateway.port) is in use" in line
    assert {path.name for path in (folder / "state").iterdir()} == {"lock"}


@pytest.mark.parametrize("name", ["gateway", "admin", "worker", "postgres", "redis"])
def test_what_is_killed_comes_back(shared: Dev, name: str) -> None:
    def first() -> int:
        pids = shared.info["pids"][name]
        return int(pids[0] if isinstance(pids, list) else pids)

    before = first()
    os.kill(before, signal.SIGKILL)
    eventually(lambda: first() != before and runs(first()), within_s=30, what=f"the restart of {name}")
    eventually(lambda: shared.get("/demo/hello")[0] == 200, within_s=30, what="an answer")


async def test_data_and_keys_survive_a_stop_and_a_kill(start: Callable[..., Dev]) -> None:
    first = start().wait_until_up()
    known, everybody = first.info, first.family()
    connection = await asyncpg.connect(known["postgres"])
    await connection.execute("CREATE TABLE note AS SELECT 'kept' AS text")
    await connection.close()
    assert first.child.stop() == 0
    assert gone(everybody)
    assert not (first.state / "dev.json").exists()

    second = start().wait_until_up()
    assert [second.info[name] for name in ("keys", "project", "customer")] == [
        known[name] for name in ("keys", "project", "customer")
    ]
    assert second.get("/demo/hello")[0] == 200
    everybody = second.family()
    os.kill(second.child.pid, signal.SIGKILL)
    eventually(lambda: gone(everybody), what="the end of all children")
    assert not (second.state / "dev.json").exists()

    third = start().wait_until_up()
    assert third.info["keys"] == known["keys"]
    connection = await asyncpg.connect(third.info["postgres"])
    assert await connection.fetchval("SELECT text FROM note") == "kept"
    await connection.close()


def test_a_start_right_after_a_kill_waits_for_what_still_ends(start: Callable[..., Dev]) -> None:
    first = start("--no-demo").wait_until_up()
    ports = [first.info[plane].rpartition(":")[2] for plane in ("gateway", "admin")]
    os.kill(first.child.pid, signal.SIGKILL)
    eventually(lambda: not (first.state / "dev.json").exists(), what="the end of dev.json")
    start("--no-demo", "--gateway-port", ports[0], "--admin-port", ports[1]).wait_until_up()


def test_servers_of_ones_own_are_used_instead(start: Callable[..., Dev], postgres_url: str, redis_url: str) -> None:
    dev = start("--no-demo", TOLLGATE_POSTGRES_URL=postgres_url, TOLLGATE_REDIS_URL=redis_url).wait_until_up()
    info = dev.info
    assert (info["postgres"], info["redis"]) == (postgres_url, redis_url)
    assert (info["pids"]["postgres"], info["pids"]["redis"]) == (None, None)
    assert (info["project"], info["customer"], info["keys"]) == (None, None, None)
    assert not (dev.state / "postgres").exists()
    assert dev.child.stop() == 0


def test_a_declaration_is_applied_on_the_way_up(start: Callable[..., Dev], folder: Path) -> None:
    file = folder / "mine.yaml"
    file.write_text("version: 1\nprojects:\n  - name: Mine\n    tiers:\n      - {name: gold, default: true}\n")
    dev = start("--apply", str(file)).wait_until_up()
    assert dev.get("/demo/hello")[0] == 200
    assert dev.child.stop() == 0
    assert "Mine" in dev.output()


def test_a_declaration_that_is_wrong_ends_it_in_one_line_each(folder: Path) -> None:
    file = folder / "broken.yaml"
    file.write_text("version: 1\nprojects:\n  - nmae: Mine\n")
    done = dev_once("--state-dir", str(folder / "state"), "--no-demo", "--apply", str(file))
    assert done.returncode == 1
    assert f"{file}:3" in done.stderr
    assert done.stderr.splitlines()[-1] == f"tollgate: --apply {file} failed, see above"
    assert "Traceback" not in done.stderr


async def test_a_demo_that_is_refused_says_why_and_what_helps(
    folder: Path, postgres_url: str, redis_url: str, pg: asyncpg.Connection
) -> None:
    await pg.execute("INSERT INTO upstreams VALUES ('ups_mine', 'prj_platform', 'mine', '{}')")
    await pg.execute(
        "INSERT INTO routes (id, project_id, name, upstream_id, path, spec)"
        " VALUES ('rte_mine', 'prj_platform', 'mine', 'ups_mine', '/demo/*', '{}')"
    )
    servers = {"TOLLGATE_POSTGRES_URL": postgres_url, "TOLLGATE_REDIS_URL": redis_url}
    done = await asyncio.to_thread(dev_once, "--state-dir", str(folder / "state"), **servers)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tollgate: the demo project cannot be made: ")
    assert done.stderr.endswith("; --no-demo does without it\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_on_the_way_up_stops_what_runs_already(start: Callable[..., Dev], signum: signal.Signals) -> None:
    dev = start()
    eventually(lambda: (dev.state / "postgres" / "data" / "postmaster.pid").exists(), what="the start of postgres")
    everybody = dev.family()
    os.kill(dev.child.pid, signum)
    assert dev.child.wait() == 0
    assert gone(everybody)
    assert not (dev.state / "dev.json").exists()
