"""docker-compose.yml: what can be checked of it without a container engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.load import load
from tollgate.cli import COMMANDS

REPOSITORY = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "tollgate"]


def test_the_stack_is_complete() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "gateway", "admin", "worker"}


@pytest.mark.parametrize("name", OURS)
def test_each_of_our_services_runs_a_command_with_settings_that_exist(name: str) -> None:
    service = SERVICES[name]
    assert service["command"][0] in dict(COMMANDS)
    environ = {key: re.sub(r"\$\{\w+:\?[^}]*\}", "x", value) for key, value in service["environment"].items()}
    environ = {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in environ.items()}
    settings = load(None, environ, {}).settings
    assert settings.postgres_url is not None
    assert settings.redis_url is not None


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
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
