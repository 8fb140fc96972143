"""What `tollgate doctor` says of the code runner: here, where a sandbox is running, and where something is missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import SandboxSettings
from sandbox.backends.docker.engine import EngineFacts
from sandbox.backends.jail.cgroups import Layout
from sandbox.survey import Cgroups, Program, Survey, controllers_of, forbidden_by
from tests.sandbox.service import service, settings
from tests.sandbox.traces import UID_BASE, Traces
from tollgate.dev.server import free_port
from tollgate.doctor.findings import Status
from tollgate.doctor.runner import Seen, install, judge, look

GOOD = Survey(
    system="debian",
    kernel="6.1.0",
    is_root=True,
    bubblewrap=Program("/usr/bin/bwrap", "0.8.0"),
    python=Program("/usr/bin/python3", "3.11.2"),
    node=Program("/usr/bin/node", "20.1.0"),
    npm=None,
    cgroups=Cgroups("v2", ("memory", "pids", "cpu"), (), True),
    user_namespaces="allowed",
    engine=None,
)
ENGINE = EngineFacts("unix:///x", "28.0", "cgroupfs", ("runc",), "1.3.3", True, True)


def told(machine: Survey, backend: str | None = "jail", **given: Any) -> dict[str, tuple[str, str, str]]:
    """Findings by their short name: status, detail, advice."""
    seen = Seen(backend, {"jail": "a reason"}, machine.as_json(), False, given.pop("is_wanted", True))
    found = judge(seen, SandboxSettings(**given))
    return {f.name.removeprefix("sandbox."): (f.status.value, f.detail, f.advice) for f in found}


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_this_machine_is_put_to_the_self_test_and_left_as_it_was() -> None:
    before = Traces.take()
    found = {f.name: f for f in await look(SandboxSettings(port=free_port(), uid_base=UID_BASE))}
    assert found["sandbox.backend"].status is Status.OK
    assert "jail: passed its self-test" in found["sandbox.backend"].detail
    assert found["sandbox.bubblewrap"].detail.startswith("/usr/bin/bwrap, version ")
    assert Traces.take().beyond(before) == []


async def test_a_running_sandbox_speaks_for_itself(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollgate.doctor.runner.candidates", lambda settings: pytest.fail("it was asked already"))
    async with service(empty_postgres_url, warm_node=0) as asker:
        port = int(asker.url.rpartition(":")[2])
        found = {f.name: f for f in await look(settings(empty_postgres_url, port=port).sandbox)}
        assert "the running sandbox runs code in jail" in found["sandbox.backend"].detail
        _, ready, _ = await asker.ask("GET", "/ready")
        assert ready["machine"]["cgroups"]["missing"] == []
        assert ready["machine"]["bubblewrap"]["version"]


async def test_a_sandbox_that_is_set_up_and_cannot_run_code_is_wrong(tmp_path: Path, empty_postgres_url: str) -> None:
    nothing = {"bwrap": tmp_path / "none", "backend": "jail", "port": free_port()}
    found = {f.name: f for f in await look(settings(empty_postgres_url, **nothing).sandbox)}
    assert found["sandbox.backend"].status is Status.FAIL
    assert found["sandbox.bubblewrap"].advice.endswith("bubblewrap")


def test_a_machine_that_has_everything() -> None:
    assert {status for status, _, _ in told(GOOD).values()} == {"ok"}


def test_what_is_missing_comes_with_the_command_that_installs_it() -> None:
    assert told(replace(GOOD, bubblewrap=None), None)["bubblewrap"][2] == "apt install bubblewrap"
    assert told(replace(GOOD, bubblewrap=None, system="fedora"), None)["bubblewrap"][2] == "dnf install bubblewrap"
    assert told(replace(GOOD, node=None, system="alpine"))["languages"][2] == "apk add nodejs"
    assert told(GOOD, node_registry="https://registry")["languages"][2] == "apt install npm"
    assert told(GOOD, None)["docker"][2] == "apt install docker.io && systemctl start docker"
    assert install("ubuntu debian", "docker") == "apt install docker.io"
    assert install("rocky rhel centos fedora", "npm") == "dnf install npm"
    assert install("opensuse-leap suse", "node") == "zypper install nodejs"
    assert install("", "bubblewrap") == "install bubblewrap"


@pytest.mark.parametrize("switch", ["kernel/unprivileged_userns_clone", "user/max_user_namespaces"])
def test_user_namespaces_that_are_forbidden(switch: str) -> None:
    names = ("kernel/unprivileged_userns_clone", "user/max_user_namespaces")
    free = dict.fromkeys((*names, "kernel/apparmor_restrict_unprivileged_userns"), "")
    assert forbidden_by(free) is None
    why = forbidden_by({**free, switch: "0"})
    assert why == switch.replace("/", ".") + "=0"
    found = told(replace(GOOD, user_namespaces=why), None)
    assert found["user_namespaces"][0] == "warn"
    assert found["user_namespaces"][2].startswith(f"sysctl -w {switch.replace('/', '.')}=")
    assert told(replace(GOOD, user_namespaces=why), "docker")["user_namespaces"][0] == "ok"
    apparmor = forbidden_by({**free, "kernel/apparmor_restrict_unprivileged_userns": "1"})
    assert apparmor is not None
    assert "/etc/apparmor.d/bwrap" in told(replace(GOOD, user_namespaces=apparmor))["user_namespaces"][2]


def test_cgroups_of_every_kind() -> None:
    v2 = controllers_of(Layout({}, Path("/x"), is_v2=True), ["cpu", "pids"], True)
    assert (v2.version, v2.missing) == ("v2", ("memory",))
    assert "Delegate=yes" in told(replace(GOOD, cgroups=v2))["cgroups"][2]
    hybrid = controllers_of(Layout({"memory": Path("/m")}, Path("/u"), is_v2=False), [], True)
    assert (hybrid.version, hybrid.missing) == ("v1+v2", ())
    assert controllers_of(Layout({}, None, is_v2=False), [], True).version == "v1"
    assert told(replace(GOOD, cgroups=replace(v2, missing=(), is_writable=False)))["cgroups"][0] == "warn"
    assert "mount -t cgroup2" in told(replace(GOOD, cgroups=Cgroups("none")))["cgroups"][2]


def test_an_engine_is_judged_where_it_is_needed() -> None:
    bad = replace(ENGINE, cgroup_driver="systemd", has_image=False, has_seccomp=False)
    status, detail, advice = told(replace(GOOD, engine=bad), "docker", docker_runtime="runsc")["docker"]
    assert status == "warn"
    for what in (
        "cgroup driver systemd",
        "no image tollgate-sandbox",
        "no seccomp",
        "no runtime runsc",
        "gVisor not inst",
    ):
        assert what in detail
    for what in ("native.cgroupdriver=cgroupfs", "python -m sandbox.backends.docker.image", "runsc install"):
        assert what in advice
    assert told(replace(GOOD, engine=bad))["docker"][0] == "ok"  # the jail is used
    fine = replace(ENGINE, runtimes=("runc", "runsc"))
    assert told(replace(GOOD, engine=fine), "docker", docker_runtime="runsc")["docker"][:1] == ("ok",)
    assert "gVisor there" in told(replace(GOOD, engine=fine))["docker"][1]


def test_no_backend_is_an_error_only_where_a_sandbox_is_set_up() -> None:
    assert told(GOOD, None)["backend"][0] == "fail"
    assert told(GOOD, None, is_wanted=False)["backend"][0] == "warn"
